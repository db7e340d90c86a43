"""An exception at any place that a call comes by in the package."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_adam

PACKAGE = str(Path(gpu_adam.__file__).parent)


class Injected(BaseException):
    """What comes out of nowhere."""


def injected(call: Callable[[], None], place: int, opcodes: bool = False, kind: type[BaseException] = Injected) -> int:
    """Make a call and raise an exception at one of the lines or instructions that it comes by; how many it came by."""
    places = itertools.count(1)
    passed = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal passed
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = opcodes
        if event == ("opcode" if opcodes else "line"):
            passed = next(places)
            if passed == place:
                raise kind
        return trace

    tracing = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(tracing)
    return passed
