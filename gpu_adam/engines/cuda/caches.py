"""Memory that the array libraries hold and nobody uses: given back to the GPU where there is not enough."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any


def empty_caches() -> None:
    """Have every library that is loaded give back what it keeps for later on the current device."""
    # First what hangs in cycles, which then goes to those caches.
    gc.collect()
    for give_back in _ways():
        # That a library cannot do it, because of a capture for instance, must not hide that memory has run out.
        with suppress(Exception):
            give_back()


def _ways() -> Iterator[Callable[[], Any]]:
    loaded: dict[str, Any] = dict(sys.modules)
    if "torch" in loaded:
        yield lambda: loaded["torch"].cuda.empty_cache()
    if "cupy" in loaded:
        yield lambda: loaded["cupy"].get_default_memory_pool().free_all_blocks()
        yield lambda: loaded["cupy"].get_default_pinned_memory_pool().free_all_blocks()
    if "numba.cuda" in loaded:
        # What was freed waits in a queue there until it is a fifth of the GPU.
        yield lambda: loaded["numba.cuda"].current_context().memory_manager.deallocations.clear()
