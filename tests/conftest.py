"""Where tests run: those marked ``gpu`` only where there is a GPU, those marked ``slow`` after all others, those marked ``long`` only if
asked for. And what is kept out of them: a garbage collection of what earlier files have left.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.support.array_reading import reading
from tests.support.found_gpu import why_no_gpu
from tests.support.library_cases import case, packing_case, streamed_case, torch_case
from tests.support.strict import strict_test
from tests.support.two_ranks import two_ranks_of_the_session

__all__ = [  # fixtures
    "case",
    "packing_case",
    "reading",
    "streamed_case",
    "strict_test",
    "torch_case",
    "two_ranks_of_the_session",
]


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
