"""Who is measured at steps that do more than Adam: our own in the same pass, our plain step, and PyTorch's in passes of their own.

A label is the plain step's, a comma, and what is added to it, so that the report finds what each addition costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gpu_adam import GpuAdam, LossScaler
from gpu_adam.arrays import to_host

from .cases import Variant
from .libraries import has_torch
from .plain import MOST_PASSED, bound, host_params, host_tensors, made, tensors
from .rules import BETAS, LR
from .start import DECAY, LOSS_SCALE, MAX_NORM, Contender, Start

ADDED: dict[Variant, str] = {
    "clip": "clipping",
    "average": "averaging",
    "scale": "scaling and skipping",
    "rows": "rows",
    "absent": "some absent",
}
"""What our own labels add to the plain step's."""

PAIRS: dict[Variant, str] = {
    "plain": "torch fused",
    "clip": "torch fused, clip_grad_norm_",
    "average": "torch fused, AveragedModel",
    "scale": "torch fused, GradScaler",
    "rows": "torch SparseAdam",
    "absent": "torch fused, some absent",
}
"""PyTorch's counterparts, which all are compared with."""

# Steps that are timed for hours must not make the scale grow.
_NEVER = 2**31 - 1


def contenders(start: Start, libraries: Mapping[str, Any], device: str) -> Iterator[Contender]:
    """All but the limit.

    Args:
        start: The values to begin with.
        libraries: The engines to measure, and the library whose arrays each gets.
        device: PyTorch's name of where.
    """
    ours, theirs = _WAYS[start.case.variant]
    for engine, library in libraries.items():
        yield from ours(start, engine, library)
    if has_torch(device):
        yield theirs(start, device)


def _packings(start: Start) -> Iterator[tuple[bool, str]]:
    """In place and packed; of what is very large only packed, since each way costs gigabytes."""
    if start.case.elements <= MOST_PASSED:
        yield False, "in place"
    yield True, "packed"


def _plain(start: Start, engine: str, library: Any) -> Iterator[Contender]:
    for pack, how in _packings(start):
        optimizer = bound(start, engine, library, pack=pack)
        yield Contender({f"GpuAdam {engine} {how}": optimizer.step}, host_params(optimizer))


# Clipping.


def _clipped(start: Start, engine: str, library: Any) -> Iterator[Contender]:
    yield from _plain(start, engine, library)
    for pack, how in _packings(start):
        optimizer = bound(start, engine, library, pack=pack, max_grad_norm=MAX_NORM)
        label = f"GpuAdam {engine} {how}, {ADDED['clip']}"
        yield Contender({label: optimizer.step}, host_params(optimizer), factor=start.clip_factor)


def _torch_clipped(start: Start, device: str) -> Contender:
    """PyTorch writes the clipped gradients back; from the second step on they have the norm that they are clipped to."""
    import torch

    params = tensors(start, device, [g.copy() for g in start.grads])
    optimizer = torch.optim.Adam(params, LR, BETAS, start.eps, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
        optimizer.step()

    # On the CPU it sums in float32, one after the other: the norm of 16 Mi gradients is 0.08 % too small.
    return Contender({PAIRS["clip"]: step}, host_tensors(params), factor=start.clip_factor, slack=1e-2)


# Averaging.


def _averaged(start: Start, engine: str, library: Any) -> Iterator[Contender]:
    yield from _plain(start, engine, library)
    for pack, how in _packings(start):
        optimizer = bound(start, engine, library, pack=pack, ema_decay=DECAY)
        yield Contender(
            {f"GpuAdam {engine} {how}, {ADDED['average']}": optimizer.step},
            host_params(optimizer),
            averages=_host_averages(optimizer),
            weight=lambda t: (1 - DECAY) / (1 - DECAY**t),
        )


def _host_averages(optimizer: GpuAdam) -> Callable[[], list[Any]]:
    return lambda: [to_host(average) for average in optimizer.averaged_params]


def _torch_averaged(start: Start, device: str) -> Contender:
    """PyTorch's average begins with the parameters after the first step, and has no correction."""
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    params = tensors(start, device)
    optimizer = torch.optim.Adam(params, LR, BETAS, start.eps, fused=True)
    # The list's parameters are others, but in the same memory.
    model = torch.nn.ParameterList(params)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))

    def step() -> None:
        optimizer.step()
        average.update_parameters(model)

    return Contender(
        {PAIRS["average"]: step},
        host_tensors(params),
        averages=host_tensors(list(average.module)),
        weight=lambda t: 1.0 if t == 1 else 1 - DECAY,
    )


# Scaling and skipping.


def _scaled(start: Start, engine: str, library: Any) -> Iterator[Contender]:
    """By a number, and by a `LossScaler`."""
    yield from _plain(start, engine, library)
    for pack, how in _packings(start):
        name = f"GpuAdam {engine} {how}"
        fixed = bound(start, engine, library, pack=pack, grads=start.scaled_grads, skip_nonfinite=True)
        yield Contender({f"{name}, {ADDED['scale']}": _scaled_step(fixed, LOSS_SCALE)}, host_params(fixed))
        adapted = bound(start, engine, library, pack=pack, grads=start.scaled_grads)
        scaler = LossScaler(adapted, LOSS_SCALE, growth_interval=_NEVER)
        yield Contender({f"{name}, LossScaler": _scaled_step(adapted, scaler)}, host_params(adapted))


def _scaled_step(optimizer: GpuAdam, scale: Any) -> Callable[[], None]:
    return lambda: optimizer.step(grad_scale=scale)


def _torch_scaled(start: Start, device: str) -> Contender:
    """PyTorch writes the unscaled gradients back; with a scale of 1 the next step finds the same again."""
    import torch

    params = tensors(start, device, [g.copy() for g in start.grads])
    optimizer = torch.optim.Adam(params, LR, BETAS, start.eps, fused=True)
    scaler = torch.amp.GradScaler(device, 1.0, growth_interval=_NEVER)
    scaler.scale(torch.ones((), device=device))  # a step needs a scale, which the first loss makes

    def step() -> None:
        scaler.step(optimizer)
        scaler.update()

    return Contender({PAIRS["scale"]: step}, host_tensors(params))


# Rows.


def _of_rows(start: Start, engine: str, library: Any) -> Iterator[Contender]:
    assert start.rows is not None
    dense = bound(start, engine, library, pack=False)
    yield Contender({f"GpuAdam {engine} in place": dense.step}, host_params(dense))
    optimizer = made(start, engine, library)
    numbers, values = map(library.put, start.rows)
    label = f"GpuAdam {engine} in place, {ADDED['rows']}"
    yield Contender({label: lambda: optimizer.step([(numbers, values)])}, host_params(optimizer))


def _torch_of_rows(start: Start, device: str) -> Contender:
    import torch

    assert start.rows is not None
    (param,) = tensors(start, device, [None])
    numbers, values = (torch.from_numpy(array).to(device) for array in start.rows)
    param.grad = torch.sparse_coo_tensor(numbers[None], values, param.shape, check_invariants=False)
    optimizer = torch.optim.SparseAdam([param], LR, BETAS, start.eps)
    return Contender({PAIRS["rows"]: optimizer.step}, host_tensors([param]))


_WAYS: dict[Variant, tuple[Any, Any]] = {
    "clip": (_clipped, _torch_clipped),
    "average": (_averaged, _torch_averaged),
    "scale": (_scaled, _torch_scaled),
    "rows": (_of_rows, _torch_of_rows),
}
