"""``python -m benchmarks.gpu_proof``: its dry run, and what it makes of parts that fail, tools that speak, and figures that are made up."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_problem
import numpy as np
import pytest
from gpu_problem import Host as HostGpu
from shipped import OPTIMIZERS, RULES
from test_gpu_whole import HostArray

from benchmarks.cases import Case
from benchmarks.gpu_proof import __main__ as program
from benchmarks.gpu_proof import (
    bench,
    bench_cases,
    cells,
    clocks,
    counters,
    counts,
    goals,
    page,
    parts,
    readme,
    record,
    runner,
    sanitizers,
    suite,
    sweep,
    timing,
)
from benchmarks.gpu_proof.contenders import Entry
from benchmarks.gpu_proof.place import Place
from benchmarks.libraries import Host
from benchmarks.start import LIMIT, Contender
from gpu_adam import GpuAdam
from gpu_adam.engines import cupy as cupy_engine
from gpu_adam.engines import engine_named
from gpu_adam.plan import GPU_POLICY

host, host_kernels = gpu_problem.host, gpu_problem.host_kernels

# ---- The dry run ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dry")
    assert program.main(["--dry-run", "--minutes", "4", "--out", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_a_dry_run_goes_through_every_part_and_claims_nothing(dry: Path) -> None:
    ((path, results),) = record.results_in(dry)
    assert {name: part["status"] for name, part in results["parts"].items()} == {p.name: "done" for p in parts.PARTS}
    assert results["dry_run"] is True
    assert all(one["dry_run"] for one in (*results["parts"].values(), *results["kernels"]))
    assert {"name", "elements", "seconds", "bytes"} <= results["kernels"][0].keys()
    assert results["goals"] == []
    assert results["machine"]["driver"] is None
    told = path.with_suffix(".md").read_text(encoding="utf-8")
    assert told.splitlines()[0] == page.DRY_LINE
    assert all(f"## {part.name}: " in told for part in parts.PARTS)
    assert readme.block(dry) == readme.NONE


@pytest.mark.slow
def test_a_dry_run_finds_what_is_to_be_found(dry: Path) -> None:
    ((_, results),) = record.results_in(dry)
    found = {name: part["result"] for name, part in results["parts"].items()}
    assert found["bits"]["same"] == found["bits"]["of"] == 76
    assert [case["name"] for case in found["bench"]["cases"]] == [case.name for case in bench_cases.DRY]
    assert all(row["device"] > 0 for case in found["bench"]["cases"] for row in case["rows"])
    assert not any(case["left_out"] for case in found["bench"]["cases"])
    assert {row["program"] for row in found["counts"]["rows"]} == counts.PROGRAMS.keys()
    assert (found["tests"]["passed"], found["tests"]["skipped"]) == (13, 1)
    assert {tool: one["errors"] for tool, one in found["sanitizers"]["tools"].items()} == dict.fromkeys(
        sanitizers.TOOLS, 0
    )
    assert [row["moved_to_planned"] for row in found["counters"]["rows"]] == [1.0, 1.0, 1.0]
    assert all(row["last_loss"] < row["first_loss"] for row in found["training"]["rows"])
    assert all(row["same_bits"] for table in found["sweep"]["tables"] for row in table["rows"])


@pytest.mark.slow
def test_a_dry_run_draws(dry: Path) -> None:
    pytest.importorskip("matplotlib")
    assert len(list(dry.glob("*.png"))) == 2


# ---- Parts in processes of their own -------------------------------------------------------------------------------------------------

PARTS = {
    "good": "report.result['found'] = arguments.get('number', 1)",
    "raises": "report.result['found'] = 1; report.save(); 1 / 0",
    "hangs": "report.result['found'] = 1; report.save(); __import__('time').sleep(600)",
    "tells": "report.result['found'] = os.getpid(); report.save(); __import__('time').sleep(600)",
    "dies": "report.result['found'] = 1; report.save(); os.kill(os.getpid(), 11)",
    "vanishes": "report.result['found'] = 1; report.save(); os._exit(0)",
    "cannot": "from benchmarks.gpu_proof.record import LeftOut; raise LeftOut('there is no wood')",
    "stubborn": "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "child = subprocess.Popen(['sleep', '600']); report.result['found'] = child.pid; report.save(); time.sleep(600)",
}

PARTS["starts"] = (
    "from benchmarks.gpu_proof.runner import guarded; "
    "report.result['found'] = 1; report.save(); guarded(['sh', '-c', 'echo $$ > \"$0\"; sleep 600', arguments['note']], 600)"
)


@pytest.fixture
def part_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    for name, body in PARTS.items():
        (folder / f"part_{name}.py").write_text(
            f"import os\ndef run(report, arguments):\n    {body}\n", encoding="utf-8"
        )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(runner, "GRACE", 0.3)


@pytest.mark.parametrize(
    ("name", "status", "why"),
    [
        ("good", "done", ""),
        ("raises", "failed", "ZeroDivisionError: division by zero"),
        ("hangs", "timed out", "stopped after "),
        ("dies", "died", "by SIGSEGV"),
        ("vanishes", "failed", "it ended without saying so"),
    ],
)
def test_what_a_part_has_found_survives_it(part_modules: None, name: str, status: str, why: str) -> None:
    found = runner.run_part(f"part_{name}", {}, 3.0, dry_run=True)
    assert (found["status"], found["result"]) == (status, {"found": 1})
    assert found.get("why", "").startswith(why)
    assert found["dry_run"]


def test_a_part_says_why_it_is_left_out(part_modules: None) -> None:
    found = runner.run_part("part_cannot", {}, 3.0, dry_run=False)
    assert (found["status"], found["why"], found["dry_run"]) == ("left out", "there is no wood", False)


def test_a_part_that_cannot_even_begin_has_failed(part_modules: None) -> None:
    found = runner.run_part("part_nosuch", {}, 3.0, dry_run=True)
    assert found["status"] == "failed"
    assert "part_nosuch" in found["why"]


def test_what_a_part_has_started_ends_with_it(part_modules: None) -> None:
    found = runner.run_part("part_stubborn", {}, 1.5, dry_run=True)
    assert found["status"] == "timed out"
    assert _ends(found["result"]["found"])


def test_a_command_of_a_part_ends_with_it_too(part_modules: None, tmp_path: Path) -> None:
    """Though it is of a session of its own."""
    note = tmp_path / "note"
    found = runner.run_part("part_starts", {"note": str(note)}, 2.0, dry_run=True)
    assert found["status"] == "timed out"
    assert _ends(int(note.read_text(encoding="utf-8")))


def test_what_is_found_so_far_stays_only_if_nobody_is_there_to_take_it(part_modules: None, tmp_path: Path) -> None:
    keep = tmp_path / "results.bench-so-far"
    command = "from benchmarks.gpu_proof.runner import run_part; from pathlib import Path; import sys; "
    command += "run_part('part_tells', {}, 600, dry_run=True, keep=Path(sys.argv[1]))"
    runner.guarded([runner.sys.executable, "-c", command, str(keep)], 2.0)
    left = record.read(keep)["result"]
    assert _ends(left["found"])  # the part does not run on by itself
    assert runner.run_part("part_good", {}, 5.0, dry_run=True, keep=keep)["result"] == {"found": 1}
    assert not keep.exists()


def _ends(process: int) -> bool:
    """Whether a process ends within seconds."""
    for _ in range(50):
        if not _runs(process):
            return True
        time.sleep(0.1)
    return False


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended, and not yet fetched by whoever is its parent now


def test_a_command_that_is_not_there_is_no_accident() -> None:
    found = runner.guarded(["/nosuch/program"], 1.0)
    assert (found.status, found.why) == ("failed", "/nosuch/program: No such file or directory")


# ---- All parts -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def proving(
    part_modules: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Run made-up parts of these modules under the names of the real ones; the exit status and the results."""
    source = {"machine": {"gpu": "Test GPU 1"}, "versions": {}, "commit": "abc", "source": "1"}
    monkeypatch.setattr(program, "about", lambda seconds, dry_run: source)
    monkeypatch.setattr(program, "LEAST", 0.0)
    monkeypatch.setattr(program, "page", lambda results, drawn: "")
    out = tmp_path / "out"

    def run(*names: str, seconds: float = 20.0, changed: str = "1", **options: Any) -> tuple[int, dict[str, Any]]:
        source["source"] = changed
        real = [part for part in parts.PARTS if part.name not in ("bench", "tests", "sanitizers")]
        chosen = [
            parts.Part(part.name, part.what, 1.0, f"part_{name}") for part, name in zip(real, names, strict=False)
        ]
        status = program.prove(chosen, seconds, out, {}, dry_run=True, **options)
        newest = max(out.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return status, json.loads(newest.read_text(encoding="utf-8"))

    return run


REAL = ("bits", "counts", "training", "sweep")


def statuses(results: dict[str, Any]) -> list[str]:
    return [part["status"] for part in results["parts"].values()]


def test_a_part_that_fails_takes_no_other_along(proving: Any) -> None:
    status, results = proving("good", "dies", "raises", "good")
    assert statuses(results) == ["done", "died", "failed", "done"]
    assert status == 1


def test_a_run_is_gone_on_with(proving: Any) -> None:
    proving("good", "raises")
    status, results = proving("hangs", "good", resume=True)  # the first is not run again
    assert (status, statuses(results)) == (0, ["done", "done"])


def test_results_of_another_source_are_left_alone(proving: Any, tmp_path: Path) -> None:
    proving("good")
    proving("good", changed="2")
    assert [found["source"] for _, found in record.results_in(tmp_path / "out")] == ["2", "1"]


def test_an_interrupted_run_leaves_what_there_is(proving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = runner.guarded

    def interrupted(command: Any, *arguments: Any) -> Any:
        if "part_hangs" not in command:
            return real(command, *arguments)
        real(command, 1.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "guarded", interrupted)
    status, results = proving("good", "hangs", "good")
    assert (status, statuses(results)) == (130, ["done", "interrupted"])
    assert results["parts"]["counts"]["result"] == {"found": 1}


def test_parts_share_the_time_and_what_others_leave_over() -> None:
    ends = [end for _, end in parts.limits(parts.PARTS, 480)]
    assert ends[-1] == pytest.approx(480)
    assert ends == sorted(ends)
    assert sum(part.share for part in parts.PARTS) == pytest.approx(1.0)


def test_without_a_gpu_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(seconds: float, dry_run: bool) -> Any:
        raise record.LeftOut("no GPU was found")

    monkeypatch.setattr(program, "about", refuse)
    assert program.main(["--out", str(tmp_path)]) == 2
    assert "--dry-run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_options_that_make_no_sense_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--only", "nosuch"], ["--minutes", "0"]):
        with pytest.raises(SystemExit):
            program.main(arguments)
        assert "nosuch" in capsys.readouterr().err or arguments[0] == "--minutes"


def test_a_file_is_never_half_written(tmp_path: Path) -> None:
    path = tmp_path / "gpu-proof-x.json"
    record.write(path, {"parts": {}})
    with pytest.raises(TypeError):
        record.write(path, {"parts": object()})
    assert record.read(path) == {"parts": {}}
    assert os.listdir(tmp_path) == [path.name]


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


def test_counters_are_understood() -> None:
    first, prologue, _ = counters.profiled(sample("ncu.csv").splitlines())
    assert (first["nanoseconds"], first["dram_read"], first["registers"]) == (1e6, 16384.0, 32.0)
    assert prologue["sm_percent"] is None  # n/a
    assert "prologue" in prologue["kernel"]


def test_counters_stand_beside_the_plan() -> None:
    plan = {"name": "k", "bytes_read": 100, "bytes_written": 100}
    (row,) = counters.beside([plan, plan], [{"nanoseconds": 1000.0, "dram_read": 150.0, "dram_written": 100.0}])
    assert (row["moved_to_planned"], row["dram_bytes_per_second"]) == (1.25, pytest.approx(2.5e8))


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
        str(test),
    ]
    runner.guarded(command, 60.0, {suite.VARIABLE: str(lines)})
    found = suite.summary(suite.parsed(lines.read_text(encoding="utf-8").splitlines()))
    assert (found["passed"], found["failed"], found["of"]) == (1, 1, 2)
    assert "wrong" in next(iter(found["failures"].values()))


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
        "a": timing.Timed(lambda: order.append("a")),
        "b": timing.Timed(lambda: order.append("b"), wait=lambda: order.append("wait"), on_stream=False),
    }
    timing.by_turns(timed, clocks.GpuClock(FakeGpu()), rounds=2, seconds=10.0)
    assert [len(one.samples["wall"]) for one in timed.values()] == [2, 2]
    assert [len(one.samples["device"]) for one in timed.values()] == [2, 0]
    row = timing.row("b", timed["b"], timed["a"], 100)
    assert row["device"] is None
    assert "bytes_per_second" not in row
    assert "wait" in order


# ---- The benchmark -------------------------------------------------------------------------------------------------------------------

TINY = Case("tiny", "list", ((3, 5), (17,)))


def test_a_contender_that_fails_or_is_wrong_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench.entries

    def entries(case: Case, place: Place) -> Iterator[Entry]:
        yield from real(case, place)
        yield Entry("breaks", lambda start: 1 / 0)  # type: ignore[arg-type,return-value]
        yield Entry("idle", lambda start: [Contender({"idle": lambda: None}, lambda: start.params)])

    monkeypatch.setattr(bench, "entries", entries)
    found, kernels = bench.measured(TINY, Place.of(True), clocks.HostClock(), 0.0, 1)
    assert found["left_out"].keys() == {"breaks", "idle"}
    assert "ZeroDivisionError" in found["left_out"]["breaks"]
    assert "WrongResult" in found["left_out"]["idle"]
    labels = [row["label"] for row in found["rows"]]
    assert labels[0] == LIMIT
    assert {"GpuAdam cpu packed", "GpuAdam cpu in place", "GpuAdam cpu in place, other gradients each step"} < set(
        labels
    )
    assert {kernel["name"] for kernel in kernels} == {"adam_flat_float32_float32", "adam_multi_tensor_float32_float32"}
    assert all(kernel["bytes"] == 28 * kernel["elements"] for kernel in kernels)


def test_cases_fit_into_the_memory() -> None:
    everything, small = bench_cases.cases(80 << 30), bench_cases.cases(1 << 30)
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
    assert sum(int(np.prod(shape)) for shape in bench_cases.llama_7b()) == 6_738_415_616


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
            told = counts.told(step, optimizer, found, place)
        finally:
            host.engine.finish()  # what is queued works in arrays that end with this test
    assert told["a_step"] == {"launches": launches, "copies": copies, "synchronisations": 0, "allocations": 0}
    assert host.engine.binding.launch.__name__ == "launch"  # what was replaced is back


# ---- The sweep -----------------------------------------------------------------------------------------------------------------------


def test_geometries_begin_with_the_usual_one_and_are_legal() -> None:
    for family in ("flat", "multi_tensor"):
        found = list(sweep.policies(family, GPU_POLICY))
        assert found[0] == GPU_POLICY
        assert len(set(found)) == len(found) > 8
        assert all(one.threads <= 512 and one.max_chunk & (one.max_chunk - 1) == 0 for one in found)


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


# ---- Goals, the page and README ------------------------------------------------------------------------------------------------------


def made_up(**changes: Any) -> dict[str, Any]:
    """Results that reach every goal, but for the changes."""
    f = {
        "packed": 1.0,
        "host": 1e-5,
        "replay": 5e-6,
        "clip": 1.0,
        "bits": 10,
        "failed": 0,
        "errors": 0,
        "allocations": 0,
        "profiled": 0,
    }
    f |= changes

    def row(label: str, seconds: float, **more: Any) -> dict[str, Any]:
        times = {"device": seconds, "host": f["host"], "wall": seconds, "steady": f["replay"]}
        spread = {f"{name}_quartiles": [value, value] for name, value in times.items()}
        return {
            "label": label,
            "rounds": 5,
            **times,
            **spread,
            "bytes_per_second": 1e12,
            "to_limit": seconds / 0.98,
            **more,
        }

    def case(name: str, rows: list[dict[str, Any]], variant: str = "plain") -> dict[str, Any]:
        return {
            "name": name, "kind": "single", "format": "float32", "variant": variant, "tensors": 1, "elements": 1024, "bytes": 28672,
            "rows": rows, "left_out": {},
        }  # fmt: skip

    ours = [row(f"GpuAdam cupy {way}", f["packed"]) for way in ("packed", "in place")]
    others = [row(LIMIT, 0.98), row("torch fused", 25.0), row("GpuAdam cupy packed, graph replay", 1.0)]
    plain = [
        case(name, ours + others) for name in ("single-256Mi", "single-1Ki", "gpt2-124m", "3000x3500", "small-model")
    ]
    clipped = [row("GpuAdam cupy packed, clipping", f["clip"]), row("torch fused, clip_grad_norm_", 2.0)]
    count = {"launches": 1, "copies": 1, "synchronisations": 0, "allocations": f["allocations"]}
    profiler = {**count, "allocations": f["profiled"], "waits for an event": 1}
    found = {
        "bits": {"same": f["bits"], "of": 10, "table": [], "unfinished": 0},
        "tests": {"passed": 5, "failed": f["failed"], "skipped": 0, "of": 5, "unfinished": 0, "failures": {}, "skips": {}},
        "sanitizers": {"tools": {"memcheck": {"status": "done", "errors": f["errors"], "told": []}}},
        "bench": {"cases": [*plain, case("clip-single-64Mi", ours + clipped, "clip")], "kernels": [], "missing": []},
        "counts": {"rows": [{"engine": "cupy", "program": "packed", "a_step": count, "planned_launches": 1, "pools_changed": False,
                             "profiler": profiler}]},
    }  # fmt: skip
    return {
        "dry_run": False,
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"gpu": "Test GPU", "driver": "1.2"},
        "versions": {"torch": "9.9"},
        "commit": "abc",
        "source": "def",
        "kernels": [],
        "goals": [],
        "parts": {
            name: {"status": "done", "seconds": 1.0, "dry_run": False, "result": part} for name, part in found.items()
        },
    }


def test_goals_are_all_there() -> None:
    found = goals.goals(made_up())
    assert all(goal.reached for goal in found)
    assert len(found) == 1 + 2 + 1 + 2 + 4 + 4 + 2 + 1 + 2


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({"packed": 1.04}, 2),  # the copy's bandwidth
        ({"packed": 1.3}, 4),  # and 3,000 × 3,500
        ({"packed": 6.0}, 6),  # and GPT-2
        ({"packed": 26.0}, 10),  # and torch fused at any size
        ({"host": 21e-6}, 1),
        ({"replay": 11e-6}, 1),
        ({"clip": 1.4}, 1),
        ({"bits": 9}, 1),
        ({"failed": 1}, 1),
        ({"errors": 1}, 1),
        ({"allocations": 0.1}, 1),
        ({"profiled": 1}, 1),
    ],
)
def test_goals_can_be_missed(change: dict[str, Any], missed: int) -> None:
    found = goals.goals(made_up(**change))
    assert sum(not goal.reached for goal in found) == missed


def test_without_figures_and_in_a_dry_run_there_are_no_goals() -> None:
    assert goals.goals({"dry_run": False, "parts": {}}) == []
    assert goals.goals({**made_up(), "dry_run": True}) == []


def test_the_page_tells_of_goals_and_of_what_is_missing() -> None:
    results = made_up(bits=9)
    results["goals"] = [goal.as_dict() for goal in goals.goals(results)]
    results["parts"]["bits"]["result"]["table"] = [
        {"engine": "cupy", "optimizer": "GpuAdam", "settings": "", "same": 9, "of": 10, "different": {"that one": "p differs"},
         "missing": [], "status": "died", "why": "by SIGSEGV"},
    ]  # fmt: skip
    told = page.page(results, ["a.png"])
    assert told.startswith("# GPU proof: Test GPU")
    assert "| programs whose bits are the cpu engine's | at least 10 | 9 | **no** |" in told
    assert "- cupy: that one: p differs" in told
    assert "| sweep | not begun |" in told
    assert "![](a.png)" in told


def test_readme_has_the_newest_figures(tmp_path: Path) -> None:
    assert readme.block(tmp_path) == readme.NONE
    results = made_up()
    results["goals"] = [goal.as_dict() for goal in goals.goals(results)]
    record.write(tmp_path / "gpu-proof-test-gpu-2026-01-02.json", results)
    record.write(tmp_path / "gpu-proof-dry-run-2026-02-02.json", {**results, "dry_run": True, "date": "2026-02-02"})
    record.write(
        tmp_path / "gpu-proof-old-2025-01-02.json", {**results, "date": "2025-01-02", "machine": {"gpu": "Old"}}
    )
    block = readme.block(tmp_path)
    assert "Test GPU, driver 1.2, torch 9.9" in block
    assert "| one tensor of 256 Mi float32 | 1 s | 98% | 1 s | 25 |" in block
    assert "| clipping, 64 Mi | 1 s | 98% | 1 s | 2 (torch fused, clip_grad_norm_) |" in block


def test_readmes_block_is_replaced_between_its_comments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"before\n\n{readme.BEGIN}\n\nold\n\n{readme.END}\n\nafter\n"
    assert readme.updated(text, "new") == text.replace("old", "new")
    for wrong in ("nothing", f"{readme.END}{readme.BEGIN}", text + text):
        with pytest.raises(ValueError, match="needs <!-- gpu figures"):
            readme.updated(wrong, "new")
    path = tmp_path / "README.md"
    path.write_text("nothing", encoding="utf-8")
    assert program.update_readme(tmp_path, path) == 1
    path.write_text(text, encoding="utf-8")
    assert program.update_readme(tmp_path, path) == 0
    assert readme.NONE in path.read_text(encoding="utf-8")
    assert readme.NONE in capsys.readouterr().out
