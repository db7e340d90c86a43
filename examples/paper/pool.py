"""Runs shared out to processes, each with one thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gpu_adam.train.backend import Backend, choose

from . import data, training
from .settings import Run

ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "GPU_ADAM_NUM_THREADS",
    ),
    "1",
)
"""What BLAS, torch and the CPU engine read when they start."""

_POLL = 0.2
"""Seconds between two looks at how far the processes are."""

Task = tuple[Run, str]
"""A run, and the name of its data set."""


def run_all(
    tasks: Sequence[Task],
    data_dir: Path,
    folder: Path,
    backend: Backend,
    jobs: int,
    done: Callable[[Run, training.Result], None],
) -> None:
    """Do all runs that have no result yet; ``done`` is called with each as it ends, the earlier ones first.

    Args:
        tasks: The runs.
        data_dir: The folder of the data.
        folder: Where results and checkpoints are kept.
        backend: Where to compute.
        jobs: Processes, on a CPU; 0 for this one, as on a GPU.
        done: Called in this process.
    """
    left = []
    for task in tasks:
        result = training.finished(task[0], folder)
        if result is None:
            left.append(task)
        else:
            done(task[0], result)
    epochs = sum(run.epochs for run, _ in left)
    with (
        tqdm(
            total=len(tasks), initial=len(tasks) - len(left), desc="runs", unit=" runs", position=0, disable=None
        ) as runs_bar,
        tqdm(total=epochs, desc="epochs", unit=" epochs", position=1, disable=None) as epochs_bar,
    ):

        def ended(run: Run, result: training.Result) -> None:
            runs_bar.set_postfix_str(f"{run.experiment}: {run.label}")
            runs_bar.update(1)
            done(run, result)

        if jobs == 0:
            for run, dataset in left:
                ended(run, training.train(run, _load(dataset, data_dir), backend, folder, lambda: epochs_bar.update(1)))
        elif left:
            _in_processes(left, data_dir, folder, jobs, ended, epochs_bar)


def _in_processes(
    left: Sequence[Task],
    data_dir: Path,
    folder: Path,
    jobs: int,
    ended: Callable[[Run, training.Result], None],
    bar: Any,
) -> None:
    context = multiprocessing.get_context("spawn")  # a forked child has BLAS's locks, but not its threads
    epochs = context.SimpleQueue()
    others = set(multiprocessing.active_children())
    count = min(jobs, len(left))
    with (
        _environment(ONE_THREAD),
        ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(epochs,)) as pool,
    ):
        try:
            waiting: dict[Future[training.Result], Run] = {
                pool.submit(_work, run, dataset, data_dir, folder): run for run, dataset in left
            }
            while waiting:
                finished, _ = wait(waiting, timeout=_POLL, return_when=FIRST_COMPLETED)
                while not epochs.empty():
                    epochs.get()
                    bar.update(1)
                for future in finished:
                    ended(waiting.pop(future), future.result())
        except BaseException:
            # What they were doing is in their checkpoints.
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            raise


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables as children shall find them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin(epochs: Any) -> None:
    global _epochs
    _epochs = epochs
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt ends the process at once, and prints nothing
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent that is killed cannot say so, and its children would wait for work for ever.
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _work(run: Run, dataset: str, data_dir: Path, folder: Path) -> training.Result:
    return training.train(run, _load(dataset, data_dir), choose("cpu"), folder, lambda: _epochs.put(None))


@cache
def _load(dataset: str, data_dir: Path) -> data.Data:
    return data.load(dataset, data_dir)
