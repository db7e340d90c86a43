"""Errors that the package raises beside Python's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class EngineUnavailable(RuntimeError):
    """An engine cannot run on this machine; the message says why and names the remedy, in one line."""

    def __init__(self, message: str) -> None:
        # The libraries' own errors, which are quoted, go over many lines.
        super().__init__(" ".join(message.split()))


class CompileError(RuntimeError):
    """A compiler or linker refused a kernel; the message carries what it said."""


class MisfitError(ValueError):
    """A number that would be infinite in a format, or 0 where that makes a difference.

    Attributes:
        key: What it is called.
        remedy: ``"smaller"`` or ``"larger"``: what it should be.
    """

    def __init__(self, message: str, key: str, remedy: str) -> None:
        super().__init__(message)
        self.key = key
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        return MisfitError, (str(self), self.key, self.remedy)


class ParameterChangedError(ValueError):
    """A parameter has become another array than the optimizer was made for: of another shape, dtype, device or order in memory."""


class EnvironmentVariableError(ValueError):
    """A variable of the environment has a value that makes no sense; the message names it."""
