"""``gpu-adam train``: the network's gradient, what training reaches, and what the program prints, writes and refuses."""

from __future__ import annotations

import gzip
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_adam import EngineUnavailable
from gpu_adam.cli import main
from gpu_adam.dtypes import BFLOAT16
from gpu_adam.train import backend as backends
from gpu_adam.train.backend import Backend, Stopwatch, choose
from gpu_adam.train.curve import smoothed
from gpu_adam.train.data import Dataset, load_digits
from gpu_adam.train.loop import Options, Result, train
from gpu_adam.train.network import backward, forward, initial
from tests.train.test_data import HYPHENS, some_data, write

PNG = b"\x89PNG\r\n\x1a\n"
CPU = Backend(np, "cpu")

# Central differences of step 1e-6 in float64: cancellation costs 1e-16 / 1e-6, the third derivative 1e-12.
DIFFERENCE_STEP = 1e-6
DIFFERENCE_TOLERANCE = 1e-8


class Bar:
    """A progress bar that remembers."""

    def __init__(self) -> None:
        self.steps = 0
        self.said: list[str] = []

    def update(self, n: int) -> None:
        self.steps += n

    def set_postfix_str(self, s: str, refresh: bool) -> None:
        self.said.append(s)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_digits()


# The network.


@pytest.mark.parametrize("sizes", [(5, 3), (5, 7, 3), (5, 7, 4, 3)])
def test_the_gradient_is_that_of_the_loss(sizes: Sequence[int]) -> None:
    random = np.random.default_rng(0)
    params = initial(sizes, np.float64, random)
    for name in params:
        params[name] += 0.1 * random.standard_normal(params[name].shape)  # biases too
    x, targets = random.standard_normal((6, 5)), np.eye(3)[[0, 1, 2, 2, 1, 0]]
    grads = {name: np.full_like(value, np.nan) for name, value in params.items()}
    spare = {name: np.empty_like(value) for name, value in params.items()}
    backward(np, params, grads, x, targets)
    for name, value in params.items():
        for place in np.ndindex(value.shape):
            old = value[place]
            value[place] = old + DIFFERENCE_STEP
            above = backward(np, params, spare, x, targets)
            value[place] = old - DIFFERENCE_STEP
            below = backward(np, params, spare, x, targets)
            value[place] = old
            slope = (above - below) / (2 * DIFFERENCE_STEP)
            assert grads[name][place] == pytest.approx(slope, abs=DIFFERENCE_TOLERANCE), (name, place)


def test_a_network_that_knows_nothing_loses_the_logarithm_of_the_classes() -> None:
    params = {"w0": np.zeros((5, 10)), "b0": np.zeros(10)}
    grads = {name: np.empty_like(value) for name, value in params.items()}
    loss = backward(np, params, grads, np.ones((4, 5)), np.eye(10)[:4])
    assert loss == pytest.approx(np.log(10))


def test_large_logits_do_not_overflow() -> None:
    params = {"w0": np.diag([1e30, -1e30]).astype(np.float32), "b0": np.zeros(2, np.float32)}
    grads = {name: np.empty_like(value) for name, value in params.items()}
    loss = backward(np, params, grads, np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))
    assert np.isfinite(loss)
    assert all(np.isfinite(value).all() for value in grads.values())


def test_signals_keep_their_size_through_the_layers() -> None:
    params = initial((400, 400, 400, 400), np.float64, np.random.default_rng(0))
    *_, last = forward(np, params, np.random.default_rng(1).standard_normal((200, 400)))
    assert float((last**2).mean()) == pytest.approx(
        2, rel=0.2
    )  # a ReLU halves the square, and 2/inputs makes up for it


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16.dtype])
def test_parameters_of_16_bits_meet_activations_of_32(dtype: Any) -> None:
    params = initial((5, 7, 3), dtype, np.random.default_rng(0))
    assert {value.dtype for value in params.values()} == {np.dtype(dtype)}
    assert {value.dtype for value in forward(np, params, np.ones((2, 5), np.float32))} == {np.dtype(np.float32)}


def test_a_loss_scale_multiplies_what_is_stored_and_not_the_loss() -> None:
    random = np.random.default_rng(0)
    params = initial((5, 7, 3), np.float64, random)
    x, targets = random.standard_normal((6, 5)), np.eye(3)[[0, 1, 2, 2, 1, 0]]
    plain, scaled = ({name: np.empty_like(value) for name, value in params.items()} for _ in range(2))
    loss = backward(np, params, plain, x, targets)
    assert backward(np, params, scaled, x, targets, np.array(1024.0, np.float32)) == loss
    for name, value in plain.items():
        np.testing.assert_array_equal(scaled[name], 1024 * value)


@pytest.mark.parametrize(("dtype", "lost"), [(np.float16, True), (BFLOAT16.dtype, False)])
def test_a_loss_scale_saves_small_gradients_from_underflow(dtype: Any, lost: bool) -> None:
    """Those below 2^-25, which are 0 in float16; bfloat16 has the range of float32."""
    params = initial((5, 3), dtype, np.random.default_rng(0))
    x, targets = np.full((2, 5), 2.0**-26, np.float32), np.eye(3, dtype=np.float32)[:2]
    grads = {name: np.empty_like(value) for name, value in params.items()}
    backward(np, params, grads, x, targets)
    assert (grads["w0"] == 0).all() == lost
    backward(np, params, grads, x, targets, 1024.0)
    assert (grads["w0"] != 0).all()


# Training.


def test_a_few_epochs_recognise_most_digits(digits: Dataset) -> None:
    bar = Bar()
    result = train(digits, CPU, Options(epochs=15, hidden=(64,), shift=0), bar)
    assert result.accuracies[-1] > 0.93
    assert result.losses[-1] < result.losses[0] / 5
    assert (result.sizes, result.parameters) == ((64, 64, 10), 64 * 64 + 64 + 64 * 10 + 10)
    assert len(result.losses) == len(result.step_seconds) == bar.steps == 15 * 22  # ceil(1347 / 64) = 22
    assert len(result.accuracies) == len(bar.said) == 15
    assert result.updates_per_second > result.updates_per_second_overall > 0


def test_the_same_seed_gives_the_same_run_and_another_one_another(digits: Dataset) -> None:
    def run(seed: int) -> Result:
        return train(digits, CPU, Options(epochs=2, hidden=(16,), seed=seed), Bar())

    first, again, other = run(1), run(1), run(2)
    assert first.losses == again.losses
    assert first.accuracies == again.accuracies
    assert first.losses != other.losses


@pytest.mark.parametrize(
    "options",
    [
        Options(epochs=20, hidden=(), shift=0),
        Options(epochs=8, shift=0, hidden=(64, 32), dtype=np.float64, adam={"amsgrad": True}),
        Options(epochs=8, shift=0, hidden=(64,), dtype=np.float16),
        Options(epochs=8, shift=0, hidden=(64,), dtype=BFLOAT16.dtype),
        Options(epochs=8, shift=0, hidden=(64,), adam={"weight_decay": 0.01, "decoupled_weight_decay": True}),
        Options(epochs=40, hidden=(64,), batch_size=5000, lr=0.02, shift=0),  # more than there are images
    ],
    ids=["no hidden layer", "float64 amsgrad", "float16", "bfloat16", "AdamW", "one batch"],
)
def test_every_option_learns(digits: Dataset, options: Options) -> None:
    assert train(digits, CPU, options, Bar()).accuracies[-1] > 0.75


SEEDS = range(3)
HALF_A_PERCENT = 0.005
"""Two of the 450 test images; the runs of the seeds differ by more."""


@pytest.fixture(scope="module")
def float32_accuracy(digits: Dataset) -> float:
    return mean_accuracy(digits, Options(epochs=60, hidden=(64,), shift=0))


def mean_accuracy(digits: Dataset, options: Options) -> float:
    runs = [train(digits, CPU, replace(options, seed=seed), Bar()) for seed in SEEDS]
    return sum(run.accuracies[-1] for run in runs) / len(runs)


@pytest.mark.parametrize("loss_scale", ["dynamic", 1024.0])
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16.dtype])
def test_16_bits_with_loss_scaling_and_clipping_reach_what_float32_does(
    digits: Dataset, float32_accuracy: float, dtype: Any, loss_scale: Any
) -> None:
    options = Options(epochs=60, hidden=(64,), shift=0, dtype=dtype, loss_scale=loss_scale, max_grad_norm=1.0)
    assert mean_accuracy(digits, options) == pytest.approx(float32_accuracy, abs=HALF_A_PERCENT)


def test_a_loss_scale_out_of_range_skips_every_step(digits: Dataset) -> None:
    options = Options(epochs=2, hidden=(16,), shift=0, dtype=np.float16, loss_scale=2.0**40)
    result = train(digits, CPU, options, Bar())
    assert result.skipped == len(result.losses)
    assert result.accuracies[0] == result.accuracies[1]
    assert result.grad_norm == np.inf
    assert result.loss_scale == 2.0**40


def test_a_dynamic_loss_scale_finds_its_range(digits: Dataset) -> None:
    """In float16, of which the first scale is too large for gradients this large."""
    bright = replace(digits, white=digits.white / 64)
    options = Options(epochs=4, hidden=(16,), shift=0, dtype=np.float16, loss_scale="dynamic")
    result = train(bright, CPU, options, Bar())
    assert 0 < result.skipped < 20
    assert result.loss_scale == 65536.0 / 2**result.skipped
    assert result.losses[-1] < result.losses[0]


def test_the_norm_is_told_where_it_is_measured(digits: Dataset) -> None:
    options = Options(epochs=1, hidden=(16,))
    assert train(digits, CPU, options, Bar()).grad_norm is None
    measured = train(digits, CPU, replace(options, max_grad_norm=0.1), Bar())
    assert measured.grad_norm is not None
    assert measured.grad_norm > 0.1  # as it was before clipping
    assert (measured.skipped, measured.loss_scale) == (0, None)


def test_the_averaged_parameters_are_tested_too_and_change_nothing(digits: Dataset) -> None:
    options = Options(epochs=5, hidden=(32,), shift=0, schedule="constant")
    plain, averaged = (train(digits, CPU, replace(options, ema_decay=decay), Bar()) for decay in (None, 0.95))
    assert not plain.averaged_accuracies
    assert averaged.losses == plain.losses
    assert averaged.accuracies == plain.accuracies
    assert len(averaged.averaged_accuracies) == 5
    assert averaged.averaged_accuracies[-1] > 0.75
    assert averaged.averaged_accuracies != averaged.accuracies


@pytest.mark.parametrize(
    ("schedule", "warmup", "values"),
    [
        ("constant", 0, {1: 1.0, 20: 1.0}),
        ("constant", 4, {1: 0.25, 4: 1.0, 20: 1.0}),
        ("linear", 0, {1: 1.0, 11: 0.5, 20: 0.05}),
        ("linear", 5, {1: 0.2, 5: 1.0, 13: 0.5, 20: 0.0625}),
        ("linear", 20, {1: 0.05, 20: 1.0}),
        ("cosine", 0, {1: 1.0, 11: 0.5, 20: 0.0061558}),
        ("inverse-sqrt", 0, {1: 1.0, 4: 0.5, 16: 0.25}),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule: str, warmup: int, values: dict[int, float]) -> None:
    """Over 20 steps, the last of which still moves something."""
    options = Options(epochs=2, batch_size=10, lr=1.0, schedule=schedule, warmup=warmup)
    lr = options.lr_schedule(images=100)
    assert {t: lr(t) for t in values} == pytest.approx(values, rel=1e-5)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "inverse-sqrt"])
def test_every_schedule_learns(digits: Dataset, schedule: str) -> None:
    options = Options(epochs=8, shift=0, hidden=(64,), schedule=schedule, warmup=0 if "sqrt" in schedule else 10)
    assert train(digits, CPU, options, Bar()).accuracies[-1] > 0.75


def test_training_moves_the_images_and_testing_does_not() -> None:
    """A single white pixel in one of two corners, which a move of one pixel can push over the edge but not to the other corner."""
    images = np.zeros((2, 4, 4), np.uint8)
    images[0, 0, 0] = images[1, 3, 3] = 255
    data = Dataset("corners", images, np.array([0, 1], np.uint8), images, np.array([0, 1], np.uint8))
    assert train(data, CPU, Options(epochs=200, hidden=(8,)), Bar()).accuracies[-1] == 1


def test_smoothing_begins_without_bias_and_follows() -> None:
    assert smoothed([3.0] * 5, 0.01) == pytest.approx([3.0] * 5)
    assert smoothed([1.0, 5.0, 2.0], 1.0).tolist() == [1, 5, 2]


# Where it runs.


class FakeEvent:
    clock = 0

    def record(self) -> None:
        FakeEvent.clock += 1
        self.at = FakeEvent.clock

    def synchronize(self) -> None:
        pass


def fake_cupy() -> Any:
    """NumPy with what the job asks of CuPy beyond NumPy's functions; between two records lies a second."""
    fake = ModuleType("cupy")
    fake.__dict__.update({name: getattr(np, name) for name in dir(np) if not name.startswith("__")})
    fake.asnumpy = np.asarray  # type: ignore[attr-defined]
    fake.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        Event=FakeEvent, get_elapsed_time=lambda begin, end: 1000 * (end.at - begin.at)
    )
    return fake


def test_the_way_over_cupy_is_the_way_over_numpy(digits: Dataset) -> None:
    options = Options(epochs=2, hidden=(16,))
    result = train(digits, Backend(fake_cupy(), "cpu"), options, Bar())
    assert result.losses == train(digits, CPU, options, Bar()).losses
    assert set(result.step_seconds) == {1.0}


def test_the_stopwatch_counts_what_runs_inside() -> None:
    watch = Stopwatch(CPU)
    for _ in range(2):
        with watch.running():
            sum(range(1000))
    watch.collect()
    assert len(watch.seconds) == 2
    assert min(watch.seconds) > 0


def unavailable(*_: Any) -> Any:
    raise EngineUnavailable("there is none")


def test_without_a_gpu_it_runs_on_the_cpu_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "gpu_engine", unavailable)
    found = choose("auto")
    assert (found.xp, found.engine) == (np, "cpu")
    assert "gpu-adam doctor" in found.why_no_gpu


def test_an_engine_asked_for_by_name_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "engine_named", unavailable)
    for name in ("cupy", "numba"):
        with pytest.raises(EngineUnavailable, match="there is none"):
            choose(name)


def test_a_gpu_without_a_working_cupy_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "gpu_engine", lambda: SimpleNamespace(name="numba"))
    monkeypatch.setattr(backends, "engine_named", lambda name: SimpleNamespace(name=name))
    monkeypatch.setitem(sys.modules, "cupy", None)
    found = choose("auto")
    assert found.engine == "cpu"
    assert "pip install" in found.why_no_gpu
    with pytest.raises(EngineUnavailable, match="pip install"):
        choose("numba")


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="'tpu': use 'auto', 'cpu', 'cupy', 'numba'"):
        choose("tpu")


@pytest.mark.gpu
@pytest.mark.parametrize(
    "more",
    [{}, {"dtype": np.float16, "loss_scale": "dynamic", "max_grad_norm": 1.0, "ema_decay": 0.9}],
    ids=["float32", "float16"],
)
@pytest.mark.parametrize("engine", ["cupy", "numba"])
def test_it_trains_on_a_gpu(digits: Dataset, engine: str, more: dict[str, Any]) -> None:
    pytest.importorskip("cupy")
    found = choose(engine)
    assert found.xp.__name__ == "cupy"
    result = train(digits, found, Options(epochs=15, hidden=(64,), shift=0, **more), Bar())
    assert result.accuracies[-1] > 0.93
    assert all(accuracy > 0.75 for accuracy in result.averaged_accuracies[-1:])
    assert min(result.step_seconds) > 0


# The program.


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
