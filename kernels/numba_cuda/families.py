"""The Numba CUDA kernels that update: one for each family, made for a specialization out of the rule that the CPU engine compiles too.

Their twins in CUDA C++ have the same names. A thread owns ``lanes`` elements at a multiple of ``lanes``, as many as 16 bytes of the
narrowest stream hold. Where all of them lie in bounds it reads and writes 16 bytes at a time; a vector that a head or a tail cuts is
handled element by element, and so is a stream that is not 16-byte aligned, that one alone. Where the step is skipped nothing is written.

A block of a persistent grid goes on with the work of the block that would lie a whole grid behind it, as long as there is some.

The rule's functions are inlined and its lanes unrolled, so that local arrays are registers and one text serves any number of vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .flat import make_flat
from .multi_tensor import make_multi_tensor
from .sparse import make_rows
from .strided import make_strided
from .target import Target, device_target

if TYPE_CHECKING:
    from gpu_adam.kernels.specialization import Hint, Specialization


def make_kernel(
    kind: Specialization,
    vectors: int = 1,
    hint: Hint = "streaming",
    persistent: bool = False,
    target: Target | None = None,
) -> Callable[..., None]:
    """The kernel of a specialization as a Python function, for ``numba.cuda`` to compile.

    Flat: ``(param, grad, state0, state1, state2, master, average, size, row)``, a block updates ``threads * vectors * lanes`` elements
    at a time.
    Multi-tensor and strided: ``(table, segments, chunks, chunk, rows)``, a block updates one chunk of the table.
    Rows: see `gpu_adam.kernels.numba_cuda.sparse.make_rows`.
    All are addresses but ``size``, ``segments``, ``chunks`` and ``chunk``.

    Args:
        kind: What it is made for.
        vectors: Vectors that a thread loads before it computes with the first; the strided family goes by single elements.
        hint: What the caches are told.
        persistent: Whether a block goes on with other chunks; not for rows.
        target: Where it will run, by default on the GPU.
    """
    target = target or device_target()
    if kind.family == "rows":
        return make_rows(kind, vectors, hint, target)
    if kind.family == "strided":
        return make_strided(kind, hint, persistent, target)
    make = make_flat if kind.family == "flat" else make_multi_tensor
    return make(kind, vectors, hint, persistent, target)
