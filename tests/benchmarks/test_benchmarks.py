"""The benchmarks' plumbing: limits, turns, overhead, calls. Nothing is timed here that anybody would quote."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_adam
from benchmarks import calls, check, clocks, limit, overhead, startup, timing
from benchmarks.cases import Case, size_name
from benchmarks.start import Start
from tests.benchmarks.tiny_cases import TINY, TINY_OTHERS, TINY_VARIANTS, made

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
