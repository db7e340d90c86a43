"""How ``python -m benchmarks --device cuda`` tells the time, and what it measures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import cases, clocks, measure, record, timing
from benchmarks.cases import Case
from benchmarks.contenders import Entry
from benchmarks.gpu_proof import bench
from benchmarks.place import Place
from benchmarks.start import LIMIT, Contender

# ---- Timing --------------------------------------------------------------------------------------------------------------------------


class FakeGpu:
    """A GPU whose time goes on by what is queued."""

    def __init__(self) -> None:
        self.time = 0.0
        self.log: list[str] = []
        self.rate = 1e9

    def event(self) -> Any:
        return SimpleNamespace(time=0.0)

    def record(self, event: Any) -> None:
        self.log.append("event")
        event.time = self.time

    def elapsed(self, begin: Any, end: Any) -> float:
        return float(end.time - begin.time)

    def spin(self, cycles: int) -> None:
        self.log.append("spin")
        self.time += cycles / self.rate

    def flush(self) -> None:
        self.log.append("flush")

    def synchronize(self) -> None:
        self.log.append("wait")

    def free_memory(self) -> int:
        return 1


def test_device_time_is_told_with_a_cold_cache_and_a_full_queue() -> None:
    gpu = FakeGpu()
    clock = clocks.GpuClock(gpu)
    gpu.log.clear()

    def step() -> None:
        gpu.log.append("step")
        gpu.time += 3e-3

    assert clock.device(step, ahead=10e-3) == pytest.approx(3e-3)
    assert gpu.log == ["flush", "wait", "event", "spin", "event", "step", "event", "wait"]


def test_a_step_that_the_host_is_too_slow_for_has_no_device_time() -> None:
    clock = clocks.GpuClock(FakeGpu())
    assert clock.device(lambda: time.sleep(2e-3), ahead=1e-3) is None
    assert clock.device(lambda: None, ahead=2 * clocks.LONGEST_SPIN) is None


def test_a_clock_rate_that_rises_is_noticed() -> None:
    gpu = FakeGpu()
    clock = clocks.GpuClock(gpu)
    gpu.rate = 4e9
    assert clock.device(lambda: time.sleep(4e-3), ahead=10e-3) is None  # it spun for 2.5 ms
    assert clock.device(lambda: time.sleep(4e-3), ahead=10e-3) is not None


def test_contenders_take_turns_and_those_of_other_streams_have_no_events() -> None:
    order: list[str] = []
    timed = {
        "a": clocks.Timed(lambda: order.append("a")),
        "b": clocks.Timed(lambda: order.append("b"), wait=lambda: order.append("wait"), on_stream=False),
    }
    timing.by_turns(timed, clocks.GpuClock(FakeGpu()), rounds=2, seconds=10.0)
    assert [len(one.samples["wall"]) for one in timed.values()] == [2, 2]
    assert [len(one.samples.get("device", [])) for one in timed.values()] == [2, 0]
    row = bench.row("b", timed["b"], timed["a"], 100)
    assert row["device"] is None
    assert "bytes_per_second" not in row
    assert "wait" in order


# ---- The benchmark -------------------------------------------------------------------------------------------------------------------

TINY = Case("tiny", "list", ((3, 5), (17,)))


def test_a_contender_that_fails_or_is_wrong_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = measure.entries

    def two(start: Any) -> list[Contender]:
        return [Contender({"idle": lambda: None}, lambda: start.params), Contender({"idle's neighbour": lambda: None})]

    def entries(case: Case, place: Place) -> Iterator[Entry]:
        yield from real(case, place)
        yield Entry("breaks", lambda start: 1 / 0)  # type: ignore[arg-type,return-value]
        yield Entry("two", two)

    monkeypatch.setattr(measure, "entries", entries)
    found, kernels = bench.figures(TINY, Place.gpu(True), clocks.HostClock(), 0.0, 1)
    assert found["left_out"].keys() == {"breaks", "idle"}
    assert "ZeroDivisionError" in found["left_out"]["breaks"]
    assert "WrongResult" in found["left_out"]["idle"]
    assert "idle's neighbour" in {row["label"] for row in found["rows"]}
    labels = [row["label"] for row in found["rows"]]
    assert labels[0] == LIMIT
    assert {"GpuAdam cpu packed", "GpuAdam cpu in place", "GpuAdam cpu in place, other gradients each step"} < set(
        labels
    )
    assert {kernel["name"] for kernel in kernels} == {"adam_flat_float32_float32", "adam_multi_tensor_float32_float32"}
    assert all(kernel["bytes"] == 28 * kernel["elements"] for kernel in kernels)


def test_a_case_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no case is called nosuch"):
        bench.run(record.Report(tmp_path / "r.json", 30.0, dry_run=True), {"cases": ["nosuch"]})


def test_cases_fit_into_the_memory() -> None:
    everything, small = cases.gpu_cases(80 << 30), cases.gpu_cases(1 << 30)
    assert len({case.name for case in everything}) == len(everything)
    for name in (
        "single-1Ki",
        "single-256Mi",
        "gpt2-124m",
        "resnet50",
        "3000x3500",
        "10000x100",
        "single-64Mi-bfloat16",
    ):
        assert name in {case.name for case in everything}
    assert {case.variant for case in everything} == {"plain", "clip", "scale"}
    assert any(case.name.startswith("llama-") for case in everything)
    assert max(case.elements for case in small) <= (1 << 30) / 100


def test_llamas_list_has_its_models_size() -> None:
    assert sum(int(np.prod(shape)) for shape in cases.llama_7b(cases.LLAMA_LAYERS)) == 6_738_415_616
