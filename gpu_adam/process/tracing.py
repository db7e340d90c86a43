"""What surrounds every public call: `torch.compile` is kept out of what it cannot trace, and the thread keeps subnormals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from ..casting import in_ieee_mode

_P = ParamSpec("_P")
_R = TypeVar("_R")

_modules = sys.modules
_run_apart: Callable[..., Any] | None = None
"""`_run`, as PyTorch's compiler leaves it alone; ``None`` until the compiler is there."""


def untraced(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, which code compiled by ``torch.compile`` then calls as it is, and which computes in IEEE 754's mode.

    Tracing would go into NumPy and the engines, which read the addresses of tensors; a traced tensor has none. The compiled code has a
    graph break here. PyTorch is not imported: nothing can be traced before ``torch._dynamo`` is loaded.

    A thread that flushes subnormals, as after ``torch.set_flush_denormal``, has its mode again afterwards.
    """

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if "torch._dynamo" in _modules:
            try:
                return (_run_apart or _set_apart())(function, args, kwargs)  # type: ignore[no-any-return]
            except GeneratorExit:
                # In a try block the compiler cannot stop and go on, so it leaves this function out. Elsewhere it would compile it, and
                # compile it again for each class of optimizer and each number of arguments.
                raise
        return _run(function, args, kwargs)

    return call


def _set_apart() -> Callable[..., Any]:
    global _run_apart
    # Not at the top: here PyTorch is loaded already.
    from torch.compiler import disable

    _run_apart = disable(_run)
    return _run_apart


@in_ieee_mode
def _run(function: Callable[..., _R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _R:
    return function(*args, **kwargs)
