"""``gpu-adam train``: what training reaches, and where it runs."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_adam import EngineUnavailable
from gpu_adam.dtypes import BFLOAT16
from gpu_adam.train import backend as backends
from gpu_adam.train.backend import Backend, Stopwatch, choose
from gpu_adam.train.curve import smoothed
from gpu_adam.train.data import Dataset, load_digits
from gpu_adam.train.loop import Options, Result, train

CPU = Backend(np, "cpu")


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
