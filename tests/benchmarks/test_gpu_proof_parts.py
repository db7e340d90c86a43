"""The parts of ``python -m benchmarks --device cuda``: what tools say, whose bits are compared, what is counted and swept."""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import record, runner
from benchmarks.gpu_proof import cells, counters, counts, sanitizers, suite, sweep
from benchmarks.libraries import Host
from gpu_adam import GpuAdam
from gpu_adam.dtypes import FORMATS, Format
from gpu_adam.engines import engine_named
from gpu_adam.engines.cuda import cupy as cupy_engine
from gpu_adam.kernels.specialization import HINTS
from gpu_adam.plan.policy import GPU_POLICY
from tests.support import gpu_rigs
from tests.support.gpu_rigs import Host as HostGpu
from tests.support.host_pairs import HostArray
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
