"""The strided family: tensors with strides of their own, element by element.

What is kept of a tensor lies in the walk's order; parameter and gradient are reached through their strides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import table
from ..abi import MAX_DIMS, SKIP, WALK_SIZES, WALK_STRIDES, WALK_WORDS
from .float_mode import enter_ieee_mode, leave_ieee_mode
from .multi_tensor import share
from .stream import arrays_of
from .target import entry, jit
from .update import coefficients, make_element
from .walk import make_unravel

if TYPE_CHECKING:
    from gpu_adam.kernels.specialization import Specialization

_walks = jit("table")(table.walks)


def make_strided(kind: Specialization) -> Any:
    """See `gpu_adam.kernels.cpu.families.make_kernel`."""
    element, arrays, unravel = make_element(kind), arrays_of(kind), make_unravel(2)

    @jit(kind.name)
    def run(pointers, begin, end, param, grad, param_step, grad_step, c):
        for k in range(begin, end):
            # Each element as an array of its own: a place may be negative, and Numba would count a negative index from the end.
            element(arrays(pointers, (param, grad, k), 1), 0, c)
            param += param_step
            grad += grad_step

    @entry(kind.name)
    def strided(words, segments, chunks, chunk, first, last, rows):
        before = enter_ieee_mode()
        for number in range(first, last):
            pointers, k, end, row, segment = share(words, segments, chunks, chunk, number)
            c = coefficients(rows[row])
            if c[SKIP]:
                continue
            walk = _walks(segments, chunks) + segment * WALK_WORDS
            inner = words[walk] - 1
            length = words[walk + WALK_SIZES + inner]
            param_step = words[walk + WALK_STRIDES + inner]
            grad_step = words[walk + WALK_STRIDES + MAX_DIMS + inner]
            inside = k % length
            while k < end:
                # One run along the innermost dimension.
                stop = min(end, k + length - inside)
                param, grad = unravel(words, walk, inner, k // length)
                run(pointers, k, stop, param + inside * param_step, grad + inside * grad_step, param_step, grad_step, c)
                k, inside = stop, 0
        leave_ieee_mode(before)

    return strided
