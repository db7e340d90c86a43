"""What every program does alike: any terminal can show it, it ends quietly, outputs are tried first, nothing committed is written over."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import benchmarks.__main__ as bench
import benchmarks.ledger.__main__ as ledger
from gpu_adam.cli import main
from gpu_adam.console import BROKEN_PIPE, check_file, check_folder, run
from gpu_adam.doctor import reference

try:
    import examples.paper.__main__ as paper
except ImportError:  # the source distribution has no examples
    paper: Any = None  # type: ignore[no-redef]

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = [
    ["gpu_adam"],
    ["gpu_adam", "doctor"],
    ["gpu_adam", "train"],
    ["gpu_adam", "bench"],
    ["benchmarks"],
    *([["examples.paper"]] if paper else []),
    ["benchmarks.ledger"],
    ["benchmarks.calls"],
]

OF_PAPER = pytest.mark.skipif(paper is None, reason="needs the examples, which the source distribution leaves out")


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, env={**os.environ, **environment}, cwd=ROOT, timeout=300
    )


def helps() -> str:
    """A program that prints every help text."""
    calls = [f"runpy.run_module({name!r}, run_name='__main__')" for name, *_ in PROGRAMS]
    lines = ["import runpy, sys"]
    for (name, *rest), call in zip(PROGRAMS, calls, strict=True):
        lines += [
            f"sys.argv = [{name!r}, *{rest!r}, '--help']",
            f"try: {call}",
            "except SystemExit as e: assert not e.code, e",
        ]
    return "\n".join(lines)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1:strict", "utf-8"])
def test_every_help_can_be_printed(encoding: str) -> None:
    done = python("-c", helps(), PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.count(b"usage:") == len(PROGRAMS)
    assert b"?" not in done.stdout


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_what_an_encoding_lacks_is_a_question_mark(encoding: str) -> None:
    code = (
        "import sys; from gpu_adam.console import run; sys.exit(run('x', lambda: print('\u03b2 and \u221a, 3') or 0))"
    )
    done = python("-c", code, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout.strip()) == (0, b"? and ?, 3")


def test_training_into_a_narrow_pipe(tmp_path: Path) -> None:
    out = tmp_path / "\u03b2.png"
    options = ["train", "--engine", "cpu", "--epochs", "1", "--hidden", "8", "--out", str(out)]
    done = python("-m", "gpu_adam", *options, PYTHONIOENCODING="cp1252:strict", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr.decode("latin-1")
    assert b"test accuracy" in done.stdout
    assert not done.stderr, "a progress bar in a pipe would be one endless line"


# A reader that goes away.


@pytest.mark.parametrize(
    "command", [["gpu_adam", "--help"], ["gpu_adam", "train", "--help"], ["gpu_adam", "doctor", "--json"]]
)
def test_nobody_reads(command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", *command], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, timeout=300
    )
    os.close(writer)
    assert done.returncode in (BROKEN_PIPE, 0)  # argparse itself lets go of a help text that nobody takes
    assert done.stderr == b""


def test_a_reader_that_stops_in_the_middle() -> None:
    code = "import sys; from gpu_adam.console import run; sys.exit(run('x', lambda: [print(k) for k in range(10**6)] and 0))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == BROKEN_PIPE


def test_other_errors_and_ends_pass_through() -> None:
    def fail() -> int:
        raise KeyError("x")

    def leave() -> int:
        raise SystemExit(3)

    with pytest.raises(KeyError):
        run("x", fail)
    with pytest.raises(SystemExit, match="3"):
        run("x", leave)


# Threads.


@pytest.mark.parametrize("value", ["0", "-1", "", "abc", "1.5", "2000000", "9" * 5000, "\u00b2"])
@pytest.mark.parametrize(
    "program",
    [
        lambda out: main(["doctor"]),
        lambda out: main(["train", "--epochs", "1", "--out", str(out / "x.png")]),
        lambda out: bench.main(["--quick", "--cases", "--out", str(out)]),
        pytest.param(
            lambda out: paper.main(["theory", "--tiny", "--device", "cpu", "--out", str(out)]), marks=OF_PAPER
        ),
    ],
    ids=["doctor", "train", "bench", "paper"],
)
def test_a_number_of_threads_that_is_none(
    program: Callable[[Path], int],
    value: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GPU_ADAM_NUM_THREADS", value)
    assert program(tmp_path) == 2
    said = capsys.readouterr().err
    assert "GPU_ADAM_NUM_THREADS='" in said
    assert "must be a positive whole number" in said
    assert said.count("\n") == 1
    assert len(said) < 500


# Outputs.


def unwritable(tmp_path: Path) -> list[Path]:
    """Folders in which nobody can write, whoever runs the tests."""
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")
    return [file, file / "below", *([Path("/proc/nowhere")] if Path("/proc").exists() else [])]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    for folder in unwritable(tmp_path):
        with pytest.raises(OSError, match=f"--out {folder} cannot be written in: "):
            check_folder(folder, "--out")
        with pytest.raises(OSError, match=f"--out {folder / 'x.png'} cannot be written: "):
            check_file(folder / "x.png", "--out")
    with pytest.raises(OSError, match=r"--out \S+ cannot be written: File name too long"):
        check_file(tmp_path / ("a" * 300), "--out")
    with pytest.raises(OSError, match="is a folder: name a file in it"):
        check_file(tmp_path, "--out")


def test_looking_leaves_things_as_they_are(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("kept", encoding="utf-8")
    check_file(old, "--out")
    check_file(tmp_path / "new", "--out")
    check_folder(tmp_path, "--out")
    check_folder(tmp_path / "more" / "still", "--out")
    assert old.read_text(encoding="utf-8") == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["more", "old"]
    assert not list((tmp_path / "more" / "still").iterdir())


def never(*arguments: Any, **keywords: Any) -> Any:
    raise AssertionError("the work has begun")


def test_an_output_is_tried_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gpu_adam.train.loop.train", never)
    monkeypatch.setattr("gpu_adam.train.data.load_digits", never)
    for module, names in (
        (bench.cpu, ["run"]),
        *([(paper, ["_run"])] if paper else []),
        (ledger, ["write_table", "write_page"]),
        (bench.prove, ["about"]),
    ):
        for name in names:
            monkeypatch.setattr(module, name, never)
    programs: list[Callable[[str], int]] = [
        lambda out: main(["train", "--out", f"{out}/x.png"]),
        lambda out: bench.main(["--quick", "--out", out]),
        *([lambda out: paper.main(["theory", "--tiny", "--out", out])] if paper else []),
        lambda out: ledger.main(["--out", out]),
        lambda out: ledger.main(["--page", "--out", out]),
        lambda out: bench.main(["--device", "cuda", "--dry-run", "--out", out]),
    ]
    for folder in unwritable(tmp_path):
        for program in programs:
            try:
                status = program(str(folder))
            except SystemExit as end:  # as argparse refuses an option
                status = int(end.code or 0)
            assert status in (1, 2)
            assert f"--out {folder}" in capsys.readouterr().err


def test_a_result_that_is_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cpu-quick.png").mkdir()
    with pytest.raises(SystemExit):
        bench.main(["--quick", "--out", str(tmp_path)])
    assert "cpu-quick.png is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "committed"),
    [
        (bench, bench.RESULTS),
        pytest.param(paper, paper and paper.PUBLISHED, marks=OF_PAPER),
        (ledger, ledger.PAGE.parent),
    ],
    ids=["bench", "paper", "ledger"],
)
def test_committed_results_are_written_over_only_when_that_is_asked_for(
    program: Any, committed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert committed.is_relative_to(ROOT / program.__name__.split(".")[0])
    monkeypatch.chdir(tmp_path)
    written: list[Path] = []
    for part in (bench.cpu, bench.training):
        monkeypatch.setattr(part, "run", lambda *arguments, **keywords: {})
        monkeypatch.setattr(part, "save", lambda results, folder, name: written.append(folder) or [])
    if paper:
        monkeypatch.setattr(paper, "_run", lambda options, backend, prints: written.append(options.out))
    monkeypatch.setattr(ledger, "write_table", lambda jobs, path: written.append(path.parent))
    monkeypatch.setattr(ledger, "write_page", lambda path, table: written.append(path.parent))
    arguments = {bench: ["--quick"], paper: ["theory", "--device", "cpu"]}.get(program, [])
    assert program.main(arguments) == 0
    assert program.main([*arguments, "--publish"]) == 0
    assert program.main([*arguments, "--out", "mine"]) == 0
    folders = [path.resolve() for path in dict.fromkeys(written)]
    assert folders == [
        tmp_path / "runs" / program.__name__.split(".")[-2].replace("benchmarks", "bench"),
        committed,
        tmp_path / "mine",
    ]
    with pytest.raises(SystemExit):
        program.main([*arguments, "--publish", "--out", "mine"])


@pytest.mark.parametrize(
    ("program", "arguments", "told"),
    [
        (bench, ["--budget", "-1"], "--budget -1.0: at least 0"),
        (bench, ["--budget", "nan"], "--budget nan: at least 0"),
        (ledger, ["--jobs", "0"], "--jobs 0: at least 1"),
        (bench, ["--device", "cuda", "--minutes", "inf"], "--minutes inf: must be more than 0, and finite"),
        (bench, ["--device", "cuda", "--minutes", "nan"], "--minutes nan"),
        (bench, ["--device", "cuda", "--data-dir", "/nowhere/at/all"], "--data-dir /nowhere/at/all is no folder"),
    ],
)
def test_options_that_make_no_sense(
    program: Any, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        program.main(arguments)
    assert told in capsys.readouterr().err


# Training.


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--eps", "0"], "with --eps 0 a parameter whose gradients were all 0 becomes 0/0: use a larger --eps"),
        (["--lr", "1e30"], "the loss is not finite any more: try a smaller --lr"),
        (
            ["--decoupled-weight-decay", "--weight-decay", "1e30"],
            "the loss is not finite any more: try a smaller --lr or --weight-decay",
        ),
        (["--shift", "8"], "--shift 8: must be less than the 8 pixels that the images have"),
        (["--data-dir", "/nowhere/at/all"], "/nowhere/at/all is not a folder"),
        (["--hidden", "9999999999"], "there is too little memory"),
    ],
)
def test_advice_suits_what_went_wrong(
    options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--engine", "cpu", "--epochs", "1", "--out", str(tmp_path / "x.png"), *options]) == 1
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert said.count("\n") == 1


def test_the_bar_is_for_terminals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["train", "--engine", "cpu", "--epochs", "1", "--hidden", "8", "--out", str(tmp_path / "x.png")]
    assert main(options) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(options) == 0
    assert "22/22" in capsys.readouterr().err


def test_what_is_cited_is_here() -> None:
    for cited in ("docs/arithmetic.md",):
        assert cited in (reference.__doc__ or "")
        assert (ROOT / cited).is_file()
    name = "DESIGN" + ".md"
    folders = [ROOT / folder for folder in ("gpu_adam", "kernels", "docs", "tests", "benchmarks", "examples")]
    files = [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in (".py", ".md", ".cu", ".cuh", ".h", ".cpp")
    ]
    assert not [path for path in files if name in path.read_text(encoding="utf-8")]
