"""The benchmarks' plumbing: shapes, checks and files. Nothing is timed here that anybody would quote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu_adam
from benchmarks import __main__ as program
from benchmarks import (
    calls,
    check,
    clocks,
    contenders,
    cpu,
    goals,
    limit,
    others,
    overhead,
    plain,
    report,
    startup,
    timing,
    variants,
)
from benchmarks.cases import CASES, QUICK, Case, chosen, size_name
from benchmarks.libraries import Host
from benchmarks.place import CPU
from benchmarks.rules import RULES
from benchmarks.start import LIMIT, Contender, Start

TINY = Case("tiny", "list", ((3, 5), (), (0,), (17,)))
TINY_BFLOAT16 = Case("tiny-bfloat16", "list", ((3, 5), (17,)), "bfloat16")
# Of a norm that is clipped, which takes as many elements as the gradients are small.
LONG = ((300, 50), (), (0,), (5000,))
TINY_VARIANTS = [
    Case("tiny-clip", "list", LONG, variant="clip"),
    Case("tiny-average", "list", TINY.shapes, variant="average"),
    Case("tiny-scale", "list", TINY.shapes, variant="scale"),
    Case("tiny-rows", "single", ((40, 6),), variant="rows", rows=11),
]
TINY_OTHERS = [Case(f"tiny-{name}", "list", TINY.shapes, optimizer=name) for name in RULES if name != "adam"]


def made(start: Start) -> Iterator[Contender]:
    for entry in contenders.entries(start.case, CPU):
        yield from entry.make(start)


# Cases.


def test_the_lists_have_their_models_sizes() -> None:
    cases = {case.name: case for case in CASES}
    assert (len(cases["gpt2-124m"].shapes), cases["gpt2-124m"].elements) == (148, 124_439_808)
    assert (len(cases["resnet50"].shapes), cases["resnet50"].elements) == (161, 25_557_032)
    assert (len(cases["thousand"].shapes), cases["thousand"].elements) == (1000, 1_000_000)
    plain_singles = [case for case in CASES if case.kind == "single" and case.variant == "plain"]
    sizes = [case.elements for case in plain_singles if case.format == "float32" and case.optimizer == "adam"]
    assert sizes == [4**k for k in range(5, 14)]


def test_names_are_their_own() -> None:
    for cases in (CASES, QUICK):
        assert len({case.name for case in cases}) == len(cases)


def test_a_step_has_to_move_what_its_variant_adds() -> None:
    ideal = {case.name: case.ideal_bytes / case.elements for case in CASES}
    assert ideal["single-16Mi"] == ideal["gpt2-124m-bfloat16"] == 28
    assert ideal["clip-single-16Mi"] == ideal["scale-thousand"] == 32
    assert ideal["average-single-16Mi"] == 36
    assert ideal["rows-100000x256"] == 28 / 100


def test_a_step_has_to_move_the_states_that_its_optimizer_keeps() -> None:
    for name, size in {"sgd": 20, "adagrad": 20, "rmsprop": 20, "adamax": 28, "adadelta": 28, "nadam": 28}.items():
        for case in (one for cases in (CASES, QUICK) for one in cases if one.optimizer == name):
            assert case.ideal_bytes == size * case.elements


@pytest.mark.parametrize("case", TINY_OTHERS, ids=lambda case: case.name)
def test_optimizers_keep_as_many_states_as_is_said(case: Case) -> None:
    start = Start.of(case)
    optimizer = plain.bound(start, "cpu", Host(), pack=False)
    optimizer.step()
    kept = [one for one in optimizer.state_dict()["state"][0].values() if np.shape(one) == case.shapes[0]]
    assert len(kept) == RULES[case.optimizer].states


def test_every_optimizer_is_measured_at_both_sizes() -> None:
    for cases, names in ((CASES, ("single-16Mi", "thousand")), (QUICK, ("single-1Ki", "hundred"))):
        found = [case.name for case in cases if case.optimizer != "adam"]
        assert found == [f"{optimizer}-{name}" for optimizer in RULES if optimizer != "adam" for name in names]


def test_sizes_are_named_in_binary_units() -> None:
    assert [size_name(n) for n in (100, 1 << 10, 1 << 24)] == ["100", "1Ki", "16Mi"]


def test_cases_are_chosen_by_name() -> None:
    assert [case.name for case in chosen(CASES, ["resnet50", "single-1Ki"])] == ["single-1Ki", "resnet50"]
    assert chosen(CASES, []) == []
    with pytest.raises(ValueError, match=r"no case is called nosuch: use single-1Ki, "):
        chosen(CASES, ["nosuch"])


# Contenders.


@pytest.mark.parametrize("case", [TINY, TINY_BFLOAT16], ids=lambda case: case.name)
def test_every_contender_computes_adam(case: Case) -> None:
    start = Start.of(case)
    before = [p.copy() for p in start.params]
    labels = []
    for contender in made(start):
        check.check(contender, start)
        labels += contender.steps
    assert labels[0] == LIMIT
    assert {"GpuAdam cpu in place", "GpuAdam cpu packed", "NumPy"} < set(labels)
    for p, q in zip(start.params, before, strict=True):
        np.testing.assert_array_equal(p, q)  # nobody works on the start values themselves


@pytest.mark.parametrize("case", TINY_VARIANTS, ids=lambda case: case.name)
def test_every_contender_computes_what_is_added_to_adam(case: Case) -> None:
    start = Start.of(case)
    before = [a.copy() for a in (*start.params, *start.grads)]
    labels = []
    for contender in made(start):
        check.check(contender, start)
        labels += contender.steps
    assert labels[0] == LIMIT
    assert {"GpuAdam cpu in place", f"GpuAdam cpu in place, {variants.ADDED[case.variant]}"} < set(labels)
    for a, b in zip((*start.params, *start.grads), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", TINY_OTHERS, ids=lambda case: case.name)
def test_every_contender_computes_its_optimizer(case: Case) -> None:
    start = Start.of(case)
    before = [a.copy() for a in (*start.params, *start.grads)]
    labels = []
    for contender in made(start):
        check.check(contender, start)
        labels += contender.steps
    assert labels[:2] == [LIMIT, f"{RULES[case.optimizer].ours.__name__} cpu in place"]
    for a, b in zip((*start.params, *start.grads), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", TINY_OTHERS, ids=lambda case: case.name)
def test_torch_computes_the_optimizer_of_the_same_name(case: Case) -> None:
    pytest.importorskip("torch")
    start = Start.of(case)
    contender = plain.torch_optimizer(start, "cpu", others.torch_ways(case.optimizer))
    assert next(iter(contender.steps)) == contenders.counterpart(case)
    check.check(contender, start)


@pytest.mark.parametrize(
    ("case", "key"),
    [
        (case, key)
        for case in TINY_OTHERS
        for key in ("lr", "eps", "momentum", "alpha", "rho")
        if key in RULES[case.optimizer].hyperparameters
    ],
    ids=lambda it: it if isinstance(it, str) else it.name,
)
def test_an_optimizer_of_other_hyperparameters_is_not_timed(case: Case, key: str) -> None:
    start = Start.of(case)
    optimizer = plain.bound(start, "cpu", Host(), pack=False)
    optimizer.param_groups[0][key] = 0.5 * start.hyperparameters[key] + 1e-4
    with pytest.raises(check.WrongResult, match="tensor 0 is off by as much as"):
        check.check(Contender({"other": optimizer.step}, plain.host_params(optimizer)), start)


@pytest.mark.parametrize("case", TINY_VARIANTS, ids=lambda case: case.name)
def test_torch_computes_what_is_added_to_adam(case: Case) -> None:
    pytest.importorskip("torch")
    start = Start.of(case)
    (contender,) = variants.contenders(start, {}, "cpu")
    assert tuple(contender.steps) == (variants.PAIRS[case.variant],)
    check.check(contender, start)


@pytest.mark.parametrize("case", TINY_VARIANTS[:3], ids=lambda case: case.name)
def test_what_leaves_the_addition_out_is_not_timed(case: Case) -> None:
    """A plain step in the place of one that clips, unscales or averages."""
    start = Start.of(case)
    grads = start.scaled_grads if case.variant == "scale" else start.grads
    optimizer = plain.bound(start, "cpu", Host(), pack=False, grads=grads)
    params = plain.host_params(optimizer)
    contender = Contender({"plain": optimizer.step}, params, factor=start.clip_factor)
    if case.variant == "average":
        contender = Contender({"plain": optimizer.step}, params, averages=params, weight=lambda t: 1 / t)
    with pytest.raises(check.WrongResult, match=r"plain on tiny-\w+: .*tensor 0 is off by as much as"):
        check.check(contender, start)


def test_rows_come_more_than_once_and_from_both_ends() -> None:
    start = Start.of(TINY_VARIANTS[3])
    assert start.rows is not None
    numbers, values = start.rows
    assert (min(numbers), max(numbers), len(numbers)) == (0, 39, 11)
    assert len(set(numbers.tolist())) < 11
    for row in range(40):
        np.testing.assert_allclose(start.grads[0][row], values[numbers == row].sum(axis=0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("case", [TINY, TINY_BFLOAT16], ids=lambda case: case.name)
def test_torch_computes_adam(case: Case) -> None:
    pytest.importorskip("torch")
    start = Start.of(case)
    contender = plain.torch_optimizer(start, "cpu", plain.TORCH_WAYS)
    assert tuple(contender.steps) == ("torch fused", "torch foreach", "torch loop")
    check.check(contender, start)


@pytest.mark.parametrize(
    ("case", "factor"), [(TINY, 0.0), (TINY, 0.5), (TINY, 2.0), (TINY_BFLOAT16, 100.0)], ids=lambda it: str(it)[:20]
)
def test_a_wrong_step_is_not_timed(case: Case, factor: float) -> None:
    """One that moves by too much, too little, or not at all; a bfloat16 is too coarse to show less than a gross mistake."""
    start = Start.of(case)
    right = plain.array_adam(start, Host())

    def wrong() -> list[Any]:
        assert right.params is not None
        before = [p.astype(np.float32) for p in start.params]
        return [p + np.float32(factor) * (q - p) for p, q in zip(before, right.params(), strict=True)]

    with pytest.raises(check.WrongResult, match="tensor 0 is off by as much as"):
        check.check(Contender(right.steps, wrong), start)


def test_large_tensors_are_checked_in_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SAMPLE", 64)
    start = Start.of(Case("large", "single", ((1000,),)))
    contender = plain.array_adam(start, Host())
    check.check(contender, start)
    assert contender.params is not None
    spoiled = contender.params()
    spoiled[0][-1] += 1
    with pytest.raises(check.WrongResult):
        check.check(Contender({"spoiled": lambda: None}, lambda: spoiled), start)


# The limit.


@pytest.mark.parametrize("name", ["one state", "move", "master", "average"])
def test_the_limit_reads_and_writes_every_stream(name: str) -> None:
    words = [np.uint16, np.uint16] if name == "master" else [np.uint32, np.uint32]
    words += [np.uint32] * {"one state": 1, "move": 2}.get(name, 3)
    streams = [np.arange(k, 5000 + k).astype(word) for k, word in enumerate(words)]
    p, g, *others = (stream.copy() for stream in streams)
    limit._kernels()[name](*streams)
    expected = [g if name == "master" else p ^ g, g, *(other ^ g for other in others)]
    for found, right in zip(streams, expected, strict=True):
        np.testing.assert_array_equal(found, right)


def test_the_limit_of_a_norm_reads_every_gradient() -> None:
    gradient, total = np.arange(1, 5001, dtype=np.uint32), np.zeros(1, np.uint32)
    limit._kernels()["read"](gradient, total)
    assert total == np.bitwise_xor.reduce(gradient)


@pytest.mark.parametrize("elements", [1, 5000, 100_003])
@pytest.mark.parametrize("format", ["float32", "bfloat16"])
def test_the_limit_runs_at_any_size(elements: int, format: str) -> None:
    limit.cpu_limit(Case("any", "single", ((elements,),), format))()


@pytest.mark.parametrize("case", TINY_VARIANTS + TINY_OTHERS[:1], ids=lambda case: case.name)
def test_the_limit_runs_with_any_addition(case: Case) -> None:
    limit.cpu_limit(case)()


# Timing.


def test_contenders_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "MIN_SAMPLE", 0.0)
    called: list[str] = []
    timed = {k: clocks.Timed(lambda k=k: called.append(k)) for k in "abc"}
    timing.by_turns(timed, clocks.CpuClock(), rounds=3, seconds=0.0)
    # An untimed step, a timed one, for each in turn; what came before was calibration.
    assert called[-18:] == list("aabbcc") * 3
    assert {k: (len(one.samples["wall"]), one.count) for k, one in timed.items()} == dict.fromkeys("abc", (3, 1))


def test_rounds_end_with_the_budget() -> None:
    one = clocks.Timed(lambda: None)
    timing.by_turns({"a": one}, clocks.CpuClock(), rounds=1000, seconds=0.0)
    assert len(one.samples["wall"]) == timing.MIN_ROUNDS
    assert one.count > 1


def test_ratios_are_taken_round_by_round() -> None:
    one, other = (clocks.Timed(lambda: None, samples={"wall": values}) for values in ([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]))
    assert timing.ratios(one, other).tolist() == [2.0, 2.0, 2.0]
    assert (timing.median(one.samples["wall"]), timing.quartiles(one.samples["wall"])) == (4.0, [3.0, 5.0])


# Overhead, calls and start-up.


def test_overhead_measures_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "MIN_SAMPLE", 0.0)
    rows = overhead.measure((1, 3), repeats=1, budget=0.0)
    assert {row["tensors"] for row in rows} == {1, 3}
    assert set(overhead.PACKED[:2] + overhead.PACKED[3:]) <= {row["label"] for row in rows}
    assert all(row["median"] > 0 for row in rows)


def test_kernels_are_back_after_the_overhead_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "MIN_SAMPLE", 0.0)
    overhead.measure((1,), repeats=1, budget=0.0)
    for case in (TINY, TINY_VARIANTS[0]):
        start = Start.of(case)
        for contender in made(start):
            check.check(contender, start)


def test_every_steady_step_makes_the_same_calls(capsys: pytest.CaptureFixture[str]) -> None:
    assert calls.main([]) == 0
    table, *details = capsys.readouterr().out.split("\n\n")[1:]
    rows = [line.rsplit(maxsplit=5) for line in table.splitlines()[1:]]
    assert {name.partition(",")[0] for name, *_ in rows} >= {"NumPy", "stand-in GPU"}
    assert len(rows) == len(details) == len({name for name, *_ in rows})
    assert all(number.isdecimal() for _, *numbers in rows for number in numbers)
    for (name, _, changes, files, *_), detail in zip(rows, details, strict=True):
        told = detail.splitlines()
        assert told[0].startswith(f"{name}: ")
        entered = [int(line.split()[0]) for line in told[1 : 1 + int(files)]]
        assert sum(entered) == int(changes)


def test_calls_are_told_from_those_of_other_code() -> None:
    def step() -> None:
        sorted([1], key=lambda one: one)
        size_name(np.int64(1 << 20))

    found = calls.counted(step)
    assert (found.package, found.changes, found.others) == (0, 0, 2)


def test_a_failing_program_says_why() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        startup._run("1 / 0")


def test_programs_see_the_same_package_and_their_environment() -> None:
    said = startup._run(
        "import gpu_adam, json, os; print(json.dumps([gpu_adam.__file__, os.environ['ASKED']]))", {"ASKED": "yes"}
    )
    assert said == [gpu_adam.__file__, "yes"]


# Goals and results.


def results(**changes: float) -> dict[str, Any]:
    """Made-up figures that reach every goal, but for the changes."""
    figures = {
        "to_limit": 1.0,
        "to_torch": 0.01,
        "clipping": 1.1,
        "averaging": 1.3,
        "clipping to_torch": 0.01,
        "rows": 0.02,
        "packed": 1e-5,
        "import": 0.1,
        "step": 0.5,
        "peak": 0.0,
        **changes,
    }
    row = {"to_limit": figures["to_limit"], "to_torch": figures["to_torch"]}
    names = ("single-16Mi", "thousand", "gpt2-124m", "resnet50")

    def added(name: str, what: str, **ratios: float) -> dict[str, Any]:
        variant = name.partition("-")[0]
        rows = [{"label": f"{way}, {what}", **ratios} for way in goals.WAYS]
        return {"name": name, "rows": [*rows, {"label": variants.PAIRS[variant]}]}  # type: ignore[index]

    clipping = {"to_plain": figures["clipping"], "to_torch": figures["clipping to_torch"]}
    return {
        "cases": [
            *({"name": n, "rows": [{"label": label, **row} for label in (*goals.WAYS, "torch fused")]} for n in names),
            added("clip-single-16Mi", "clipping", **clipping),
            added("clip-thousand", "clipping", **clipping),
            added("average-single-16Mi", "averaging", to_plain=figures["averaging"]),
            added("rows-100000x256", "rows", to_plain=figures["rows"]),
        ],
        "overhead": [
            {"label": label, "tensors": tensors, "median": seconds}
            for label in overhead.PACKED
            for tensors, seconds in ((1, 1e-5), (10_000, figures["packed"]))
        ],
        "startup": {
            "import GpuAdam": figures["import"],
            "first step warm": figures["step"],
            "peak": {"GpuAdam in place": figures["peak"], "GpuAdam packed": figures["peak"]},
        },
    }


def test_goals_are_all_there() -> None:
    found = goals.cpu_goals(results())
    assert len(found) == 2 + 2 * 4 + 2 * 4 + 1 + 4 * 2 + 2 + 2
    assert all(goal.reached for goal in found)


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({"to_limit": 1.06}, 2),
        ({"to_torch": 0.06}, 2),  # the thousand alone
        ({"to_torch": 1.01}, 8),
        ({"clipping": 1.26}, 2),
        ({"clipping to_torch": 0.06}, 2),
        ({"clipping to_torch": 0.67}, 4),
        ({"averaging": 1.36}, 2),
        ({"rows": 0.031}, 1),
        ({"packed": 1.6e-5}, 4),
        ({"packed": 3.1e-5}, 8),
        ({"import": 0.21}, 1),
        ({"step": 1.6}, 1),
        ({"peak": 1.0}, 2),
    ],
)
def test_goals_can_be_missed(change: dict[str, float], missed: int) -> None:
    found = goals.cpu_goals(results(**change))
    assert sum(not goal.reached for goal in found) == missed
    assert report.goals_table(found).count("  NO") == missed


def test_without_figures_there_are_no_goals() -> None:
    assert goals.cpu_goals({"cases": [], "overhead": [], "startup": None}) == []


def test_a_case_is_checked_timed_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "MIN_SAMPLE", 0.0)
    result = cpu.run_case(TINY, repeats=2, budget=0.0)
    table = report.case_table(result)
    assert "tiny: 4 tensors, 33 elements of float32" in table
    for row in result["rows"]:
        assert row["label"] in table
        assert row["rounds"] == 2


def test_a_ratio_is_to_the_step_without_the_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "MIN_SAMPLE", 0.0)
    result = cpu.run_case(TINY_VARIANTS[3], repeats=2, budget=0.0)
    table = report.case_table(result)
    assert "1 tensor, 240 elements of float32, of which 66 change" in table
    assert "x torch: torch SparseAdam" in table
    ratios = {row["label"]: row["to_plain"] for row in result["rows"]}
    assert ratios["GpuAdam cpu in place, rows"] > 0
    assert ratios["GpuAdam cpu in place"] is None


def test_a_ratio_is_to_the_same_optimizer_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(clocks, "MIN_SAMPLE", 0.0)
    for name, torch in (("sgd", "torch fused"), ("nadam", "torch foreach")):
        (case,) = (case for case in TINY_OTHERS if case.optimizer == name)
        result = cpu.run_case(case, repeats=2, budget=0.0)
        assert (result["optimizer"], result["torch"]) == (name, torch)
        assert all(row["to_torch"] > 0 for row in result["rows"])
        assert f"x torch: {torch})" in report.case_table(result)


def test_a_run_prints_and_saves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(clocks, "MIN_SAMPLE", 0.0)
    figures = {"import": 0.0, "import GpuAdam": 0.1, "first step cold": 2.0, "first step warm": 0.5}
    peak = {"GpuAdam in place": 0.0, "GpuAdam packed": 0.0, "NumPy": None}
    monkeypatch.setattr(startup, "measure", lambda *arguments: {**figures, "peak": peak})
    assert program.main(["--quick", "--repeats", "1", "--budget", "0", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "step outside the kernel" in said
    assert "goals" in said
    saved = json.loads((tmp_path / "cpu-quick.json").read_text(encoding="utf-8"))
    assert [case["name"] for case in saved["cases"]] == [case.name for case in QUICK]
    assert saved["machine"]["cores"] >= 1
    assert "numpy" in saved["versions"]
    assert (tmp_path / "cpu-quick.png").read_bytes().startswith(b"\x89PNG")


def test_options_that_make_no_sense_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--cases", "nosuch"], ["--repeats", "0"], ["--dry-run"], ["--device", "cuda", "--quick"]):
        with pytest.raises(SystemExit):
            program.main(arguments)
        assert arguments[-1 if "--device" in arguments else 0] in capsys.readouterr().err or "nosuch" in arguments
