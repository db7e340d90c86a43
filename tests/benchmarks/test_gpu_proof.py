"""``python -m benchmarks --device cuda``: its dry run, and what becomes of parts that fail."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as program
from benchmarks import cases, record, runner
from benchmarks.gpu_proof import (
    counts,
    page,
    parts,
    prove,
    readme,
    sanitizers,
)
from benchmarks.record import LeftOut

# ---- The dry run ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dry_run_goes_through_every_part_and_claims_nothing(tmp_path: Path) -> None:
    assert program.main(["--device", "cuda", "--dry-run", "--minutes", "4", "--out", str(tmp_path)]) == 0
    ((path, results),) = record.results_in(tmp_path)
    claims_nothing(results, path.with_suffix(".md").read_text(encoding="utf-8"))
    assert readme.block(tmp_path) == readme.NONE
    found_what_is_to_be_found({name: part["result"] for name, part in results["parts"].items()})
    assert len(list(tmp_path.glob("*.png"))) == (0 if find_spec("matplotlib") is None else 2)


def claims_nothing(results: dict[str, Any], told: str) -> None:
    assert {name: part["status"] for name, part in results["parts"].items()} == {p.name: "done" for p in parts.PARTS}
    assert results["dry_run"] is True
    assert all(one["dry_run"] for one in (*results["parts"].values(), *results["kernels"]))
    assert {"name", "elements", "seconds", "bytes"} <= results["kernels"][0].keys()
    assert results["goals"] == []
    assert results["machine"]["driver"] is None
    assert told.splitlines()[0] == page.DRY_LINE
    assert all(f"## {part.name}: " in told for part in parts.PARTS)


def found_what_is_to_be_found(found: dict[str, Any]) -> None:
    assert found["bits"]["same"] == found["bits"]["of"] == 76
    assert [case["name"] for case in found["bench"]["cases"]] == [case.name for case in cases.DRY]
    assert all(row["device"] > 0 for case in found["bench"]["cases"] for row in case["rows"])
    assert not any(case["left_out"] for case in found["bench"]["cases"])
    assert {row["program"] for row in found["counts"]["rows"]} == counts.PROGRAMS.keys()
    assert found["tests"]["passed"] > 0
    assert found["tests"]["failed"] == found["tests"]["unfinished"] == 0
    errors = {tool: one["errors"] for tool, one in found["sanitizers"]["tools"].items()}
    assert errors == dict.fromkeys(sanitizers.TOOLS, 0)
    assert [row["moved_to_planned"] for row in found["counters"]["rows"]] == [1.0, 1.0, 1.0]
    assert all(row["last_loss"] < row["first_loss"] for row in found["training"]["rows"])
    assert all(row["same_bits"] for table in found["sweep"]["tables"] for row in table["rows"])


# ---- Parts in processes of their own -------------------------------------------------------------------------------------------------

PARTS = {
    "good": "report.result['found'] = arguments.get('number', 1)",
    "raises": "report.result['found'] = 1; report.save(); 1 / 0",
    "hangs": "report.result['found'] = 1; report.save(); __import__('time').sleep(600)",
    "tells": "report.result['found'] = os.getpid(); report.save(); __import__('time').sleep(600)",
    "dies": "report.result['found'] = 1; report.save(); os.kill(os.getpid(), 11)",
    "vanishes": "report.result['found'] = 1; report.save(); os._exit(0)",
    "cannot": "from benchmarks.record import LeftOut; raise LeftOut('there is no wood')",
    "stubborn": "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "child = subprocess.Popen(['sleep', '600']); report.result['found'] = child.pid; report.save(); time.sleep(600)",
}

PARTS["starts"] = (
    "from benchmarks.runner import guarded; "
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
    command = "from benchmarks.runner import run_part; from pathlib import Path; import sys; "
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
    monkeypatch.setattr(prove, "about", lambda seconds, dry_run: source)
    monkeypatch.setattr(prove, "LEAST", 0.0)
    monkeypatch.setattr(prove, "page", lambda results, drawn: "")
    out = tmp_path / "out"

    def run(*names: str, seconds: float = 20.0, changed: str = "1", **options: Any) -> tuple[int, dict[str, Any]]:
        source["source"] = changed
        real = [part for part in parts.PARTS if part.name not in ("bench", "tests", "sanitizers")]
        chosen = [
            parts.Part(part.name, part.what, 1.0, f"part_{name}") for part, name in zip(real, names, strict=False)
        ]
        status = prove.prove(chosen, seconds, out, {}, dry_run=True, **options)
        newest = max(out.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return status, json.loads(newest.read_text(encoding="utf-8"))

    return run


def statuses(results: dict[str, Any]) -> list[str]:
    return [part["status"] for part in results["parts"].values()]


def test_a_part_that_fails_takes_no_other_along(proving: Any) -> None:
    status, results = proving("good", "dies", "raises", "good")
    assert statuses(results) == ["done", "died", "failed", "done"]
    assert status == 1


def test_a_run_is_gone_on_with(proving: Any, tmp_path: Path) -> None:
    proving("good", "raises")
    status, results = proving("hangs", "good", resume=True)  # the first is not run again
    assert (status, statuses(results)) == (0, ["done", "done"])
    assert len(list(record.results_in(tmp_path / "out"))) == 1


def test_no_run_overwrites_another_ones_results(proving: Any, tmp_path: Path) -> None:
    proving("good")
    proving("good")
    proving("good", changed="2", resume=True)  # of another source
    assert [found["source"] for _, found in record.results_in(tmp_path / "out")] == ["1", "1", "2"]


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
        raise LeftOut("no GPU was found")

    monkeypatch.setattr(prove, "about", refuse)
    assert program.main(["--device", "cuda", "--out", str(tmp_path)]) == 2
    assert "--dry-run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_options_that_make_no_sense_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--only", "nosuch"], ["--minutes", "0"]):
        with pytest.raises(SystemExit):
            program.main(["--device", "cuda", *arguments])
        assert "nosuch" in capsys.readouterr().err or arguments[0] == "--minutes"


def test_a_file_is_never_half_written(tmp_path: Path) -> None:
    path = tmp_path / "gpu-proof-x.json"
    record.write(path, {"parts": {}})
    with pytest.raises(TypeError):
        record.write(path, {"parts": object()})
    assert record.read(path) == {"parts": {}}
    assert os.listdir(tmp_path) == [path.name]
