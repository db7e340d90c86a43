"""One thread's work in the Numba CUDA kernels that go by vectors: load, update and store some of them; and the parts of the update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numba import cuda

from ..abi import ROW_WORDS
from ..rules.rule import average, compiled, decay
from .target import Target, inlined

if TYPE_CHECKING:
    from gpu_adam.kernels.specialization import Hint, Specialization


def is_streamed(hint: Hint) -> tuple[bool, bool]:
    """Whether the caches are told that an update's streams are to leave them first, and whether the parameter is when it is stored."""
    return hint != "plain", hint == "streaming"


def make_coefficients(kind: Specialization, target: Target) -> Any:
    """``(row, c)``: a row of coefficients into a local array, which no store through a stream can be thought to change."""
    load, itemsize = target.load(kind.working, kind.working), kind.working.itemsize

    @inlined
    def coefficients(row, c):
        for k in range(ROW_WORDS):
            c[k] = load(row + k * itemsize)

    return coefficients


def make_before(target: Target) -> Any:
    """What comes before every rule; see `gpu_adam.kernels.rules.rule.decay`."""
    return inlined(decay(target.fma, target.mul))


def make_rule(kind: Specialization, target: Target) -> Any:
    """The rule's scalar function."""
    return compiled(kind.rule, target.fma, target.sqrt, inlined)


def make_average(target: Target) -> Any:
    """What comes after a rule; see `gpu_adam.kernels.rules.rule.average`."""
    return inlined(average(target.fma))


def make_group(kind: Specialization, vectors: int, hint: Hint, target: Target) -> Any:
    """A thread's vectors at ``at``, ``at + step``, …, cut to ``[begin, end)``, all loads before the first use.

    ``(p, g, s0, s1, s2, w, e, at, step, begin, end, c)`` with the streams' base addresses.
    """
    before, rule, after = make_before(target), make_rule(kind, target), make_average(target)
    param, grad, working, lanes = kind.param, kind.grad, kind.working, kind.lanes
    streamed, param_streamed = is_streamed(hint)
    load_param, load_grad, load_state = (target.load(format, working, streamed) for format in (param, grad, working))
    load_params, load_grads, load_states = (
        target.load_vector(format, working, lanes, streamed) for format in (param, grad, working)
    )
    store_param, store_state = target.store(param, working, param_streamed), target.store(working, working, streamed)
    store_params = target.store_vector(param, working, lanes, param_streamed)
    store_states = target.store_vector(working, working, lanes, streamed)
    param_bytes, grad_bytes, working_bytes = param.itemsize, grad.itemsize, working.itemsize
    states, master, averages = kind.states, kind.master, kind.average
    count, dtype = vectors * lanes, working.dtype.type

    @inlined
    def group(p, g, s0, s1, s2, w, e, at, step, begin, end, c):
        theta = cuda.local.array(count, dtype)
        gradient = cuda.local.array(count, dtype)
        x0 = cuda.local.array(count, dtype)
        x1 = cuda.local.array(count, dtype)
        x2 = cuda.local.array(count, dtype)
        mean = cuda.local.array(count, dtype)
        for v in range(vectors):
            i, first = at + v * step, v * lanes
            if begin <= i and i + lanes <= end:
                if master:
                    load_states(w + i * working_bytes, theta, first)
                else:
                    load_params(p + i * param_bytes, theta, first)
                load_grads(g + i * grad_bytes, gradient, first)
                if states > 0:
                    load_states(s0 + i * working_bytes, x0, first)
                if states > 1:
                    load_states(s1 + i * working_bytes, x1, first)
                if states > 2:
                    load_states(s2 + i * working_bytes, x2, first)
                if averages:
                    load_states(e + i * working_bytes, mean, first)
            else:
                for lane in range(first, first + lanes):
                    # Lanes out of bounds compute with some number, and nothing of it is stored.
                    theta[lane] = gradient[lane] = x0[lane] = x1[lane] = x2[lane] = mean[lane] = c[0]
                    k = i + lane - first
                    if begin <= k and k < end:
                        theta[lane] = load_state(w + k * working_bytes) if master else load_param(p + k * param_bytes)
                        gradient[lane] = load_grad(g + k * grad_bytes)
                        if states > 0:
                            x0[lane] = load_state(s0 + k * working_bytes)
                        if states > 1:
                            x1[lane] = load_state(s1 + k * working_bytes)
                        if states > 2:
                            x2[lane] = load_state(s2 + k * working_bytes)
                        if averages:
                            mean[lane] = load_state(e + k * working_bytes)
        for lane in range(count):
            theta[lane], gradient[lane] = before(theta[lane], gradient[lane], c)
            theta[lane], x0[lane], x1[lane], x2[lane] = rule(
                theta[lane], gradient[lane], x0[lane], x1[lane], x2[lane], c
            )
            if averages:
                mean[lane] = after(mean[lane], theta[lane], c)
        for v in range(vectors):
            i, first = at + v * step, v * lanes
            if begin <= i and i + lanes <= end:
                store_params(p + i * param_bytes, theta, first)
                if master:
                    store_states(w + i * working_bytes, theta, first)
                if states > 0:
                    store_states(s0 + i * working_bytes, x0, first)
                if states > 1:
                    store_states(s1 + i * working_bytes, x1, first)
                if states > 2:
                    store_states(s2 + i * working_bytes, x2, first)
                if averages:
                    store_states(e + i * working_bytes, mean, first)
            else:
                for lane in range(first, first + lanes):
                    k = i + lane - first
                    if begin <= k and k < end:
                        store_param(p + k * param_bytes, theta[lane])
                        if master:
                            store_state(w + k * working_bytes, theta[lane])
                        if states > 0:
                            store_state(s0 + k * working_bytes, x0[lane])
                        if states > 1:
                            store_state(s1 + k * working_bytes, x1[lane])
                        if states > 2:
                            store_state(s2 + k * working_bytes, x2[lane])
                        if averages:
                            store_state(e + k * working_bytes, mean[lane])

    return group
