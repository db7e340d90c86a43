"""An optimizer that is sent to another process, as ``torch.multiprocessing`` and data loaders send it, goes on there with the same bits."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

SCRIPT = """
import sys
import torch
import torch.multiprocessing as processes
import gpu_adam
from gpu_adam import GpuAdam, GpuNAdam, GpuSgd


def made(case):
    torch.manual_seed(0)
    dtype = torch.bfloat16 if case % 2 else torch.float32
    params = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in ((3, 2), (), (5,))]
    cls, options = [
        (GpuAdam, {}), (GpuAdam, {"pack": True}), (GpuNAdam, {"lr": 0.1}), (GpuNAdam, {"pack": True, "ema_decay": 0.5}),
        (GpuAdam, {"lr": torch.tensor(0.25), "amsgrad": True}), (GpuSgd, {"momentum": 0.9, "max_grad_norm": 1.0}),
    ][case]
    opt = cls({f"p{k}": p for k, p in enumerate(params)}, **options)
    if case == 4:
        opt.param_groups[0]["initial_lr"] = torch.tensor(0.5)
    for t in range(3):
        step(opt, t)
    return opt


def step(opt, t):
    opt.step({name: torch.full_like(p, 0.5 + t) for name, p in opt.params.items()})


def told(opt):
    step(opt, 3)
    state = opt.state_dict()["state"]
    arrays = [p.detach().float().tolist() for p in opt.params.values()]
    return arrays, [{k: torch.as_tensor(v).tolist() for k, v in one.items()} for one in state.values()]


def child(rank, opts, queue):
    queue.put([told(opt) for opt in opts])


if __name__ == "__main__":
    cases = range(6)
    twins = [told(made(case)) for case in cases]
    for method in ("spawn", "forkserver"):
        context = processes.get_context(method)
        queue = context.SimpleQueue()
        process = context.Process(target=child, args=(0, [made(case) for case in cases], queue))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert queue.get() == twins, method
    queue = processes.get_context("spawn").SimpleQueue()
    processes.spawn(child, args=([made(case) for case in cases], queue), nprocs=1)
    assert queue.get() == twins
    print("the same")
"""


def test_spawned_processes_go_on(tmp_path: Path) -> None:
    path = tmp_path / "sender.py"
    path.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "the same\n"


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))])
def test_copies_in_this_process_too(copied: Any, pack: bool) -> None:
    from gpu_adam import GpuNAdam

    p = torch.nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3))
    opt = GpuNAdam([("w", p), ("s", torch.nn.Parameter(torch.tensor(2.0)))], lr=torch.tensor(0.1), pack=pack)
    for t in range(3):
        opt.step([torch.full((2, 3), 0.1 + t), torch.tensor(1.0)])
    other = copied(opt)
    for name, value in opt.state_dict()["state"][0].items():
        found = other.state_dict()["state"][0][name]
        assert type(found) is type(value)
        assert torch.equal(found, value), name
    assert isinstance(other.param_groups[0]["lr"], torch.Tensor)


def test_arrays_that_are_sent_are_numpys() -> None:
    from gpu_adam import GpuAdam

    opt = GpuAdam([torch.nn.Parameter(torch.ones(2))])
    opt.step([torch.ones(2)])
    sent = opt.__getstate__()["state_dict"]["state"][0]
    assert {type(value) for value in sent.values()} == {np.ndarray}
