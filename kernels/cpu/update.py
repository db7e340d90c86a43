"""An update on the CPU: one element, and `make_span`, the one loop over elements that lie one after the other, for the vector units."""

from __future__ import annotations

import functools
import math
from operator import mul
from typing import TYPE_CHECKING, Any

from ..abi import ROLES, ROW_WORDS
from ..rules.rule import average, decay
from ..rules.rule import compiled as made
from .fma import fma
from .intrinsics import NoAliasCompiler
from .stream import arrays_of
from .target import jit, loader, storer

if TYPE_CHECKING:
    from gpu_adam.kernels.specialization import Specialization

    from ..rules.rule import Rule

# These, the rule and the element are a loop's body, and a body with a call in it is not vectorised. Where a fused multiply-add is many
# instructions LLVM would find them too long to inline.
_before, _after = jit("all", forceinline=True)(decay(fma, mul)), jit("all", forceinline=True)(average(fma))


@functools.cache
def _make_rule(rule: Rule) -> Any:
    """A rule's own update, which its kernels share."""
    return made(rule, fma, math.sqrt, jit(rule.symbol, forceinline=True))


def make_element(kind: Specialization) -> Any:
    """One element's update, in place: ``(streams, k, c)`` with an array for each of ``ROLES``, and its index in them."""
    rule = _make_rule(kind.rule)
    # A role that the kernel does not touch has some function, which is not called.
    load_param, load_grad, load0, load1, load2, load_master, load_mean = _of_roles(kind, loader, kind.working)
    store_param, _, store0, store1, store2, store_master, store_mean = _of_roles(kind, storer)
    states, master, averages = kind.states, kind.master, kind.average

    @jit(kind.name, forceinline=True)
    def element(streams, k, c):
        # Role by role: a loop over arrays of several types would be copied out for each, by a transformation that takes longer to compile.
        p, g, s0, s1, s2, w, e = streams
        theta = load_master(w[k]) if master else load_param(p[k])
        theta, gradient = _before(theta, load_grad(g[k]), c)
        # A state that the rule lacks is handed some number of the right type; the compiler drops it.
        x0 = load0(s0[k]) if states > 0 else gradient
        x1 = load1(s1[k]) if states > 1 else gradient
        x2 = load2(s2[k]) if states > 2 else gradient
        theta, x0, x1, x2 = rule(theta, gradient, x0, x1, x2, c)
        p[k] = store_param(theta)
        if master:
            w[k] = store_master(theta)
        if states > 0:
            s0[k] = store0(x0)
        if states > 1:
            s1[k] = store1(x1)
        if states > 2:
            s2[k] = store2(x2)
        if averages:
            e[k] = store_mean(_after(load_mean(e[k]), theta, c))

    return element


def _of_roles(kind: Specialization, make: Any, *more: Any) -> list[Any]:
    """What ``make`` makes of each role's storage, by its name."""
    stored = {stream.role: stream.storage.name for stream in kind.streams}
    return [make(stored.get(role, kind.working.name), *more) for role in ROLES]


@jit("all")
def coefficients(row):
    """A row as a tuple: registers, which no store through a stream can be thought to change."""
    return (
        row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7],
        row[8], row[9], row[10], row[11], row[12], row[13], row[14], row[15],
    )  # fmt: skip


assert ROW_WORDS == 16


def make_span(kind: Specialization) -> Any:
    """``(pointers, begin, end, row)``: the update of the elements ``[begin, end)``, in vectors."""
    element, arrays = make_element(kind), arrays_of(kind)

    @jit(kind.name, pipeline_class=NoAliasCompiler)
    def loop(streams, size, c):
        for k in range(size):
            element(streams, k, c)

    @jit(kind.name)
    def span(pointers, begin, end, row):
        size = end - begin
        loop(arrays(pointers, (begin, begin, begin), size), size, coefficients(row))

    return span
