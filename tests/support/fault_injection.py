"""An exception at any place that a call comes by in the package."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gpu_adam

PACKAGE = str(Path(gpu_adam.__file__).parent)


class Injected(BaseException):
    """What comes out of nowhere."""


def injected(
    call: Callable[[], Any],
    place: int,
    opcodes: bool = False,
    kind: type[BaseException] = Injected,
    folder: str = PACKAGE,
) -> int:
    """Make a call and raise an exception at one of the lines or instructions of a folder that it comes by; how many it came by."""
    places = itertools.count(1)
    passed = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal passed
        if not frame.f_code.co_filename.startswith(folder):
            return None
        frame.f_trace_opcodes = opcodes
        if event == ("opcode" if opcodes else "line"):
            passed = next(places)
            if passed == place:
                raise kind
        return trace

    tracing = sys.gettrace()
    with _torch_as_it_was():
        sys.settrace(trace)
        try:
            call()
        finally:
            sys.settrace(tracing)
    return passed


@contextmanager
def _torch_as_it_was() -> Iterator[None]:
    """A block that leaves PyTorch's modes of this thread as they were.

    A line and an instruction come between the body of a ``with`` statement and its end, where Python runs no handler of a signal: what is
    raised there skips the end, as no signal's exception would.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    grad, function = torch.is_grad_enabled(), torch._C._get_torch_function_state()
    try:
        yield
    finally:
        torch.set_grad_enabled(grad)
        torch._C._set_torch_function_state(function)
