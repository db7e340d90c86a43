"""``gpu-adam train``: what the program prints, writes and refuses."""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gpu_adam.cli import main
from tests.support.idx_files import HYPHENS, some_data, write

PNG = b"\x89PNG\r\n\x1a\n"


def test_it_prints_what_was_reached_and_writes_the_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--engine", "cpu", "--epochs", "10", "--hidden", "64"]) == 0
    printed, progress = capsys.readouterr()
    lines = dict(re.findall(r"^(.+?)  +(.*)$", printed, re.MULTILINE))
    assert lines["network"] == "64-64-10, 4,810 parameters of float32"
    assert lines["engine"] == "cpu"
    assert float(lines["test accuracy"].split("%")[0]) > 60
    assert re.fullmatch(r"[\d.e+]+( \w+)? parameters a second in step\(\), .* overall", lines["updates"])
    assert lines["loss curve"] == str(Path("runs/digits-cpu.png"))
    assert Path("runs/digits-cpu.png").read_bytes().startswith(PNG)
    assert not progress, "a bar in a pipe would be one endless line"
    assert not {"with averages", "gradient norm", "loss scale"} & set(lines)


def test_it_prints_what_mixed_precision_came_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "curve.png"
    options = ["--epochs", "6", "--hidden", "32", "--dtype", "float16", "--schedule", "cosine", "--warmup", "20"]
    more = ["--loss-scale", "1e9", "--max-grad-norm", "1", "--ema-decay", "0.9"]
    assert main(["train", "--engine", "cpu", "--out", str(out), *options, *more]) == 0
    printed, _ = capsys.readouterr()
    lines = dict(re.findall(r"^(.+?)  +(.*)$", printed, re.MULTILINE))
    assert re.fullmatch(r"[\d.]+%, the parameters being their averages", lines["with averages"])
    assert lines["gradient norm"] == "inf in the last step, before clipping"
    assert lines["loss scale"] == "1e+09 at the end; steps skipped: 132"
    assert out.read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--warmup", "23"], "--warmup 23: must be at most the 22 steps of training"),
        (["--warmup", "5", "--schedule", "inverse-sqrt"], "--warmup 5: must be 0 with --schedule inverse-sqrt"),
    ],
)
def test_a_warm_up_that_does_not_fit_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--engine", "cpu", "--epochs", "1", "--out", str(tmp_path / "curve.png"), *options]) == 1
    assert message in capsys.readouterr().err


def test_it_trains_on_idx_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "tiny", some_data(), HYPHENS + ".gz", gzip.compress)
    out = tmp_path / "a new folder" / "curve.out"
    options = ["--data-dir", str(tmp_path / "tiny"), "--out", str(out), "--hidden", "--epochs", "1", "--amsgrad"]
    assert main(["train", "--engine", "cpu", *options, "--betas", "0.8", "0.9", "--dtype", "bfloat16"]) == 0
    assert "tiny: 6 training and 4 test images" in capsys.readouterr().out
    assert out.read_bytes().startswith(PNG)


def test_a_missing_data_set_is_a_message_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data-dir", str(tmp_path)]) == 1
    assert "gpu-adam train: " in (said := capsys.readouterr().err)
    assert "train-images-idx3-ubyte.gz" in said


def test_a_folder_in_place_of_the_curve_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--out", str(tmp_path)]) == 1
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["tqdm", "matplotlib.figure", "threadpoolctl", "sklearn.datasets"])
def test_a_missing_dependency_is_named_with_the_remedy(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["train"]) == 1
    printed, said = capsys.readouterr()
    assert "pip install 'gpu_adam[train]'" in said
    assert not printed  # it stopped before training


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("lr", ["1e30", "1e38"])
def test_a_loss_that_is_not_finite_is_a_failure(lr: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--engine", "cpu", "--lr", lr, "--epochs", "1", "--out", str(tmp_path / "curve.png")]
    assert main(["train", *options]) == 1
    assert "try a smaller --lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", "1e300"], "is infinite in float32, .*: try a smaller --lr"),
        (
            ["--lr", "1e30", "--weight-decay", "1e30"],
            "make a coefficient of step 1 infinite in float32, .*: try a smaller --lr",
        ),
        (["--eps", "1e-46"], "eps=1e-46 of group 0: is 0 in float32, .*: try a larger --eps"),
        (["--weight-decay", "1e39"], "is infinite in float32, .*: try a smaller --weight-decay"),
        (["--loss-scale", "1e-39"], "is infinite in float32: .*: try a larger --loss-scale"),
    ],
)
def test_numbers_that_float32_cannot_hold_are_named(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--engine", "cpu", "--epochs", "1", *options, "--out", str(tmp_path / "curve.png")]) == 1
    error = capsys.readouterr().err
    assert re.search(f"gpu-adam train: .*{message}", error)
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "'0' is not a whole number of at least 1"),
        (["--batch-size", "many"], "'many' is not a whole number of at least 1"),
        (["--lr", "nan"], "'nan' is not a number of at least 0"),
        (["--lr", "inf"], "'inf' is not a number of at least 0"),
        (["--betas", "0.9", "1"], "'1' is not a number of at least 0 and less than 1"),
        (["--dtype", "int8"], "float32"),
        (["--engine", "tpu"], "cupy"),
        (["--loss-scale", "0"], "'0' is not above 0"),
        (["--loss-scale", "static"], "'static' is not a number of at least 0"),
        (["--max-grad-norm", "-1"], "'-1' is not a number of at least 0"),
        (["--ema-decay", "1"], "'1' is not a number of at least 0 and less than 1"),
        (["--schedule", "step"], "inverse-sqrt"),
        (["--warmup", "-1"], "'-1' is not a whole number of at least 0"),
        (["--momentum", "1"], "unrecognized arguments: --momentum 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_doctor_is_handed_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    doctor = ModuleType("gpu_adam.doctor")
    doctor.main = lambda args: given.append(args) or 1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gpu_adam.doctor", doctor)
    assert main(["doctor", "--help", "-x"]) == 1
    assert given == [["--help", "-x"]]


def test_an_interrupt_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(args: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpu_adam.train.command.main", interrupt)
    assert main(["train"]) == 130
