"""A step neither waits for the device nor allocates its memory: the calls that do so are errors."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gpu_adam.engines import engine_named
from tests.support.library_cases import Case

FORBIDDEN = {
    "engine": ("allocate", "upload", "download", "load"),
    "binding": ("allocate", "exchange", "pinned", "event"),
    # Not the waiting for an event: staging memory asks each step for that of 32 steps before.
    "cupy": ("malloc", "mallocAsync", "hostAlloc", "memcpy", "deviceSynchronize", "streamSynchronize"),
    "driver": (
        *("cuMemAlloc", "cuMemAllocAsync", "cuMemAllocHost", "cuMemHostAlloc"),
        *("cuMemcpyHtoD", "cuMemcpyDtoH", "cuCtxSynchronize", "cuStreamSynchronize"),
    ),
}


@contextmanager
def neither_waiting_nor_allocating(case: Case) -> Iterator[None]:
    """Make every call that waits for a device or allocates its memory an error, and look at the pools."""
    engine = engine_named(case.engine)
    places: dict[str, Any] = {"engine": engine}
    if case.engine != "cpu":
        places["binding"] = engine._cuda  # type: ignore[attr-defined]
        places["driver"] = pytest.importorskip("cuda.bindings.driver")
        if "cupy" in sys.modules:
            places["cupy"] = sys.modules["cupy"].cuda.runtime
    torch = sys.modules["torch"] if case.library.name == "torch cuda" else None
    gc.collect()
    before = pools(case)
    with pytest.MonkeyPatch.context() as patch:
        for place, of in places.items():
            for name in FORBIDDEN[place]:
                if hasattr(of, name):
                    patch.setattr(of, name, refusal(f"{place}.{name}"))
        if torch is not None:
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            if torch is not None:
                torch.cuda.set_sync_debug_mode("default")
    assert pools(case) == before


def refusal(name: str) -> Any:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError(f"a step called {name}")

    return refuse


def pools(case: Case) -> list[int]:
    out = []
    if "cupy" in sys.modules and case.engine != "cpu":
        pool = sys.modules["cupy"].get_default_memory_pool()
        out += [pool.used_bytes(), pool.total_bytes()]
    if case.library.name == "torch cuda":
        out.append(sys.modules["torch"].cuda.memory_stats()["allocation.all.allocated"])
    return out
