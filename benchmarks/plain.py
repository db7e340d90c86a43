"""Who is measured at Adam alone: each makes its own copy of the parameters, and can step and show what came out.

Optimizers are made for the other cases here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np

from gpu_adam.arrays import to_host

from .libraries import BFLOAT16, Array
from .rules import BETAS, LR, RULES
from .start import Contender, Start

MOST_PASSED = 1 << 25
"""Elements up to which gradients are passed to a packed optimizer too; beyond, one more contender would cost gigabytes."""


def gpu_adam(start: Start, engine: str, library: Any) -> Iterator[Contender]:
    """`GpuAdam` in place and packed; gradients bound, and the same arrays handed to ``step`` each time."""
    name = f"GpuAdam {engine}"
    in_place = bound(start, engine, library, pack=False)
    grads = in_place.grads
    steps = {f"{name} in place": in_place.step, f"{name} in place, grads passed": lambda: in_place.step(grads)}
    yield Contender(steps, host_params(in_place))
    packed = bound(start, engine, library, pack=True)
    yield Contender({f"{name} packed": packed.step}, host_params(packed))
    if start.case.elements <= MOST_PASSED:
        # An optimizer of its own: passing and binding by turns would make another plan at each turn.
        passed = made(start, engine, library, pack=True)
        yield Contender({f"{name} packed, grads passed": lambda: passed.step(grads)}, host_params(passed))


def made(start: Start, engine: str, library: Any, **options: Any) -> Any:
    """The case's optimizer, of its own copy of the parameters."""
    ours = RULES[start.case.optimizer].ours
    return ours([library.put(p) for p in start.params], **start.hyperparameters, engine=engine, **options)


def bound(
    start: Start, engine: str, library: Any, *, pack: bool, grads: Sequence[Array] | None = None, **options: Any
) -> Any:
    """An optimizer with its gradients bound; by default the start's."""
    optimizer = made(start, engine, library, pack=pack, **options)
    grads = start.grads if grads is None else grads
    if pack:
        for view, gradient in zip(optimizer.grads, grads, strict=True):
            library.fill(view, gradient)
    else:
        # The host's gradients are only read, so that they need not be copied for each contender.
        optimizer.grads = grads if engine == "cpu" else [library.put(g) for g in grads]
    return optimizer


def host_params(optimizer: Any) -> Callable[[], list[Array]]:
    """What shows the parameters on the host, in float32."""
    return lambda: [to_host(p).astype(np.float32) for p in optimizer.params]


TORCH_WAYS = {
    "torch fused": {"fused": True, "foreach": False},
    "torch foreach": {"fused": False, "foreach": True},
    "torch loop": {"fused": False, "foreach": False},
}
CAPTURABLE = {"fused": True, "foreach": False, "capturable": True}
"""PyTorch's way on a GPU that a graph can be made of."""


def torch_optimizer(start: Start, device: str, ways: Mapping[str, Mapping[str, bool]]) -> Contender:
    """PyTorch's. For bfloat16 it has no master weights and keeps its moments in bfloat16: half the bytes, and a coarser result."""
    import torch

    params = tensors(start, device)
    # One optimizer for several ways, so that they share its state: the way is looked up at each step.
    theirs = getattr(torch.optim, RULES[start.case.optimizer].torch)
    optimizer = theirs(params, **start.hyperparameters, **next(iter(ways.values())))

    def stepper(options: Mapping[str, bool]) -> Callable[[], Any]:
        def step() -> None:
            optimizer.param_groups[0].update(options)
            optimizer.step()

        return step

    return Contender({way: stepper(options) for way, options in ways.items()}, host_tensors(params), master=False)


def tensors(start: Start, device: str, grads: Sequence[Array | None] | None = None) -> list[Any]:
    """The parameters as PyTorch's tensors with gradients; by default the start's, on the CPU in the same memory."""
    import torch

    def tensor(array: Array) -> Any:
        words = torch.from_numpy(array.view(np.int16) if array.dtype == BFLOAT16 else array)
        return (words.view(torch.bfloat16) if array.dtype == BFLOAT16 else words).to(device)

    params = [tensor(p.copy()).requires_grad_() for p in start.params]
    for p, g in zip(params, start.grads if grads is None else grads, strict=True):
        p.grad = None if g is None else tensor(g)
    return params


def host_tensors(tensors: Sequence[Any]) -> Callable[[], list[Array]]:
    """What shows tensors on the host, in float32."""
    return lambda: [t.detach().float().cpu().numpy() for t in tensors]


def array_adam(start: Start, library: Any) -> Contender:
    """Adam as one writes it in NumPy, in place where that is easily said; CuPy runs the same lines."""
    xp = library.xp
    params, grads = ([library.put(a) for a in arrays] for arrays in (start.params, start.grads))
    masters = [p.astype(np.float32) for p in params] if start.case.format == "bfloat16" else params
    moments = [(xp.zeros(p.shape, np.float32), xp.zeros(p.shape, np.float32)) for p in params]
    (beta1, beta2), count = BETAS, 0

    def step() -> None:
        nonlocal count
        count += 1
        alpha, root = LR / (1 - beta1**count), sqrt(1 - beta2**count)
        for p, g, w, (m, v) in zip(params, grads, masters, moments, strict=True):
            g = g.astype(np.float32, copy=False)
            m *= beta1
            m += (1 - beta1) * g
            v *= beta2
            v += (1 - beta2) * g * g
            w -= alpha * m / (xp.sqrt(v) / root + start.eps)
            if w is not p:
                p[...] = w

    name = "NumPy" if xp is np else "CuPy, the NumPy code"
    return Contender({name: step}, lambda: [to_host(p).astype(np.float32) for p in params])
