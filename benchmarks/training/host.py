"""What the host does in a step of a training loop, outside of the kernel: `GpuAdam`, and what `gpu_adam.torch.AdamW` takes beyond it.

The kernels of the CPU engine are replaced by a function that does nothing, as in `overhead`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

from gpu_adam.engines import cpu

from ..calls import WARM, counted
from ..clocks import CpuClock, Timed
from ..overhead import without_kernels
from ..report import time_text
from ..timing import by_turns, median, quartiles
from .contenders import ADAMW, BOUND, GPU_ADAM, IN_PLACE, bound_gradients, new_gradients, ours

COUNTS = (1, 10, 100, 1_000, 10_000)
QUICK_COUNTS = (1, 10)


def measure(counts: Sequence[int], repeats: int, budget: float) -> list[dict[str, Any]]:
    """Seconds and Python calls of a step outside the kernel, for each number of torch tensors, in place and packed.

    Args:
        counts: Numbers of tensors, of one element each.
        repeats: Rounds.
        budget: Seconds for the rounds of one number of tensors.

    Returns:
        A row for each number, way and optimizer: its median and quartiles, how many calls of Python functions it makes, and with the class
        under ``"added"`` the median of what it takes longer than `GpuAdam` in the same round.
    """
    return [row for count in counts for how in (IN_PLACE, BOUND) for row in _measured(count, how, repeats, budget)]


def _measured(count: int, how: str, repeats: int, budget: float) -> list[dict[str, Any]]:
    timed, calls = {}, {}
    with without_kernels(), patch.multiple(cpu, SERIAL=sys.maxsize, MEASURED_SERIAL=sys.maxsize):
        for name, make in ours().items():
            step, before = _loop(make, count, how)
            for _ in range(WARM):
                before()
                step()
            found = counted(step, before=before)
            timed[name], calls[name] = Timed(step, before=before), found.package + found.others
        by_turns(timed, CpuClock(), rounds=repeats, seconds=budget)
    samples = {name: one.samples["wall"] for name, one in timed.items()}
    rows = [
        {
            "label": f"{name} {how}",
            "tensors": count,
            "median": median(wall),
            "quartiles": quartiles(wall),
            "calls": calls[name],
        }
        for name, wall in samples.items()
    ]
    rows[-1]["added"] = median([one - other for one, other in zip(samples[ADAMW], samples[GPU_ADAM], strict=True)])
    return rows


def _loop(make: Any, count: int, how: str) -> tuple[Any, Any]:
    """A step, and what comes before it."""
    import torch

    params = [torch.ones(1, requires_grad=True) for _ in range(count)]
    grads = [torch.ones(1) for _ in range(count)]
    # Decoupled decay, as AdamW has it: the class and `GpuAdam` do the same.
    optimizer = make(params, weight_decay=0.01, decoupled_weight_decay=True, pack=how != IN_PLACE)
    new = new_gradients(params, lambda index: grads[index].clone())
    return optimizer.step, bound_gradients(params, grads) if how == BOUND else new


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [
        "a step of torch tensors outside the kernel, against the number of tensors; in brackets calls of Python functions",
        f"  {'':40}" + "".join(f"{count:>20,}" for count in sorted({row["tensors"] for row in rows})),
    ]
    for label, *cells in cells_of(rows):
        lines.append(f"  {label:40}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def cells_of(rows: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """A label, and a cell for each number of tensors; what the class takes beyond `GpuAdam` in a line of its own."""
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = sorted((row for row in rows if row["label"] == label), key=lambda row: int(row["tensors"]))
        yield [label, *(f"{time_text(row['median'])} ({row['calls']:,.5g})" for row in mine)]
        if "added" in mine[0]:
            yield [f"… beyond {GPU_ADAM}", *(f"{1e6 * row['added']:.1f} us" for row in mine)]
