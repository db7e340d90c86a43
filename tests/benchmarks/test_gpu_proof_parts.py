"""The parts of ``python -m benchmarks --device cuda``: what tools say, whose bits are compared, how the time is told, what is measured."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import cases, clocks, measure, record, runner, timing
from benchmarks.cases import Case
from benchmarks.contenders import Entry
from benchmarks.gpu_proof import (
    bench,
    cells,
    counters,
    counts,
    sanitizers,
    suite,
    sweep,
)
from benchmarks.libraries import Host
from benchmarks.place import Place
from benchmarks.start import LIMIT, Contender
from gpu_adam import GpuAdam
from gpu_adam.dtypes import FORMATS, Format
from gpu_adam.engines import engine_named
from gpu_adam.engines.cuda import cupy as cupy_engine
from gpu_adam.kernels.specialization import HINTS
from gpu_adam.plan.policy import GPU_POLICY
from tests.optim.test_host_gpus import HostArray
from tests.support import gpu_rigs
from tests.support.gpu_rigs import Host as HostGpu
from tests.support.shipped import OPTIMIZERS, RULES

host, host_kernels = gpu_rigs.host, gpu_rigs.host_kernels

# ---- What tools say ------------------------------------------------------------------------------------------------------------------


def sample(name: str) -> str:
    return (sanitizers.SAMPLES / name).read_text(encoding="utf-8")


def test_sanitizers_are_understood() -> None:
    assert [sanitizers.summary(sample(f"{tool}.txt"))["errors"] for tool in sanitizers.TOOLS] == [0, 0, 0]
    found = sanitizers.judged("failed", "exit status 86", sample("memcheck-errors.txt"))
    assert (found["status"], found["errors"]) == ("done", 2)
    assert found["told"][0] == "Invalid __global__ write of size 4 bytes"
    cut_off = sanitizers.judged("timed out", "stopped after 9 s", "========= COMPUTE-SANITIZER\n")
    assert (cut_off["status"], cut_off["errors"]) == ("timed out", None)
    refused = sanitizers.judged("done", "", "Device not supported")
    assert (refused["status"], refused["errors"]) == ("failed", None)
    nothing = sanitizers.judged("done", "", "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n")
    assert (nothing["status"], nothing["errors"], nothing["why"]) == ("failed", None, "the run did not come to its end")


def test_counters_are_understood() -> None:
    first, prologue, _ = counters.profiled(sample("ncu.csv").splitlines())
    assert (first["nanoseconds"], first["dram_read"], first["registers"]) == (1e6, 16384.0, 32.0)
    assert prologue["sm_percent"] is None  # n/a
    assert "prologue" in prologue["kernel"]


def test_counters_stand_beside_the_plan() -> None:
    plan = {"name": "k", "bytes_read": 100, "bytes_written": 100}
    (row,) = counters.beside([plan, plan], [{"nanoseconds": 1000.0, "dram_read": 150.0, "dram_written": 100.0}])
    assert (row["moved_to_planned"], row["dram_bytes_per_second"]) == (1.25, pytest.approx(2.5e8))


def test_kernels_that_were_profiled_stay_when_the_profiler_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {"name": "k", "case": "c", "elements": 8, "bytes_read": 16384, "bytes_written": 12288}
    text = f"{counters.MARK}{json.dumps(plan)}\n{sample('ncu.csv')}"
    stopped = runner.Outcome("timed out", "stopped after 9 s", 9.0, text)
    monkeypatch.setattr(counters.shutil, "which", lambda name: name)
    monkeypatch.setattr(counters, "guarded", lambda *arguments: stopped)
    report = record.Report(tmp_path / "r.json", 30.0, dry_run=False)
    with pytest.raises(RuntimeError, match="stopped after 9 s"):
        counters.run(report, {})
    assert [kernel["seconds"] for kernel in report.result["kernels"]] == [1e-3]


def test_tests_are_followed_one_by_one() -> None:
    lines = [
        json.dumps({"collected": 4}),
        json.dumps({"test": "a", "outcome": "passed", "why": ""}),
        json.dumps({"test": "b", "outcome": "failed", "why": "assert 1 == 2"}),
        json.dumps({"test": "c", "outcome": "skipped", "why": "no reason"}),
        '{"test": "d", "outco',
    ]
    found = suite.summary(suite.parsed(lines))
    assert {name: found[name] for name in ("passed", "failed", "skipped", "of", "unfinished")} == {
        "passed": 1, "failed": 1, "skipped": 1, "of": 4, "unfinished": 1,
    }  # fmt: skip
    assert found["failures"] == {"b": "assert 1 == 2"}
    assert found["skips"] == {"no reason": 1}


@pytest.mark.parametrize("several", [[], ["-n", "2"]], ids=str)
def test_the_tests_lines_come_from_pytest_itself(tmp_path: Path, several: list[str]) -> None:
    if several:
        pytest.importorskip("xdist")
    test = tmp_path / "test_made_up.py"
    test.write_text("def test_good(): pass\ndef test_bad(): assert 1 == 2, 'wrong'\n", encoding="utf-8")
    (tmp_path / "test_without.py").write_text("import nosuch\n", encoding="utf-8")
    lines = tmp_path / "lines"
    command = [
        runner.sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "benchmarks.gpu_proof.lines",
        "-c",
        os.devnull,
        "--continue-on-collection-errors",
        *several,
        str(tmp_path),
    ]
    runner.guarded(command, 60.0, {suite.VARIABLE: str(lines)})
    found = suite.summary(suite.parsed(lines.read_text(encoding="utf-8").splitlines()))
    assert (found["passed"], found["failed"], found["of"], found["unfinished"]) == (1, 2, 3, 0)
    assert any("wrong" in why for why in found["failures"].values())
    assert ["nosuch" in why for why in found["uncollected"].values()] == [True]
    twice = suite.merged(found, found)
    assert (twice["passed"], twice["failed"], twice["of"]) == (2, 3, 5)


def test_calls_of_cuda_are_told_apart() -> None:
    found = counts.calls({
        "cudaLaunchKernel": 3, "cuLaunchKernel": 2, "cudaMemcpyAsync": 5, "cudaMemcpy": 1, "cudaDeviceSynchronize": 1,
        "cudaEventSynchronize": 4, "cuMemAlloc_v2": 1, "cudaEventRecord": 9, "Malloc": 7,
    })  # fmt: skip
    assert found == {"launches": 5, "copies": 5, "synchronisations": 2, "waits for an event": 4, "allocations": 1}


# ---- Bits ----------------------------------------------------------------------------------------------------------------------------


def test_every_optimizer_and_rule_is_compared() -> None:
    assert cells.OPTIMIZERS == OPTIMIZERS
    kinds = [(name, settings) for name in OPTIMIZERS for settings in cells.settings_of(name)]
    used = set()
    for name, settings in kinds:
        made = OPTIMIZERS[name]([np.zeros(1, np.float32)], **cells.settings_of(name)[settings])
        made._read_hyperparameters()
        used.add(made._hyper[0].rule.name)
    assert used == RULES.keys()


def test_every_format_packing_and_mode_is_compared() -> None:
    found = list(cells.cells_of("GpuAdam", ""))
    assert {(one.format, one.pack) for one in found if one.mode == "clip"} == {
        (format, pack) for format in cells.DTYPES for pack in (False, True)
    }
    assert {one.mode for one in found} == cells.MODES.keys()
    assert len(set(found)) == len(found)


def test_a_program_does_what_its_mode_says() -> None:
    def left(mode: str, pack: bool = False) -> dict[str, Any]:
        return cells.left(cells.Cell("GpuAdam", "", "float32", pack, mode), "cpu", Host())

    assert left("skip")["skipped"] == 1
    assert left("clip")["norm"] > 1
    assert {"average 0"} <= left("average").keys()
    assert cells.difference(left("clip"), left("graph")) is None
    assert cells.difference(left("plain", True), left("plain")) is None
    assert cells.difference(left("scale"), left("plain")) is not None


def test_the_first_different_element_is_named() -> None:
    right = {"p": np.array([1.0, np.nan, -0.0], np.float32)}
    assert cells.difference({"p": np.array([1.0, -np.nan, -0.0], np.float32)}, right) is None
    found = cells.difference({"p": np.array([1.0, np.nan, 0.0], np.float32)}, right)
    assert found == "p, element 2 of 3: 0x00000000 (0), not 0x80000000 (-0); 1 differ"
    assert cells.difference({"p": np.zeros(3)}, right) == "p is float64[3] and not float32[3]"
    assert cells.difference({}, right) == "there is [] and not ['p']"


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


# ---- Counts, on a GPU made of host memory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "options", "launches", "copies"),
    [("_in_place", {}, 1, 1), ("_anew", {}, 1, 2), ("graph", {"capturable": True}, 1, 0)],
)
def test_a_step_waits_for_nothing_and_allocates_nothing(
    host: HostGpu, monkeypatch: pytest.MonkeyPatch, make: str, options: dict[str, Any], launches: int, copies: int
) -> None:
    monkeypatch.setattr(cupy_engine, "engine", lambda: host.engine)
    library = SimpleNamespace(put=lambda array: HostArray(array, 0), synchronize=host.engine.finish)
    place: Any = SimpleNamespace(
        native=lambda engine: library, synchronize=library.synchronize, has_torch=False, dry_run=True
    )
    with counts.counted(host.engine) as found:
        if make == "graph":
            optimizer = GpuAdam(counts._arrays(place, "cupy"), engine="cupy", **options)
            optimizer.grads = counts._arrays(place, "cupy")
            step: Any = optimizer.graph().replay
            assert found["allocations"] > 0
        else:
            step, optimizer = getattr(counts, make)(place, "cupy")
        try:
            told = counts.told(step, optimizer, found, place, counts.Profiler(place))
        finally:
            host.engine.finish()  # what is queued works in arrays that end with this test
    assert told["a_step"] == {"launches": launches, "copies": copies, "synchronisations": 0, "allocations": 0}
    assert host.engine.binding.launch.__name__ == "launch"  # what was replaced is back


# ---- The sweep -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["flat", "multi_tensor"])
@pytest.mark.parametrize("param", FORMATS, ids=str)
def test_policies_begin_with_the_usual_one_and_change_every_part_of_it(family: str, param: Format) -> None:
    found = list(sweep.policies(family, param, GPU_POLICY))
    assert found[0] == GPU_POLICY
    assert len(set(found)) == len(found)
    told = [sweep.told(family, param, policy) for policy in found]
    assert len({tuple(one.items()) for one in told}) == len(found)
    for name, usual in told[0].items():
        assert {one[name] for one in told} > {usual}
    assert {one["hint"] for one in told} == set(HINTS)


def test_every_format_is_swept_in_both_families() -> None:
    found = [(family, case.format) for family, case in sweep.cases(dry_run=False)]
    assert sorted(found) == sorted(product(("flat", "multi_tensor"), ("float32", "bfloat16", "float64")))


def test_the_best_geometry_must_be_clearly_faster_and_right() -> None:
    usual = {"same_bits": True, "to_limit": 1.10}
    assert sweep.best([usual, {"same_bits": True, "to_limit": 1.09}]) is usual
    fast = {"same_bits": True, "to_limit": 1.02}
    assert sweep.best([usual, {"same_bits": False, "to_limit": 0.9}, fast, {"left_out": "no"}]) is fast
    assert sweep.best([{"left_out": "no"}]) is None


def test_the_engine_has_its_geometry_back(tmp_path: Path) -> None:
    usual = engine_named("cpu").policy
    report = record.Report(tmp_path / "r.json", 30.0, dry_run=True)
    sweep.run(report, {})
    assert engine_named("cpu").policy is usual
    assert {table["family"] for table in report.result["tables"]} == {"flat", "multi_tensor"}
