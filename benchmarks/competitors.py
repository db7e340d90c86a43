"""Adam as others have it on a GPU: PyTorch's in a graph, one CuPy kernel for each tensor, and JAX, which compiles the whole list."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from math import sqrt
from typing import Any

import numpy as np

from .plain import CAPTURABLE, torch_optimizer
from .rules import BETAS, LR
from .start import Contender, Start


def torch_replayed(start: Start, label: str) -> Contender:
    """PyTorch's fused step, replayed from a graph."""
    import torch

    contender = torch_optimizer(start, "cuda", {label: CAPTURABLE})
    (step,) = contender.steps.values()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()  # what the first step allocates cannot be captured
    torch.cuda.current_stream().wait_stream(side)
    contender.taken = 1
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    contender.steps = {label: graph.replay}
    return contender


_KERNEL = """
    m += (g - m) * w1;
    v += (g * g - v) * w2;
    p -= alpha * m / (sqrt(v) * inverse_root + eps);
"""


def cupy_kernel(start: Start, library: Any) -> Contender:
    """A call for each tensor."""
    cupy = library.xp
    kernel = cupy.ElementwiseKernel(
        "T g, T alpha, T inverse_root, T w1, T w2, T eps", "T p, T m, T v", _KERNEL, "elementwise_adam"
    )
    params, grads = ([library.put(a) for a in arrays] for arrays in (start.params, start.grads))
    moments = [(cupy.zeros_like(p), cupy.zeros_like(p)) for p in params]
    (beta1, beta2), count = BETAS, 0

    def step() -> None:
        nonlocal count
        count += 1
        alpha, inverse_root = LR / (1 - beta1**count), 1 / sqrt(1 - beta2**count)
        for p, g, (m, v) in zip(params, grads, moments, strict=True):
            kernel(g, alpha, inverse_root, 1 - beta1, 1 - beta2, start.eps, p, m, v)

    return Contender({"CuPy ElementwiseKernel": step}, lambda: [p.get() for p in params])


def jax_adam(start: Start, device: str) -> Contender:
    """Optax's Adam, or where it is not installed the same in jax.numpy; jitted, the old arrays given up."""
    import jax

    there = jax.devices("gpu" if device == "cuda" else "cpu")[0]
    update, state, name = _optax(start) if find_spec("optax") else _jax_numpy(start)
    params, grads = (jax.device_put(arrays, there) for arrays in (start.params, start.grads))
    # Copies: what is given up must be its own.
    params, state = jax.tree.map(lambda a: jax.numpy.array(a, copy=True), (params, jax.device_put(state, there)))
    compiled = jax.jit(update, donate_argnums=(0, 1))

    def step() -> None:
        nonlocal params, state
        params, state = compiled(params, state, grads)

    # The corrections are computed in float32: 1 - 0.999 is then off by as much as 6e-5 of itself.
    return Contender(
        {name: step}, lambda: [np.asarray(p) for p in params], slack=1e-3, wait=lambda: jax.block_until_ready(params)
    )


def _optax(start: Start) -> tuple[Callable[..., Any], Any, str]:
    import optax

    adam = optax.adam(LR, *BETAS, eps=start.eps)

    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = adam.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return update, adam.init(start.params), "JAX, optax"


def _jax_numpy(start: Start) -> tuple[Callable[..., Any], Any, str]:
    import jax.numpy as jnp

    beta1, beta2 = BETAS

    def update(params: Any, state: Any, grads: Any) -> Any:
        count, moments = state
        count = count + 1
        alpha, root = LR / (1 - beta1**count), jnp.sqrt(1 - beta2**count)
        new_params, new_moments = [], []
        for p, g, (m, v) in zip(params, grads, moments, strict=True):
            m = m + (1 - beta1) * (g - m)
            v = v + (1 - beta2) * (g * g - v)
            new_params.append(p - alpha * m / (jnp.sqrt(v) / root + start.eps))
            new_moments.append((m, v))
        return new_params, (count, new_moments)

    zeros = [(np.zeros_like(p), np.zeros_like(p)) for p in start.params]
    return update, (np.float32(0), zeros), "JAX, jax.numpy"
