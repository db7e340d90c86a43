"""Where tests run: those marked ``gpu`` only where there is a GPU, those marked ``slow`` after all others, those marked ``long`` only if
asked for. And what is kept out of them: a garbage collection of what earlier files have left.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from functools import cache

import pytest

from tests.support.library_programs import case, packing_case, streamed_case, torch_case

__all__ = ["case", "packing_case", "streamed_case", "torch_case"]  # fixtures


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-gpu",
        action="store_true",
        help="fail at once where no CUDA GPU is found, rather than skip the tests that need one",
    )
    parser.addoption("--long", action="store_true", help="run the tests that take minutes as well")


def pytest_configure(config: pytest.Config) -> None:
    missing = why_no_gpu()
    if missing and config.getoption("--require-gpu"):
        raise pytest.UsageError(f"--require-gpu: {missing}")


def pytest_report_header() -> str:
    return f"gpu: {why_no_gpu() or 'found'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    # Sorting keeps the order of equals, so the files stay together.
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    missing = why_no_gpu()
    if missing:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=f"needs a CUDA GPU: {missing}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[object]:
    result = yield
    # What is still there after a file is mostly what Numba has compiled, and stays. A test that calls gc.collect() need not look through it
    # again: by the end of all files that takes a second a call. Not in the teardown: the file's fixtures are still there then, and what
    # is frozen is never collected.
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()
    return result


@cache
def why_no_gpu() -> str | None:
    """What keeps the CUDA driver from showing a GPU, or None if it shows one.

    The driver is asked itself, so the answer depends on no Python package.
    """
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"no NVIDIA driver is installed ({library} was not found)"
    status = driver.cuInit(0)
    if status:
        name = ctypes.c_char_p()
        driver.cuGetErrorName(status, ctypes.byref(name))
        return f"the NVIDIA driver does not start ({(name.value or b'unknown error').decode()}, {status})"
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    return None if count.value else "the NVIDIA driver finds no GPU"
