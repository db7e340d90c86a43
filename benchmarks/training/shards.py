"""A step of FSDP2's shards, in two processes over gloo: parameters and gradients are DTensors, and each process steps its own part.

``measure`` starts the first process, which starts the second. Both take the same sample at the same time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from gpu_adam.engines.threads import thread_count

from ..cases import Case
from ..check import check
from ..clocks import CpuClock, Timed
from ..plain import TORCH_WAYS
from ..record import read, write
from ..report import time_text
from ..runner import guarded
from ..start import Contender, Start
from ..timing import by_turns, median, quartiles, ratios
from .cases import loop
from .contenders import GPU_ADAM, IN_PLACE, TORCH, Make, new_gradients, ours, without_flag

RANKS = 2
SECONDS = 240.0
"""That all of it may take: a process whose other one has died waits for it in vain."""

STEPS = 3
"""Of a sample. The same in both processes, so that each step begins in both."""

LOCAL = "on to_local()"
"""`GpuAdam` knows no DTensors: it is given the local tensors, which are asked for in each step."""

CASES = {
    "100 tensors of 10,000, in halves": ((10_000,),) * 100,
    "100 tensors of 7 × 1,429, in 4 rows and 3": ((7, 1429),) * 100,
    "100 tensors, ten of them in one process alone": ((1, 10_000), *((8, 1250),) * 9) * 10,
}
"""The whole tensors' shapes, of which the first dimension is shared out. Of more tensors PyTorch's first foreach step takes minutes."""

QUICK_CASES = {"10 tensors of 3 × 5, in 2 rows and 1": ((3, 5),) * 10}

RESULT = "result.json"


def measure(rounds: int, *, quick: bool) -> dict[str, Any]:
    """The first process's figures.

    Args:
        rounds: Rounds of each case.
        quick: Whether only few and small tensors are shared out.

    Returns:
        How many threads each process has, and under ``"cases"`` for each a name, and the contenders' medians and quartiles.

    Raises:
        RuntimeError: If a process fails, or a contender does not compute what it should.
    """
    threads = max(1, thread_count() // RANKS)
    with tempfile.TemporaryDirectory(prefix="shards-") as folder:
        command = [sys.executable, "-m", __name__, folder, "--rounds", str(rounds), *(["--quick"] if quick else [])]
        # Both are on this machine, whatever its name leads to.
        added = {"GPU_ADAM_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo"}
        outcome = guarded(command, SECONDS, added)
        found = read(Path(folder) / RESULT)
    if outcome.status != "done" or found is None:
        raise RuntimeError(f"the shards' processes {outcome.status} ({outcome.why}):\n{outcome.output}")
    return {"ranks": RANKS, "threads": threads, "cases": found}


def table(found: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"FSDP2 shards of {found['ranks']} processes over gloo, with {found['threads']} thread(s) each; the first one's times"
    ]
    for case in found["cases"]:
        lines.append(f"  {case['name']}")
        for row in case["rows"]:
            lines.append(f"    {row['label']:48}{time_text(row['median']):>12}{row['to_torch']:>10.3g} x torch fused")
    return "\n".join(lines)


# ---- In each process ------------------------------------------------------------------------------------------------------------------


class _Together(CpuClock):
    """The CPU's, of which both processes ask the same."""

    def prepare(self, one: Timed) -> None:
        """As many steps in both."""
        one.count = STEPS


def measure_rank(cases: Mapping[str, Sequence[tuple[int, ...]]], rounds: int) -> list[dict[str, Any]]:
    """The figures of this process."""
    found = []
    for name, shapes in cases.items():
        timed = {}
        for contender in _contenders(shapes):
            ((label, step),) = contender.steps.items()
            timed[label] = Timed(step, before=contender.before)
        by_turns(timed, _Together(), rounds=rounds, seconds=inf)
        found.append({"name": name, "tensors": len(shapes), "rows": [_row(label, timed) for label in timed]})
    return found


def _row(label: str, timed: Mapping[str, Timed]) -> dict[str, Any]:
    wall = timed[label].samples["wall"]
    to_torch = median(ratios(timed[label], timed[TORCH]))
    return {"label": label, "median": median(wall), "quartiles": quartiles(wall), "to_torch": to_torch}


def _contenders(shapes: Sequence[tuple[int, ...]]) -> Iterator[Contender]:
    """Those who were checked."""
    import torch

    makers = {f"{name} {LOCAL if name == GPU_ADAM else IN_PLACE}": make for name, make in ours().items()}
    makers |= {way: partial(without_flag, torch.optim.AdamW, **options) for way, options in TORCH_WAYS.items()}
    for label, make in makers.items():
        params = _sharded(shapes)
        start = Start.of(loop(Case("shards", "list", tuple(tuple(part.to_local().shape) for part in params))))
        contender = _contender(label, make, params, start)
        check(contender, start)
        yield contender


def _sharded(shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """The parameters of a module that FSDP2 has shared out."""
    import torch
    from torch.distributed.fsdp import fully_shard

    module = torch.nn.Module()
    for index, shape in enumerate(shapes):
        module.register_parameter(f"p{index}", torch.nn.Parameter(torch.zeros(shape)))
    mesh = torch.distributed.init_device_mesh("cpu", (RANKS,))
    return list(fully_shard(module, mesh=mesh).parameters())


def _contender(label: str, make: Make, params: Sequence[Any], start: Start) -> Contender:
    import torch
    from torch.distributed.tensor import DTensor

    parts = [param.detach().to_local() for param in params]
    for part, values in zip(parts, start.params, strict=True):
        part.copy_(torch.from_numpy(values))

    def shard(index: int) -> Any:
        param, gradient = params[index], torch.from_numpy(start.grads[index]).clone()
        there = {"shape": param.shape, "stride": param.stride(), "run_check": False}
        return DTensor.from_local(gradient, param.device_mesh, param.placements, **there)

    give = new_gradients(params, shard)

    def before() -> None:
        give()
        torch.distributed.barrier()

    is_local = label.endswith(LOCAL)
    optimizer = make(parts if is_local else params, **start.hyperparameters)

    def local_step() -> None:
        optimizer.step([param.grad.to_local() for param in params])

    step = local_step if is_local else optimizer.step
    return Contender({label: step}, lambda: [part.numpy() for part in parts], before=before)


def main(arguments: Sequence[str] | None = None) -> int:
    """One process; the first starts the others, and writes its figures into the folder in which they meet."""
    import torch

    parser = argparse.ArgumentParser(f"python -m {__spec__.name}", description="One process of FSDP2's shards.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    own = [*(arguments or sys.argv[1:])]
    others = [
        subprocess.Popen([sys.executable, "-m", __spec__.name, *own, "--rank", str(rank)])
        for rank in range(1, RANKS)
        if options.rank == 0
    ]
    torch.set_num_threads(thread_count())
    meeting = f"file://{(options.folder / 'meeting').resolve()}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=options.rank, world_size=RANKS)
    found = measure_rank(QUICK_CASES if options.quick else CASES, options.rounds)
    torch.distributed.destroy_process_group()
    if options.rank == 0:
        write(options.folder / RESULT, found)
    return max((other.wait() for other in others), default=0)


if __name__ == "__main__":
    sys.exit(main())
