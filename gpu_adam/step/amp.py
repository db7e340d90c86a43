"""What PyTorch's GradScaler hands over to the step of an optimizer."""

from __future__ import annotations

import re
import sys
from types import FrameType
from typing import Any

_SCALERS = re.compile(r"torch\..*grad_scaler")
"""PyTorch's modules with a GradScaler, that of FSDP too."""


class HandedOver:
    """An attribute that PyTorch's GradScaler sets before it calls a step, and deletes after it.

    Where the step raises, the scaler leaves the attribute behind, and the next step, made without a scaler, would take it for its own. So
    what a scaler has set is there as long as the scaler's call runs. What anybody else sets stays until it is deleted.
    """

    def __init__(self) -> None:
        self.__doc__ = None  # nothing that documentation should list

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        attributes = vars(instance)
        if self._name in attributes:
            value, frame = attributes[self._name]
            if frame is None or _is_running(frame):
                return value
            del attributes[self._name]
        raise AttributeError(f"{type(instance).__name__!r} object has no attribute {self._name!r}")

    def __set__(self, instance: Any, value: Any) -> None:
        setter = sys._getframe(1)
        from_scaler = _SCALERS.fullmatch(setter.f_globals.get("__name__", ""))
        vars(instance)[self._name] = value, setter if from_scaler else None

    def __delete__(self, instance: Any) -> None:
        try:
            del vars(instance)[self._name]
        except KeyError:
            raise AttributeError(self._name) from None


def handed_over(optimizer: Any) -> tuple[Any, Any]:
    """The ``grad_scale`` and the ``found_inf`` that a scaler has set, each ``None`` where there is none."""
    attributes = vars(optimizer)
    if "grad_scale" not in attributes and "found_inf" not in attributes:  # mostly
        return None, None
    return getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)


def _is_running(frame: FrameType) -> bool:
    """Whether a call is under way, in this thread."""
    caller: FrameType | None = sys._getframe(1)
    while caller is not None and caller is not frame:
        caller = caller.f_back
    return caller is not None
