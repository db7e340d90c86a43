"""``Optimizer.state`` as a dict that knows when somebody has written to it.

What lies in the engine's memory is shown in it as tensors, which are edited in place without anybody's noticing or having to. What is put
there, or taken away, is noted, so that the next step takes it up. Asking each of thousands of entries before each step would cost
more than the step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_WRITERS = ("__setitem__", "__delitem__", "__ior__", "update", "setdefault", "pop", "popitem", "clear")


class Changes:
    """Whether anything was written.

    Attributes:
        any: That.
    """

    __slots__ = ("any",)

    def __init__(self) -> None:
        self.any = True


def _noting(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def write(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.changes.any = True
        return method(self, *args, **kwargs)

    return write


class Entry(dict[str, Any]):
    """The state of one parameter: what it is called to what it is.

    Args:
        changes: What is told of what is written.
        items: What is in it.
    """

    __slots__ = ("changes",)

    def __init__(self, changes: Changes, items: Mapping[str, Any]) -> None:
        self.changes = changes
        super().__init__(items)

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _restored_entry, (_lasting(self),)


class LiveState(defaultdict[Any, Any]):
    """The state of all parameters: the parameters to their entries; other keys may hold anything.

    Args:
        items: What is in it.

    Attributes:
        changes: Whether anything was written here or into an entry, until whoever has taken that up says otherwise.
        shown_by: The engine whose memory is shown.
    """

    def __init__(self, items: Mapping[Any, Any] | Iterable[Any] = ()) -> None:
        super().__init__(dict)
        self.changes = Changes()
        self.shown_by: Any = None
        self.update(items)

    def __missing__(self, key: Any) -> Entry:
        # Where there was none there is nothing to take up in an empty one.
        entry = Entry(self.changes, {})
        super().__setitem__(key, entry)
        return entry

    def __setitem__(self, key: Any, value: Any) -> None:
        # A dict stays the one that was given: whoever has it may go on filling it until it is taken up. But no two parameters have one.
        self.changes.any = True
        if isinstance(value, Entry) and value is not self.get(key):
            value = Entry(self.changes, value)
        super().__setitem__(key, value)

    def adopt(self, shown_by: Any) -> None:
        """Note that all that was written has been taken up, and have every entry tell of what is written from now on.

        Args:
            shown_by: The engine whose memory is shown.
        """
        for key, value in self.items():
            if isinstance(value, dict) and not (isinstance(value, Entry) and value.changes is self.changes):
                super().__setitem__(key, Entry(self.changes, value))
        self.changes.any, self.shown_by = False, shown_by

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As of a dict."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> LiveState:
        self.update(other)
        return self

    def __or__(self, other: Any) -> Any:
        return LiveState({**self, **other}) if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return LiveState({**other, **self}) if isinstance(other, dict) else NotImplemented

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """As of a dict."""
        if key not in self:
            self[key] = default
        return self[key]

    def copy(self) -> LiveState:
        """Another one with the same in it."""
        return LiveState(self)

    __copy__ = copy

    def show(self, key: Any, items: Mapping[str, Any], stale: Iterable[str] = ()) -> None:
        """Have an entry show what is kept, which is no news, and no longer what is stale; what else is in it stays."""
        entry = self.get(key)
        if not isinstance(entry, Entry) or entry.changes is not self.changes:
            entry = Entry(self.changes, entry if isinstance(entry, dict) else {})
            super().__setitem__(key, entry)
        for name in stale:
            dict.pop(entry, name, None)
        dict.update(entry, items)

    def __reduce_ex__(self, protocol: Any) -> Any:
        items = [(key, _lasting(value) if isinstance(value, dict) else value) for key, value in self.items()]
        return _restored, (items,)


for _name in _WRITERS:
    setattr(Entry, _name, _noting(getattr(dict, _name)))
for _name in ("__delitem__", "pop", "popitem", "clear"):
    setattr(LiveState, _name, _noting(getattr(dict, _name)))


_NUMPY = (torch.float32, torch.float64, torch.complex64, torch.complex128)


class _Kept:
    """A tensor of the state as it is pickled: by its elements.

    PyTorch would send it to another process by moving it into memory that both share, and what the state shows would no longer be the
    engine's memory.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.array = tensor.detach().cpu().numpy().copy()
        self.device = str(tensor.device)

    def restored(self) -> Tensor:
        """The tensor, in memory of its own; on the host where its device is not here, until a step brings it to its parameter's."""
        tensor = torch.from_numpy(self.array)
        try:
            return tensor.to(self.device)
        except (RuntimeError, AssertionError):  # the latter of a PyTorch without CUDA
            return tensor


def _lasting(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _Kept(value) if type(value) is Tensor and value.dtype in _NUMPY else value
        for name, value in entry.items()
    }


def _restored_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one.restored() if isinstance(one, _Kept) else one for name, one in entry.items()}


def _restored(items: Iterable[tuple[Any, Any]]) -> LiveState:
    return LiveState([(key, _restored_entry(value) if isinstance(value, dict) else value) for key, value in items])
