"""Training: batches in, `GpuAdam.step` after each, accuracy after each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from time import perf_counter
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import DTypeLike

from ..optim import GpuAdam
from ..schedules import constant, cosine, inverse_sqrt, linear
from ..step.loss_scaler import LossScaler
from .backend import Backend, Stopwatch
from .data import Dataset
from .network import backward, forward, initial

_TEST_BATCH = 1000


class OptionError(ValueError):
    """Options that do not go together; the message names them as the command line does."""


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images of a step; the last batch of an epoch may be smaller.
        lr: The largest learning rate.
        schedule: How it goes: ``"constant"``, ``"cosine"``, ``"linear"`` or ``"inverse-sqrt"``.
        warmup: Steps in which it rises first.
        hidden: The widths of the hidden layers.
        shift: Training images are moved by up to this many pixels in each direction, a whole batch alike.
        seed: Of weights, batches and shifts.
        dtype: Of the parameters and of the stored gradients.
        loss_scale: What gradients are multiplied by before they are stored: a number, ``"dynamic"`` for a `LossScaler`, ``None`` for 1.
            With either, steps whose gradients are not finite are skipped.
        max_grad_norm: What the gradients' norm is clipped to; ``None`` not to.
        ema_decay: The decay of an average of the parameters, which is tested too; ``None`` to keep none.
        adam: Further arguments of `GpuAdam`.
    """

    epochs: int = 10
    batch_size: int = 64
    lr: float = 3e-3
    schedule: str = "linear"
    warmup: int = 0
    hidden: Sequence[int] = (256, 128)
    shift: int = 1
    seed: int = 0
    dtype: DTypeLike = np.float32
    loss_scale: float | Literal["dynamic"] | None = None
    max_grad_norm: float | None = None
    ema_decay: float | None = None
    adam: Mapping[str, Any] = field(default_factory=dict)

    def steps(self, images: int) -> int:
        """How many steps training on so many images takes."""
        return self.epochs * ceil(images / self.batch_size)

    def lr_schedule(self, images: int) -> Callable[[int], float]:
        """The learning rate as a function of the step, in training on so many images.

        Raises:
            OptionError: If the warm-up does not fit.
        """
        # What falls to 0 is there after the last step, which then still moves something.
        end = self.steps(images) + 1
        if self.warmup >= end:
            raise OptionError(f"--warmup {self.warmup}: must be at most the {end - 1:,} steps of training")
        if self.schedule == "inverse-sqrt":
            if self.warmup:
                raise OptionError(
                    f"--warmup {self.warmup}: must be 0 with --schedule inverse-sqrt, which falls from the first step on"
                )
            return inverse_sqrt(self.lr)
        if self.schedule == "constant":
            return constant(self.lr, self.warmup)
        return {"cosine": cosine, "linear": linear}[self.schedule](self.lr, end, warmup_steps=self.warmup)


@dataclass(frozen=True)
class Result:
    """What training came to.

    Attributes:
        sizes: The width of each layer.
        parameters: How many numbers were trained.
        losses: The training loss of each step.
        accuracies: The share of test images that were recognised, after each epoch.
        seconds: How long all of it took, the tests after each epoch included.
        step_seconds: How long each step of the optimizer took.
        averaged_accuracies: The accuracies of the averaged parameters; empty where no average was kept.
        skipped: How many steps were skipped.
        grad_norm: The norm of the last step's gradients, unscaled and before clipping; ``None`` where it was not measured.
        loss_scale: The loss scale at the end; ``None`` where there was none.
    """

    sizes: Sequence[int]
    parameters: int
    losses: Sequence[float]
    accuracies: Sequence[float]
    seconds: float
    step_seconds: Sequence[float]
    averaged_accuracies: Sequence[float] = ()
    skipped: int = 0
    grad_norm: float | None = None
    loss_scale: float | None = None

    @property
    def updates_per_second(self) -> float:
        """Parameters updated in a second spent in the optimizer; the first step, which loads the kernels, is left out."""
        steps = self.step_seconds[1:] or self.step_seconds
        return self.parameters * len(steps) / sum(steps)

    @property
    def updates_per_second_overall(self) -> float:
        """Parameters updated in a second of the whole."""
        return self.parameters * len(self.losses) / self.seconds


class Progress(Protocol):
    """What the loop tells of itself: tqdm has these methods."""

    def update(self, n: int) -> Any:
        """So many more steps were taken."""

    def set_postfix_str(self, s: str, refresh: bool) -> Any:
        """How it is going, to be shown at once or with the next update."""


def train(data: Dataset, backend: Backend, options: Options, progress: Progress) -> Result:
    """Train a network on a data set.

    The same data, backend and options give the same result, on one machine.

    Raises:
        OptionError: If options do not go together, or do not suit the images.
    """
    smallest = min(data.images[0].shape)
    if options.shift >= smallest:
        raise OptionError(f"--shift {options.shift}: must be less than the {smallest} pixels that the images have")
    xp = backend.xp
    random = np.random.default_rng(options.seed)
    sizes = (data.images[0].size, *options.hidden, data.classes)
    batches = Batches(data, backend, options, random)

    start_values = {name: xp.asarray(value) for name, value in initial(sizes, options.dtype, random).items()}
    opt = GpuAdam(
        start_values,
        lr=options.lr_schedule(len(data.images)),
        pack=True,
        engine=backend.engine,
        max_grad_norm=options.max_grad_norm,
        skip_nonfinite=options.loss_scale is not None,
        ema_decay=options.ema_decay,
        **options.adam,
    )
    params, grads = opt.params, opt.grads  # views into the optimizer's flat buckets
    scaler = LossScaler(opt) if options.loss_scale == "dynamic" else None
    # Of a dynamic scale the array that the steps change, so that the host never asks for it.
    scale = options.loss_scale if scaler is None else scaler.current

    losses: list[float] = []
    accuracies: list[float] = []
    averaged_accuracies: list[float] = []
    watch = Stopwatch(backend)
    start = perf_counter()
    for _ in range(options.epochs):
        epoch_losses: list[Any] = []
        for x, targets in batches:
            # A scaled gradient that overflows is an infinity that the step looks for.
            with np.errstate(over="warn" if scale is None else "ignore"):
                epoch_losses.append(backward(xp, params, grads, x, targets, scale))
            with watch.running():
                opt.step(grad_scale=scale if scaler is None else scaler)
            progress.update(1)
        # Losses are fetched once an epoch, since a GPU would stand still for each.
        losses += backend.to_host(xp.stack(epoch_losses)).tolist()
        mean_loss = sum(losses[-len(epoch_losses) :]) / len(epoch_losses)
        watch.collect()
        accuracies.append(batches.accuracy(params))
        if options.ema_decay is not None:
            with opt.averaged():
                averaged_accuracies.append(batches.accuracy(params))
        progress.set_postfix_str(f"loss {mean_loss:.4f}, test accuracy {accuracies[-1]:.2%}", refresh=False)
    seconds = perf_counter() - start
    count = sum(value.size for value in start_values.values())
    measured = options.max_grad_norm is not None or options.loss_scale is not None
    return Result(
        sizes,
        count,
        losses,
        accuracies,
        seconds,
        watch.seconds,
        averaged_accuracies,
        opt.steps_skipped,
        float(opt.grad_norm) if measured else None,
        None if scale is None else float(scale),
    )


class Batches:
    """A data set in the backend's memory, its training part in another order and other places each time it is gone through."""

    def __init__(self, data: Dataset, backend: Backend, options: Options, random: np.random.Generator) -> None:
        xp = backend.xp
        self._data, self._backend, self._options, self._random = data, backend, options, random
        # Activations of 16 bits would overflow, and the CPU has no matrix products of them.
        self._dtype = np.promote_types(options.dtype, np.float32)
        margin = ((0, 0), (options.shift, options.shift), (options.shift, options.shift))
        self._images = xp.asarray(np.pad(data.images, margin))
        self._targets = xp.asarray(np.eye(data.classes, dtype=self._dtype)[data.labels])
        self._test_images = xp.asarray(data.test_images)
        self._test_labels = xp.asarray(data.test_labels)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        height, width = self._data.images.shape[1:]
        order = self._backend.xp.asarray(self._random.permutation(len(self._images)))
        for start in range(0, len(order), self._options.batch_size):
            chosen = order[start : start + self._options.batch_size]
            top, left = self._random.integers(2 * self._options.shift + 1, size=2).tolist()
            moved = self._images[chosen, top : top + height, left : left + width]
            yield self._rows(moved), self._targets[chosen]

    def _rows(self, images: Any) -> Any:
        return images.reshape(len(images), -1).astype(self._dtype) / self._data.white

    def accuracy(self, params: Mapping[str, Any]) -> float:
        """The share of the test images whose largest logit is their class's."""
        right = self._backend.xp.zeros((), np.int64)
        for start in range(0, len(self._test_images), _TEST_BATCH):
            logits = forward(self._backend.xp, params, self._rows(self._test_images[start : start + _TEST_BATCH]))[-1]
            right += (logits.argmax(axis=1) == self._test_labels[start : start + _TEST_BATCH]).sum()
        return int(right) / len(self._test_images)
