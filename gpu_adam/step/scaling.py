"""What the gradients of one step are divided by, and what says that the step is to be skipped: numbers, and numbers on a device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from numbers import Rational
from typing import Any

import numpy as np

from ..arrays import to_host
from ..arrays.scalars import Scalar, scalar_on
from ..checks import POSITIVE, Range, real, refuse_dimensions
from ..device import Device
from ..dtypes import FLOAT64, FORMATS, Format
from ..errors import MisfitError
from ..messages import shown
from .loss_scaler import LossScaler

_CPU = Device("cpu")
_NORMS = Range(0.0, has_high=True)


@dataclass(frozen=True)
class Scaling:
    """How the gradients of a step were scaled.

    Attributes:
        scale: What they are divided by, unless it lies on the device.
        scale_at: Where it does.
        found_at: A number on the device which, unless it is 0, says that an infinity was found.
        scaler: The loss scaler, if there is one.
    """

    scale: float = 1.0
    scale_at: Scalar | None = None
    found_at: Scalar | None = None
    scaler: LossScaler | None = None

    def released(self) -> Scaling:
        """The same with the places of its numbers alone, so that their memory may go to others once the step is queued."""
        if self.scale_at is None and self.found_at is None:
            return self
        scale, found = self.scale_at, self.found_at
        return replace(
            self,
            scale_at=None if scale is None else replace(scale, array=None),
            found_at=None if found is None else replace(found, array=None),
        )

    @property
    def on_device(self) -> bool:
        """Whether only the device knows it."""
        return self.scale_at is not None or self.found_at is not None or self.scaler is not None


UNSCALED = Scaling()


def scaling_of(given: Any, found: Any, devices: set[Device], working: Format) -> Scaling:
    """How the gradients of a step are scaled.

    Args:
        given: The ``grad_scale`` of `GpuAdam.step`; ``None`` for none.
        found: What says that an infinity was found, a number or a 0-dimensional array; ``None`` for nothing.
        devices: Where the parameters are.
        working: The narrowest format that they are computed in.

    Raises:
        TypeError: For what is no number.
        ValueError: For a number out of its range, and for an array elsewhere than the parameters.
    """
    if isinstance(given, LossScaler):
        if devices != {given.device}:
            raise ValueError(
                f"the LossScaler is on {given.device}: must be where the parameters are, {_names(devices)}"
            )
        scaling = Scaling(scaler=given)
    else:
        scale_at = _on_these(given, "grad_scale", devices)
        if scale_at is not None and scale_at.device == _CPU:
            given, scale_at = to_host(given).item(), None  # which the host may as well look at
        scaling = Scaling(1.0 if given is None or scale_at is not None else loss_scale(given, working), scale_at)
    if found is None:
        return scaling
    found_at = _on_these(found, "found_inf", devices)
    if found_at is None and real(found, "found_inf") != 0.0:
        if devices != {_CPU}:
            raise ValueError(f"found_inf={shown(found)}: must be a 0-dimensional array on {_names(devices)}")
        ones = np.ones(())
        found_at = Scalar(_CPU, ones.ctypes.data, FORMATS.index(FLOAT64), ones)
    return replace(scaling, found_at=found_at)


def _on_these(value: Any, name: str, devices: set[Device]) -> Scalar | None:
    """A number on the parameters' device; ``None`` for one that the host can read without waiting."""
    scalar = None if value is None else scalar_on(value, name)
    if scalar is None or (scalar.device == _CPU and devices != {_CPU}):
        return None
    if devices != {scalar.device}:
        raise ValueError(f"{name} is on {scalar.device}: must be a number, or on the only device, {_names(devices)}")
    return scalar


def _names(devices: set[Device]) -> str:
    return ", ".join(sorted(map(str, devices)))


def loss_scale(value: Any, working: Format) -> float:
    """A loss scale that the host knows, as a float.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not positive and finite, or its inverse is not so in the working format.
    """
    shape = getattr(value, "shape", ())
    refuse_dimensions(shape, "grad_scale", but_one=True)
    allowed = "a number, a 0-dimensional array or a LossScaler"
    scale = real(value[0] if shape else value, "grad_scale", POSITIVE, allowed=allowed)
    inverse = 1.0 / scale
    if inverse > working.largest or working.vanishes(inverse):
        outcome, remedy = ("0", "smaller") if working.vanishes(inverse) else ("infinite", "larger")
        raise MisfitError(
            f"grad_scale={scale!r}: its inverse, which gradients are multiplied by, is {outcome} in {working}: "
            f"must be between {1.0 / working.largest:.3g} and {1.0 / working.least:.3g}",
            "loss_scale",
            remedy,
        )
    return scale


def max_norm(value: Any) -> float:
    """The largest global norm that is let through, in [0, ∞].

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is negative or NaN.
    """
    norm = _NORMS.check(real(value, "max_grad_norm", allowed="a number, or None"), "max_grad_norm")
    if norm == inf and isinstance(value, Rational):
        raise ValueError(f"max_grad_norm={shown(value)} is too large for a float: use inf to measure only")
    return norm
