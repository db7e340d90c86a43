"""A run of seconds that covers every family of kernels: what compute-sanitizer looks over. ``python -m benchmarks.gpu_proof.covering``."""

from __future__ import annotations

import sys

from ..libraries import Host
from ..place import Place
from .cells import Cell, difference, left

CELLS = (
    Cell("GpuAdam", "", "float32", False, "plain"),
    Cell("GpuAdam", "", "float32", True, "clip"),
    Cell("GpuAdam", "amsgrad", "bfloat16", False, "skip"),
    Cell("GpuAdam", "", "bfloat16", True, "average"),
    Cell("GpuAdam", "", "float64", False, "clip"),
    Cell("GpuAdam", "", "float32", False, "strided"),
    Cell("GpuAdam", "", "float32", False, "rows"),
    Cell("GpuAdam", "", "float32", False, "graph"),
    Cell("GpuSgd", "momentum", "float32", False, "plain"),
)
"""Of tensors whose sizes are no multiples of a vector's, so that the ends of each are touched."""

ENDED = "all programs were run"


def main(dry_run: bool) -> int:
    """Run them; the exit status is 0 if all bits are the cpu engine's."""
    place = Place.gpu(dry_run)
    status = 0
    for engine in place.engines:
        for cell in CELLS:
            if not place.has_format(cell.format):
                continue
            found = difference(left(cell, engine, place.library), left(cell, "cpu", Host()))
            print(f"{engine}: {cell}: {found or 'the same bits'}", flush=True)
            status |= found is not None
    print(ENDED, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main("--dry-run" in sys.argv))
