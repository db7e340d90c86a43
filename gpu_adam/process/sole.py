"""One thread at a time: an optimizer that two threads are in at once says so."""

from __future__ import annotations

import sys
from _thread import get_ident
from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Any, ParamSpec, TypeVar

from .tracing import untraced
from .uninterrupted import uninterrupted

User = tuple[int, object]
"""A thread, and one of its calls."""


_eviction = Lock()
"""Held by whoever takes out one who has left."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


def reading(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """A method that reads, untraced, with a RuntimeError where another thread is in one of the object's methods that are marked so.

    The object has a dict ``_users`` of who is inside, which is empty if nobody is. The thread that is inside may call it: the handler of a
    signal may save the state in the middle of a step.
    """
    return _guarded(method, within=True)


def changing(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """A method that changes the object: as `reading`, with a RuntimeError also where its own thread is inside."""
    return _guarded(method, within=False)


def _guarded(method: Callable[_P, _R], within: bool) -> Callable[_P, _R]:
    @wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        self: Any = args[0]
        users, own = self._users, (get_ident(), object())
        try:
            # In one operation: two threads cannot both find it empty.
            while (first := users.setdefault(None, own)) is not own and not _is_inside(first):
                uninterrupted(_take_out, users, first)
            if first[0] != own[0]:
                raise RuntimeError(
                    f"another thread is using this {type(self).__name__}: step() and all that reads or changes its state are for one "
                    "thread at a time; hold a lock around them, or make an optimizer for each thread"
                )
            if first is not own and not within:
                raise RuntimeError(
                    f"this {type(self).__name__} is in the middle of a call: the handler of a signal, or a function of the step number, "
                    "may read its state and not change it"
                )
            return method(*args, **kwargs)
        finally:
            if users.get(None) is own:
                users.clear()

    return untraced(call)


def _take_out(users: dict[None, User], user: User) -> None:
    # Nobody else can have come in between the look and the taking.
    with _eviction:
        if users.get(None) is user:
            users.clear()


def _is_inside(user: User) -> bool:
    """Whether a thread is still in the call: an exception may have come before it could say that it had left."""
    thread, _ = user
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code is _CALL and frame.f_locals.get("own") is user:
            return True
        frame = frame.f_back
    return False


_CALL = _guarded(print, within=True).__wrapped__.__code__  # type: ignore[attr-defined]
"""The code that all guarded methods share, by which their frames are told."""
