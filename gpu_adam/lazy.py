"""Properties that are computed once, without a lock."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from typing import TypeVar

_T = TypeVar("_T")


class cached_property(functools.cached_property[_T]):  # noqa: N801, as it is called there
    """``functools.cached_property`` as it is from Python 3.12 on.

    Before, all objects of a class share a lock, which one thread holds while it computes: a child that is forked meanwhile would wait
    for it for ever.
    """

    lock = property(lambda self: nullcontext(), lambda self, lock: None, doc="What stands in the place of that lock.")
