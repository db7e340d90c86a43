"""What Python does in a step, by counting: its calls, and how often one file hands on to another.

``python -m benchmarks.calls`` prints the same numbers on every machine, however busy it is: they show what a change of the code costs
where times cannot.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

import gpu_adam
from gpu_adam import GpuAdam

from .libraries import has_torch
from .runner import ROOT

PACKAGE = tuple(f"{folder}{os.sep}" for folder in (Path(gpu_adam.__file__).parent, ROOT / "kernels"))
WALKS = ("walk", "visiting", "row_major", "strid")
"""Parts of the names of functions that find out how a tensor's elements lie."""

TENSORS = (1, 100)
SHAPE = (8, 8)
WARM = 5
"""Steps before those that are counted: the first makes the plan, and others may still learn something."""

COUNTED = 6
"""Steps that the numbers are a mean of; a step that differs from the others shows as a fraction."""

Step = Callable[[], Any]


@dataclass
class Calls:
    """Of the Python functions in a step.

    Attributes:
        package: Calls of the package's functions.
        others: Calls of other Python functions.
        changes: Calls of the package's functions from another file than their own.
        walks: How often each function is called that finds out how a tensor's elements lie.
        entered: How often each file of the package was called from another.
    """

    package: float = 0
    others: float = 0
    changes: float = 0
    walks: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    entered: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def counted(step: Step, steps: int = COUNTED, before: Step = lambda: None) -> Calls:
    """The mean of some steps; what comes ``before`` each is not counted.

    Functions in C are none of them. A generator that goes on counts as another call; a comprehension never does, since whether it is a
    function depends on Python's version.
    """
    events: Counter[tuple[CodeType, str]] = Counter()

    def on_event(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name not in ("<listcomp>", "<setcomp>", "<dictcomp>"):
            caller = frame.f_back
            events[frame.f_code, "" if caller is None else caller.f_code.co_filename] += 1

    other = sys.getprofile()
    try:
        for _ in range(steps):
            before()
            sys.setprofile(on_event)
            step()
            sys.setprofile(other)
    finally:
        sys.setprofile(other)
    found = Calls()
    for (code, caller), times in events.items():
        name = code.co_filename
        if not name.startswith(PACKAGE):
            # The caller is this file: the step itself, where it is a function of a case.
            found.others += times / steps if caller != __file__ else 0
            continue
        found.package += times / steps
        if any(part in code.co_name for part in WALKS):
            found.walks[code.co_name] += times / steps
        if caller != name:
            found.changes += times / steps
            found.entered[_short(name)] += times / steps
    return found


def _short(name: str) -> str:
    """A file's name within the package."""
    start = next(folder for folder in PACKAGE if name.startswith(folder))
    return name[len(start) :] if start == PACKAGE[0] else f"kernels{os.sep}{name[len(start) :]}"


# ---- What is counted ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where arrays come from.

    Attributes:
        name: What the table calls it.
        engine: The engine for them.
        made: Makes an array.
        finish: Does what steps have queued, outside the count.
    """

    name: str
    engine: str
    made: Callable[[], Any]
    finish: Callable[[], Any] = lambda: None


def sources() -> Iterator[Source]:
    """NumPy, PyTorch where it is installed, and a GPU made of host memory where the tests, which have one, are at hand."""
    yield Source("NumPy", "cpu", lambda: np.ones(SHAPE, np.float32))
    if has_torch():
        import torch

        yield Source("torch", "cpu", lambda: torch.ones(SHAPE, requires_grad=True))
    if (ROOT / "tests" / "support").is_dir():
        sys.path.insert(0, str(ROOT))
        from gpu_adam.engines.cuda import cupy
        from tests.support.cuda_cpp.host_gpu import HostEngine

        # The kernels do nothing, so that no C++ compiler is needed.
        engine = HostEngine(SimpleNamespace(kernel=lambda symbol: lambda grid, block, arguments: None))
        with patch.object(cupy, "engine", lambda: engine):
            yield Source("stand-in GPU", "cupy", _on_gpu, engine.finish)


def _on_gpu() -> Any:
    memory = np.ones(SHAPE, np.float32)
    interface = {**memory.__array_interface__, "version": 3}
    return SimpleNamespace(memory=memory, device=SimpleNamespace(id=0), __cuda_array_interface__=interface)


def situations(source: Source, tensors: int) -> Iterator[tuple[str, Calls]]:
    """A first step, which makes the plan, and steady ones with each way of handing over the gradients."""

    def arrays() -> list[Any]:
        return [source.made() for _ in range(tensors)]

    def bind(optimizer: GpuAdam, params: Sequence[Any], grads: Sequence[Any]) -> None:
        if source.name == "torch":
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
        else:
            optimizer.grads = grads

    first, grads = GpuAdam(arrays(), engine=source.engine), arrays()
    yield "first step", counted(lambda: first.step(grads), 1)
    source.finish()
    params = arrays()
    bound = GpuAdam(params, engine=source.engine)
    bind(bound, params, arrays())
    yield "bound gradients", _steady(bound.step, source.finish)
    passed = GpuAdam(arrays(), engine=source.engine)
    # All are held, so that none has the memory of an earlier one.
    fresh = iter([arrays() for _ in range(WARM + COUNTED)])
    yield "new gradients", _steady(lambda: passed.step(next(fresh)), source.finish)


def _steady(step: Step, finish: Callable[[], Any]) -> Calls:
    for _ in range(WARM):
        step()
        finish()
    found = counted(step)
    finish()
    return found


# ---- The page -----------------------------------------------------------------------------------------------------------------------


def lines(found: Sequence[tuple[str, Calls]], entered: bool) -> Iterator[str]:
    """The table, and with ``entered`` how often each file is entered in each situation."""
    width = max(len(name) for name, _ in found)
    yield f"{'':{width}}  {'calls':>8}  {'changes of file':>15}  {'files':>5}  {'walks':>8}  {'outside':>8}"
    for name, calls in found:
        yield (
            f"{name:{width}}  {calls.package:8.5g}  {calls.changes:15.5g}  {len(calls.entered):5}"
            f"  {sum(calls.walks.values()):8.5g}  {calls.others:8.5g}"
        )
    if entered:
        for name, calls in found:
            yield f"\n{name}: how often each file is entered, and each walk called"
            for counts in (calls.entered, calls.walks):
                for what, times in sorted(counts.items(), key=lambda one: (-one[1], one[0])):
                    yield f"  {times:8.5g}  {what}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and print."""
    parser = argparse.ArgumentParser("python -m benchmarks.calls", description="Count the Python calls of a step.")
    parser.add_argument("--brief", action="store_true", help="only the table, not each file and walk")
    options = parser.parse_args(arguments)
    found = [
        (f"{source.name}, {tensors} tensor{'s'[: tensors > 1]}, {name}", calls)
        for source in sources()
        for tensors in TENSORS
        for name, calls in situations(source, tensors)
    ]
    print(
        "Calls of Python functions in a step; of the package's, how many come from another file and how many find out"
    )
    print("how a tensor lies (walks); and those of other Python code, the standard library's and NumPy's (outside).\n")
    print("\n".join(lines(found, not options.brief)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
