"""Tests whose body runs in both of two processes, which are the two ranks of torch.distributed's gloo backend."""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

TIMEOUT = 120.0
"""Seconds that a test may take; the first one starts the processes, which import torch."""

STUCK = 60.0
"""Seconds after which a rank gives up waiting for the other."""

GRACE = 2.0
"""Seconds that a rank is given to say what it ran into, once the other one has failed."""


def on_two_ranks(body: Callable[..., None]) -> Callable[..., None]:
    """A test that calls this function in both processes at once.

    The function's parameters are fixtures and parameters of the test, as ever, which must be of a kind that can be pickled.
    """

    def test(two_ranks: TwoRanks, **given: Any) -> None:
        two_ranks.run(body.__module__, body.__name__, given)

    own = inspect.Parameter("two_ranks", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    test.__signature__ = inspect.Signature([own, *inspect.signature(body).parameters.values()])  # type: ignore[attr-defined]
    test.__name__, test.__qualname__, test.__module__, test.__doc__ = (
        body.__name__,
        body.__qualname__,
        body.__module__,
        body.__doc__,
    )
    test.body = body  # type: ignore[attr-defined]
    return test


@pytest.fixture(name="two_ranks", scope="session")
def two_ranks_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoRanks]:
    """The two processes, started by the first test that needs them and kept for all others."""
    ranks = TwoRanks(tmp_path_factory.mktemp("two_ranks"))
    yield ranks
    ranks.end()


class TwoRanks:
    """Two processes that wait for tests.

    Args:
        folder: where the ranks find each other, by a file: no port has to be free.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._starts = 0
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []

    def run(self, module: str, name: str, given: dict[str, Any]) -> None:
        """Run a test's body in both. What it raises in either fails the test, and ends both processes: the next test starts others."""
        if not self._processes:
            self._start()
        for connection in self._connections:
            connection.send((module, name, given))
        failures = self._failures()
        if failures:
            self.end()
            pytest.fail("\n".join(failures), pytrace=False)

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections = [], []

    def _start(self) -> None:
        self._starts += 1
        context = multiprocessing.get_context("spawn")
        store = self._folder / f"store-{self._starts}"
        for rank in range(2):
            ours, its = context.Pipe()
            process = context.Process(target=_serve, args=(rank, str(store), its), daemon=True)
            process.start()
            its.close()
            self._processes.append(process)
            self._connections.append(ours)

    def _failures(self) -> list[str]:
        """What each rank says that failed: nothing where both are done."""
        failures: list[str] = []
        waiting = dict(zip(self._connections, ("rank 0", "rank 1"), strict=True))
        end = time.monotonic() + TIMEOUT
        while waiting:
            ready = wait(list(waiting), max(0.0, end - time.monotonic()))
            if not ready:
                failures += [f"{rank} was still busy" for rank in waiting.values()]
                break
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = waiting.pop(connection)
                try:
                    error = connection.recv()
                except EOFError:
                    error = "the process has ended"
                if error is not None:
                    failures.append(f"{rank}: {error}")
                    end = min(end, time.monotonic() + GRACE)
        return failures


def _serve(rank: int, store: str, connection: Connection) -> None:
    """The program of one rank: run what comes through the connection, and send back what it raised."""
    import torch
    import torch.distributed

    # As torchrun sets them, for the libraries that look there.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=STUCK)
    )
    while True:
        try:
            module, name, given = connection.recv()
        except EOFError:
            return
        try:
            getattr(importlib.import_module(module), name).body(**given)
            torch.distributed.barrier()
        except BaseException:
            connection.send(traceback.format_exc())
        else:
            connection.send(None)
