"""The CPU kernels that update: the same families as on the GPU, over the same tables, compiled by Numba for the vector units.

A kernel is made for one specialization. It finds the elements and hands contiguous stretches to the one loop of `update.py` that loads,
calls the rule and stores; the strided family loops by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numba import float32, float64, int64

from ..abi import ROLES
from .flat import make_flat
from .multi_tensor import make_multi_tensor
from .sparse import make_rows
from .strided import make_strided

if TYPE_CHECKING:
    from gpu_adam.kernels.specialization import Specialization

_MAKE = {"flat": make_flat, "multi_tensor": make_multi_tensor, "strided": make_strided, "rows": make_rows}


def make_kernel(kind: Specialization) -> Any:
    """The kernel of a specialization, not yet compiled.

    Flat: ``(param, grad, state0, state1, state2, master, average, begin, end, row)`` with addresses as int64, updates ``[begin, end)``.
    Multi-tensor and strided: ``(words, segments, chunks, chunk, first, last, rows)`` updates the chunks ``[first, last)``.
    Rows: ``(param, …, average, width, indices, first, last, row)`` updates with the gradient's rows ``[first, last)``.
    """
    return _MAKE[kind.family](kind)


def signature(kind: Specialization) -> tuple[Any, ...]:
    """The argument types of a specialization's kernel."""
    working = {"float32": float32, "float64": float64}[kind.working.name]
    if kind.family in ("flat", "rows"):
        return (*(int64,) * (len(ROLES) + (2 if kind.family == "flat" else 4)), working[::1])
    return (int64[::1], *(int64,) * 5, working[:, ::1])
