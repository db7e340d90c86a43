"""Which kernel a launch is of, and the arguments that it takes: the same in CUDA C++ and in Numba's Python."""

from __future__ import annotations

from ...kernels.abi import ROW_WORDS
from ...kernels.specialization import UpdateKernel
from ...plan.launches import Launch


def update_kernel(launch: Launch) -> UpdateKernel:
    """The kernel of a launch."""
    geometry = launch.geometry
    return UpdateKernel(launch.specialization, geometry.threads, geometry.vectors, geometry.hint, geometry.persistent)


def update_arguments(launch: Launch, table: int, coefficients: int) -> tuple[int, ...]:
    """An update's arguments, in the order of its kernel's parameters.

    Args:
        launch: The kernel call.
        table: The address of its table on the device; for launches without a table none is needed.
        coefficients: The address of the rows of its working format.
    """
    if launch.table is not None:
        return (table, launch.table.segments, launch.table.chunks, launch.chunk, coefficients)
    (task,) = launch.tasks
    row = coefficients + task.row * ROW_WORDS * launch.specialization.working.itemsize
    if task.width:
        return (*task.pointers, task.width, task.size // task.width, task.log2_tile, task.indices, row)
    return (*task.pointers, task.size, row)
