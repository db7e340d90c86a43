"""The benchmark of training loops: who gets which gradients, that wrong steps are not timed, goals, the page, README's table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as program
from benchmarks import check, clocks, contenders, cpu, markdown, record, variants
from benchmarks.cases import Case
from benchmarks.place import CPU
from benchmarks.start import LIMIT, Contender, Start
from benchmarks.training import cases, goals, page, run
from tests.benchmarks.tiny_cases import LONG, TINY

pytest.importorskip("torch")

import torch

from benchmarks.training import contenders as training
from benchmarks.training import host, shards

ROOT = Path(__file__).parents[2]

PLAIN = cases.loop(TINY)
CLIP = replace(cases.loop(Case("tiny-clip", "list", LONG)), variant="clip")
ABSENT = cases.some_absent(cases.loop(Case("tiny", "list", ((5,),) * 10)), 3)

OURS = ("GpuAdam", "gpu_adam.torch.AdamW")


def made(start: Start) -> Iterator[Contender]:
    for entry in contenders.entries(start.case, CPU):
        yield from entry.make(start)


def stepped(contender: Contender, times: int) -> list[Any]:
    """The parameters after some steps."""
    (step,) = contender.steps.values()
    for _ in range(times):
        assert contender.before is not None
        contender.before()
        step()
    assert contender.params is not None
    return contender.params()


# Cases and contenders.


def test_lists_go_from_one_tensor_to_ten_thousand_and_have_a_model() -> None:
    plain = [case for case in cases.CASES if case.variant == "plain"]
    assert [len(case.shapes) for case in plain] == [1, 10, 100, 1_000, 10_000, 148]
    assert [case.elements for case in plain[:-1]] == [1_000_000] * 5
    absent = {case.absent / len(case.shapes) for case in cases.CASES if case.variant == "absent"}
    assert absent == {0.001, 0.01}
    for found in (cases.CASES, cases.QUICK):
        assert len({case.name for case in found}) == len(found)
        assert {case.variant for case in found} == {"plain", "clip", "absent"}
        assert {case.gradients for case in found} == {"new"}


@pytest.mark.parametrize("case", [PLAIN, CLIP, ABSENT], ids=lambda case: case.name)
def test_every_contender_computes_adamw(case: Case) -> None:
    start = Start.of(case)
    before = [a.copy() for a in (*start.params, *start.grads)]
    labels = []
    for contender in made(start):
        check.check(contender, start)
        labels += contender.steps
    assert labels[0] == LIMIT
    assert contenders.counterpart(case) in labels
    ways = {
        "plain": ("in place", "packed (bound)", "packed (new)"),
        "clip": ("in place, clipping", "packed (bound), clipping"),
    }
    ways["absent"] = ("in place", "in place, some absent", "packed (new)", "packed (new), some absent")
    assert {f"{name} {way}" for name in OURS for way in ways[case.variant]} < set(labels)
    for a, b in zip((*start.params, *start.grads), before, strict=True):
        np.testing.assert_array_equal(a, b)  # nobody works on the start values themselves, clipped gradients included


def test_without_decay_or_with_every_gradient_a_step_is_not_timed() -> None:
    start = Start.of(replace(ABSENT, shapes=((500,),) * 10))
    all_there, some_absent = (
        one for one in training.contenders(start) if next(iter(one.steps)).startswith("torch fused")
    )
    check.check(all_there, start)
    with pytest.raises(check.WrongResult):
        check.check(replace(all_there, absent=start.absent), start)
    with pytest.raises(check.WrongResult):
        check.check(replace(some_absent, absent=lambda t: ()), start)
    undecayed = Contender({"other": lambda: None}, lambda: [p + np.float32(1e-2) for p in start.params])
    with pytest.raises(check.WrongResult):
        check.check(undecayed, start)


def test_absent_gradients_are_others_in_each_step_and_the_same_in_every_run() -> None:
    start = Start.of(ABSENT)
    sets = [start.absent(t) for t in range(2, 9)]
    assert sets == [Start.of(ABSENT).absent(t) for t in range(2, 9)]
    assert not start.absent(1)
    assert all(len(one) == 3 and one <= set(range(10)) for one in sets)
    assert len(set(sets)) > 4
    assert (ABSENT.elements, ABSENT.updated, ABSENT.ideal_bytes) == (50, 35, 35 * 28)


def test_new_gradients_are_other_tensors_and_bound_ones_are_not() -> None:
    grads = [torch.full((2,), float(k)) for k in range(3)]
    params = [torch.zeros(2, requires_grad=True) for _ in grads]
    seen = []
    new = training.new_gradients(params, lambda index: grads[index].clone(), lambda t: {t % 3})
    for t in (1, 2):
        new()
        seen.append([p.grad for p in params])
        assert [k for k, p in enumerate(params) if p.grad is None] == [t % 3]
    assert seen[0][0] is not seen[1][0]
    bound = training.bound_gradients(params, grads)
    bound()
    held = [p.grad for p in params]
    held[1].zero_()
    bound()
    assert all(p.grad is one for p, one in zip(params, held, strict=True))
    assert [p.grad.tolist() for p in params] == [g.tolist() for g in grads]
    assert not {p.grad.data_ptr() for p in params} & {g.data_ptr() for g in grads}


@pytest.mark.parametrize("name", OURS)
def test_packed_steps_read_the_buckets_gradients_where_these_are_bound(name: str) -> None:
    start = Start.of(cases.loop(Case("pair", "list", ((3,), (4,)))))
    (bound,) = (one for one in training.contenders(start) if f"{name} packed (bound)" in one.steps)
    (new,) = (one for one in training.contenders(start) if f"{name} packed (new)" in one.steps)
    for one, other in zip(stepped(bound, 4), stepped(new, 4), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_comes_before_a_step_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "MIN_SAMPLE", 0.0)
    called: list[str] = []
    now = iter(range(1000))
    one = clocks.Timed(
        lambda: called.append("step"), before=lambda: (called.append("before"), [next(now) for _ in range(50)])
    )
    monkeypatch.setattr(clocks, "perf_counter", lambda: float(next(now)))
    clock = clocks.CpuClock()
    one.count = 2
    clock.sample(one)
    assert called == ["before", "step"] * 3
    assert one.samples["wall"] == [1.0]


# What is beside the cases.


def test_the_hosts_time_is_told_for_each_way_and_what_the_class_takes_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "MIN_SAMPLE", 0.0)
    rows = host.measure((1, 3), repeats=1, budget=0.0)
    assert [row["label"] for row in rows[:4]] == [
        f"{name} {way}" for way in ("in place", "packed (bound)") for name in OURS
    ]
    assert all(row["calls"] == int(row["calls"]) for row in rows)
    assert [row["tensors"] for row in rows if "added" in row] == [1, 1, 3, 3]
    assert "… beyond GpuAdam" in host.table(rows)


@pytest.mark.slow
def test_shards_are_stepped_in_two_processes() -> None:
    found = shards.measure(1, quick=True)
    (case,) = found["cases"]
    labels = [row["label"] for row in case["rows"]]
    assert labels == [
        "GpuAdam on to_local()",
        "gpu_adam.torch.AdamW in place",
        "torch fused",
        "torch foreach",
        "torch loop",
    ]
    assert "10 tensors of 3 × 5, in 2 rows and 1" in shards.table(found)


def test_processes_that_fail_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "__name__", "benchmarks.training.nowhere")
    with pytest.raises(RuntimeError, match="No module named"):
        shards.measure(1, quick=True)


# Goals and pages.


def results(**changes: float) -> dict[str, Any]:
    """Made-up figures that reach every goal, but for the changes."""
    figures = {"in place": 0.2, "packed (bound)": 0.1, "absent": 1.2, "added": 5e-6, **changes}
    machine = {"cpu": "Test", "cores": 2, "system": "Linux", "load_at_start": 0.1}
    time = {"median": 1e-3, "quartiles": [1e-3, 2e-3], "to_plain": None}

    def of(case: Case, rows: list[dict[str, Any]]) -> dict[str, Any]:
        elements = {"tensors": len(case.shapes), "elements": case.elements, "updated": case.updated}
        torch_row = {**time, "label": variants.PAIRS[case.variant], "to_torch": 1.0}
        return {
            "name": case.name,
            "variant": case.variant,
            "torch": torch_row["label"],
            **elements,
            "rows": [*rows, torch_row],
        }

    ways = [
        {**time, "label": f"{name} {way}", "to_torch": figures[way]}
        for way in ("in place", "packed (bound)")
        for name in OURS
    ]
    absent = [
        {**time, "label": f"{name} in place, some absent", "to_torch": 0.2, "to_plain": figures["absent"]}
        for name in OURS
    ]
    host_rows = [
        {**time, "label": f"{OURS[1]} {way}", "tensors": count, "calls": 100.0, "added": figures["added"]}
        for way in ("in place", "packed (bound)")
        for count in (1, 1000)
    ]
    return {
        "machine": machine,
        "versions": {"torch": "9.9"},
        "threads": 2,
        "cases": [
            of(cases.THOUSAND, ways),
            of(cases.TEN_THOUSAND, ways),
            of(cases.some_absent(cases.THOUSAND, 10), absent),
        ],
        "host": host_rows,
        "shards": {"ranks": 2, "threads": 1, "cases": [{"name": "halves", "rows": ways}]},
    }


def test_goals_are_all_there() -> None:
    found = goals.training_goals(results())
    assert len(found) == 2 * 2 * 2 + 2 + 4
    assert all(goal.reached for goal in found)


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({"in place": 1 / 2.9}, 4),
        ({"in place": 1 / 3.5}, 2),  # the 10,000 alone
        ({"packed (bound)": 1 / 4.9}, 4),
        ({"packed (bound)": 1 / 7.0}, 2),
        ({"absent": 1.31}, 2),
        ({"added": 1.1e-5}, 2),  # of one tensor; of 1,000 it may be more
        ({"added": 2e-4}, 4),
    ],
)
def test_goals_can_be_missed(change: dict[str, float], missed: int) -> None:
    assert sum(not goal.reached for goal in goals.training_goals(results(**change))) == missed


def test_the_page_says_which_arrays_its_figures_are_of() -> None:
    found = results()
    found["goals"] = [goal.as_dict() for goal in goals.training_goals(found)]
    told = page.page(found)
    headings = [line for line in told.splitlines() if line.startswith("## ")]
    assert all("torch tensors, new gradients each step" in line for line in headings[:-1])
    assert "### 1,000 tensors of 1,000, against torch fused" in told
    assert "### 1,000 tensors of 1,000, 1.0% absent, against torch fused, some absent" in told
    assert "| GpuAdam in place | 1 ms | 1 ms to 2 ms | 5 |" in told
    assert "| gpu_adam.torch.AdamW in place, some absent | 1 ms | 1 ms to 2 ms | 5 | 1.20 |" in told
    assert "| … beyond GpuAdam | 5.0 us | 5.0 us |" in told
    assert "### halves" in told
    assert "busy" not in told
    assert "load 1.5" in page.page({**found, "machine": {**found["machine"], "load_at_start": 1.5}})


def test_readmes_table_is_put_between_its_comments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n\n{page.BEGIN}\n\nold\n\n{page.END}\n\nafter\n", encoding="utf-8")
    assert page.update_readme(tmp_path, path) == 1
    assert "no results are there" in capsys.readouterr().out
    record.write(tmp_path / "training.json", results())
    assert page.update_readme(tmp_path, path) == 0
    told = path.read_text(encoding="utf-8")
    assert told.startswith("before\n\n<!--")
    assert "| torch tensors, new gradients each step: a step of | torch fused takes |" in told
    assert "| 10,000 tensors of 100 | 1 ms | - | 5 | 10 | - | 5 | 10 |" in told


@pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="needs a checkout")
def test_readme_and_page_are_made_of_the_committed_results() -> None:
    found = record.read(program.RESULTS / "training.json")
    assert (program.RESULTS / "training.md").read_text(encoding="utf-8") == page.page(found)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert markdown.replaced(text, page.BEGIN, page.END, page.block(found)) == text


# The program.


def test_a_run_saves_a_page_and_what_is_killed_keeps_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks, "MIN_SAMPLE", 0.0)
    monkeypatch.setattr(run.host, "measure", lambda *arguments: results()["host"])

    def killed(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    arguments = ["--quick", "--only", "training", "--repeats", "1", "--budget", "0", "--out", str(tmp_path)]
    monkeypatch.setattr(run.shards, "measure", killed)
    assert program.main(arguments) != 0
    unfinished = json.loads((tmp_path / "training-quick-unfinished.json").read_text(encoding="utf-8"))
    assert [case["name"] for case in unfinished["cases"]] == [case.name for case in cases.QUICK]
    assert not (tmp_path / "training-quick.json").exists()
    monkeypatch.setattr(run.shards, "measure", lambda *arguments, **options: results()["shards"])
    assert program.main([*arguments, "--cases", "loop-100x10"]) == 0
    said = capsys.readouterr().out
    assert "loop-100x10: 100 tensors" in said
    saved = json.loads((tmp_path / "training-quick.json").read_text(encoding="utf-8"))
    assert [case["name"] for case in saved["cases"]] == ["loop-100x10"]
    assert page.page(saved) == (tmp_path / "training-quick.md").read_text(encoding="utf-8")
    assert not (tmp_path / "training-quick-unfinished.json").exists()


def test_cases_are_looked_for_in_every_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran: list[tuple[str, list[str]]] = []
    for module in (cpu, run):
        monkeypatch.setattr(module, "save", lambda results, folder, name: [])
        monkeypatch.setattr(
            module,
            "run",
            lambda cases, *rest, name=module.NAME, **more: ran.append((name, [case.name for case in cases])),
        )
    quick = ["--quick", "--out", str(tmp_path)]
    assert program.main([*quick, "--cases", "loop-100x10", "hundred"]) == 0
    assert ran == [("cpu", ["hundred"]), ("training", ["loop-100x10"])]
    ran.clear()
    assert program.main([*quick, "--cases", "loop-100x10"]) == 0
    assert ran == [("training", ["loop-100x10"])]
    ran.clear()
    assert program.main([*quick, "--cases"]) == 0
    assert ran == [("cpu", []), ("training", [])]
    for wrong in (["--only", "nosuch"], ["--only", "training", "--cases", "hundred"]):
        with pytest.raises(SystemExit):
            program.main([*quick, *wrong])


def test_without_torch_there_are_no_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "has_torch", lambda: False)
    found = run.run(cases.QUICK, 1, 0.0, quick=True, keep=lambda results: None)
    assert found == {}
    assert run.save(found, tmp_path, "training") == []
