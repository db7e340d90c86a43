"""The kernels that Nsight Compute looks at: ``python -m benchmarks.gpu_proof.profiled``. It prints what it launches, in this order."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpu_adam import GpuAdam
from gpu_adam.dtypes import FORMATS
from gpu_adam.kernels.abi import STRIDED
from gpu_adam.plan.prologue import Prologue

from ..cases import GPT2, Case, single
from ..place import Place
from ..plain import bound
from ..start import Start

MARK = "launch: "

PROGRAMS: tuple[tuple[Case, dict[str, Any]], ...] = (
    (single(26), {"pack": True}),
    (single(26), {"pack": False}),
    (single(26, "bfloat16"), {"pack": True}),
    (single(26), {"pack": True, "max_grad_norm": 1.0}),
    (GPT2, {"pack": False}),
)

DRY: tuple[tuple[Case, dict[str, Any]], ...] = (
    (single(10), {"pack": True}),
    (single(10), {"pack": True, "max_grad_norm": 1.0}),
)


def main(dry_run: bool) -> int:
    """Run a step of each program unseen, so that its kernels are there, and one that is seen."""
    place = Place.gpu(dry_run)
    engine = place.engines[0]
    starts: dict[str, Start] = {}
    for case, options in DRY if dry_run else PROGRAMS:
        if not place.has_format(case.format):
            continue
        start = starts.get(case.name) or starts.setdefault(case.name, Start.of(case))
        optimizer = bound(start, engine, place.native(engine), **options)
        optimizer.step()
        place.synchronize()
        with seen(dry_run):
            optimizer.step()
            place.synchronize()
        for launch in launches(optimizer):
            print(MARK + json.dumps({"case": case.name, "engine": engine, **launch}), flush=True)
        del optimizer
    return 0


def launches(optimizer: GpuAdam) -> Iterator[dict[str, Any]]:
    """A step's launches, with what the plan says that they move."""
    plan = optimizer.plan
    for prologue in plan.prologues:
        yield {
            "name": prologue_name(prologue),
            "elements": prologue.elements,
            "bytes_read": prologue.bytes_read,
            "bytes_written": 0,
        }
    for launch in plan.launches:
        yield {
            "name": launch.specialization.name,
            "elements": launch.elements,
            "bytes_read": launch.bytes_read,
            "bytes_written": launch.bytes_written,
            "chunk": launch.chunk,
        }


def prologue_name(prologue: Prologue) -> str:
    """As the ledger calls it: by the format of the gradients that it measures, where that is one; else by its rule."""
    kinds = set() if prologue.table is None else {int(kind) for kind in prologue.table.formats}
    if len(kinds) == 1 and (kind := kinds.pop()) < STRIDED:
        return f"measure_{FORMATS[kind]}"
    return f"{prologue.rule.symbol}_prologue"


@contextmanager
def seen(dry_run: bool) -> Iterator[None]:
    """A block whose kernels a profiler looks at that was told not to begin by itself."""
    if dry_run:
        yield
        return
    start, stop = _switch()
    start()
    try:
        yield
    finally:
        stop()


def _switch() -> Any:
    try:
        from cupy.cuda import runtime
    except ImportError:
        import torch

        return torch.cuda.cudart().cudaProfilerStart, torch.cuda.cudart().cudaProfilerStop
    return runtime.profilerStart, runtime.profilerStop


if __name__ == "__main__":
    sys.exit(main("--dry-run" in sys.argv))
