"""The flat family: one stretch of a bucket that holds the parameters, gradients and states themselves. Nothing is looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..abi import SKIP
from .float_mode import enter_ieee_mode, leave_ieee_mode
from .target import entry
from .update import make_span

if TYPE_CHECKING:
    from gpu_adam.kernels.specialization import Specialization


def make_flat(kind: Specialization) -> Any:
    """See `gpu_adam.kernels.cpu.families.make_kernel`."""
    span = make_span(kind)

    @entry(kind.name)
    def flat(param, grad, state0, state1, state2, master, average, begin, end, row):
        if row[SKIP]:
            return
        before = enter_ieee_mode()
        span((param, grad, state0, state1, state2, master, average), begin, end, row)
        leave_ieee_mode(before)

    return flat
