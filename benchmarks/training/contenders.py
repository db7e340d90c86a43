"""Who is measured in a training loop: `GpuAdam` and `gpu_adam.torch.AdamW`, in place and packed, and PyTorch's AdamW in its three ways."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

from gpu_adam import GpuAdam

from ..plain import TORCH_WAYS, host_tensors, tensors
from ..start import MAX_NORM, Contender, Start
from ..variants import ADDED, PAIRS

TORCH = PAIRS["plain"]
"""What all are compared with."""

MOST_LOOPED = 1_000
"""Tensors up to which PyTorch's loop over them is measured: beyond, a step takes a second."""

GPU_ADAM, ADAMW = "GpuAdam", "gpu_adam.torch.AdamW"
IN_PLACE, BOUND, NEW = "in place", "packed (bound)", "packed (new)"
"""In place the gradients are new; packed they are the buckets' own with other values, or new as well."""

Make = Callable[..., Any]
"""Makes an optimizer of parameters and options."""


def contenders(start: Start) -> Iterator[Contender]:
    """All but the limit."""
    import torch

    variant = start.case.variant
    clips, absent = variant == "clip", variant == "absent"
    for name, make in ours().items():
        for how in (IN_PLACE, BOUND, NEW):
            if (clips and how == NEW) or (absent and how == BOUND):
                continue  # one way of packing is enough there, and a gradient in a bucket is never absent
            made, label = partial(make, pack=how != IN_PLACE), f"{name} {how}"
            yield _contender(start, label, made, how)
            if clips:
                made = partial(made, max_grad_norm=MAX_NORM)
            if clips or absent:
                yield _contender(start, f"{label}, {ADDED[variant]}", made, how, adds=True)
        if clips and name == ADAMW:
            yield _contender(start, f"{name} {IN_PLACE}, clip_grad_norm_", make, adds=True, norm=MAX_NORM)
    for way, options in TORCH_WAYS.items():
        if way == "torch loop" and len(start.case.shapes) > MOST_LOOPED:
            continue
        made = partial(without_flag, torch.optim.AdamW, **options)
        if not clips:
            yield _contender(start, way, made)
        if clips or absent:
            label = PAIRS[variant].replace("torch fused", way)
            yield _contender(start, label, made, adds=True, norm=MAX_NORM if clips else None)


def ours() -> dict[str, Make]:
    """What makes our optimizers, by name."""
    from gpu_adam.torch import AdamW

    return {GPU_ADAM: GpuAdam, ADAMW: partial(without_flag, AdamW)}


def without_flag(make: Make, params: Sequence[Any], *, decoupled_weight_decay: bool, **options: Any) -> Any:
    """What is called AdamW has no flag for what its name says."""
    assert decoupled_weight_decay
    return make(params, **options)


def _contender(
    start: Start, label: str, make: Make, how: str = IN_PLACE, *, adds: bool = False, norm: float | None = None
) -> Contender:
    """One of them.

    Args:
        start: The values to begin with.
        label: What to call it.
        make: Makes its optimizer.
        how: Where its gradients come from.
        adds: Whether it does what the case adds to a step.
        norm: What PyTorch clips the norm to before the step, in the time that is measured.
    """
    import torch

    params, grads = tensors(start, "cpu", [None] * len(start.grads)), [torch.from_numpy(g) for g in start.grads]
    optimizer = make(params, **start.hyperparameters)
    step = optimizer.step
    if norm is not None:

        def step() -> None:
            torch.nn.utils.clip_grad_norm_(params, norm)
            optimizer.step()

    absent = start.absent if adds else _none
    new = new_gradients(params, lambda index: grads[index].clone(), absent)
    return Contender(
        {label: step},
        host_tensors(params),
        factor=start.clip_factor if adds and start.case.variant == "clip" else 1.0,
        slack=0.0 if norm is None else 1e-2,  # PyTorch sums the norm's squares in float32
        before=bound_gradients(params, grads) if how == BOUND else new,
        absent=absent,
    )


def _none(t: int) -> Collection[int]:
    return ()


def new_gradients(
    params: Sequence[Any], made: Callable[[int], Any], absent: Callable[[int], Collection[int]] = _none
) -> Callable[[], None]:
    """What gives parameters gradients as ``zero_grad()`` and ``backward()`` do: none is left, and new ones come from the last to the first.

    Args:
        params: The parameters.
        made: Makes the gradient of a number.
        absent: The numbers of those that get none in step t = 1, 2, ….
    """
    steps = count(1)

    def before() -> None:
        gone = absent(next(steps))
        for param in params:
            param.grad = None
        for index in range(len(params) - 1, -1, -1):
            if index not in gone:
                params[index].grad = made(index)

    return before


def bound_gradients(params: Sequence[Any], grads: Sequence[Any]) -> Callable[[], None]:
    """What writes values into the gradients that parameters have, or gives them some, as ``backward()`` does."""

    def before() -> None:
        for param, gradient in zip(params, grads, strict=True):
            if param.grad is None:
                param.grad = gradient.clone()
            else:
                param.grad.copy_(gradient)

    return before
