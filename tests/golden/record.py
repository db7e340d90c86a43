"""What each golden file has, and the command that writes them: ``python -m tests.golden.record``, from a checkout.

Saved states (``*.pickle``) and the list of documented imports only grow: what is there was promised.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gpu_adam import schedules
from gpu_adam.engines.compile.nvrtc import expression_of
from tests.support.cuda_cpp.build import symbol
from tests.support.cuda_cpp.instances import OTHERS, SHIPPED

from . import cases
from .cases import Case, Tensor
from .interface import IMPORTS, documented_imports, interface, interface_for_pytorch, promised_imports
from .running import Run, bits, made, run, state_dict, take_step
from .stand_in import ENGINES, gpus

HERE = Path(__file__).parent


def sections(texts: Iterable[tuple[str, str]]) -> str:
    """A file of texts under their names."""
    return "".join(f"== {name}\n{text}\n" for name, text in texts)


# ---- Plans and launches -------------------------------------------------------------------------------------------------------------


@cache
def _on_cpu() -> dict[str, Run]:
    return {name: run(case) for name, case in cases.dense_cases().items()}


@cache
def _sparse_on_cpu() -> dict[str, Run]:
    return {name: run(case) for name, case in cases.sparse_cases().items()}


@cache
def _on_gpus(engine: str, which: str) -> tuple[dict[str, str], dict[str, str]]:
    """The plans, and the kernels that the last step ran."""
    chosen = cases.sparse_cases() if which == "sparse" else {**cases.dense_cases(), **cases.gpu_cases()}
    plans, launches = {}, {}
    for name, case in chosen.items():
        with gpus(engine) as devices:
            done = run(case, devices)
            plans[name], launches[name] = done.plan(), "\n".join(devices.launches())
    return plans, launches


def plans_cpu() -> str:
    return sections((name, done.plan()) for name, done in _on_cpu().items())


def plans_gpu(engine: str = "cupy") -> str:
    return sections(_on_gpus(engine, "dense")[0].items())


def plans_sparse_cpu() -> str:
    return sections((name, done.plan()) for name, done in _sparse_on_cpu().items())


def plans_sparse_gpu(engine: str = "cupy") -> str:
    return sections(_on_gpus(engine, "sparse")[0].items())


def launches_gpu(engine: str = "cupy") -> str:
    return sections(_on_gpus(engine, "dense")[1].items())


def launches_sparse_gpu(engine: str = "cupy") -> str:
    return sections(_on_gpus(engine, "sparse")[1].items())


# ---- Kernels ------------------------------------------------------------------------------------------------------------------------


def kernels() -> str:
    """The names of all kernels, with their geometries."""
    return "".join(f"{symbol(kernel)}\n" for kernel in SHIPPED + OTHERS)


def expressions() -> str:
    """What the same are called in CUDA C++."""
    return "".join(f"{expression_of(kernel)}\n" for kernel in SHIPPED + OTHERS)


# ---- Bits and states ----------------------------------------------------------------------------------------------------------------


def bits_cpu() -> str:
    return sections((name, bits(done)) for name, done in _on_cpu().items())


def bits_sparse() -> str:
    return sections((name, bits(done)) for name, done in _sparse_on_cpu().items())


def state_dicts() -> str:
    return sections((name, state_dict(done)) for name, done in _on_cpu().items())


def torch() -> str:
    """All of it, of torch tensors."""
    done = {name: run(case, library="torch") for name, case in cases.torch_cases().items()}
    return sections((name, "\n".join((one.plan(), bits(one), state_dict(one)))) for name, one in done.items())


SMALL = (Tensor((5,)), Tensor((6, 7)), Tensor((33,), "bfloat16"), Tensor((9,), "float16"))
SAVED: Mapping[str, Case] = {
    "amsgrad": Case(
        "GpuAdam", SMALL, {"amsgrad": True, "ema_decay": 0.9, "max_grad_norm": 0.5, "skip_nonfinite": True},
        infinite=frozenset({1}), named=True,
    ),
    "sgd": Case(
        "GpuSgd", cases.WALKS, {"momentum": 0.9, "nesterov": True, "lr": schedules.linear(0.5, 8)},
        groups=({"weight_decay": 0.1}, {"lr": 0.25}), missing=frozenset({(0, 1), (1, 1)}),
    ),
    "rmsprop": Case("GpuRmsProp", SMALL, {"centered": True, "momentum": 0.75, "pack": True}),
}  # fmt: skip
"""Optimizers that version 0.2.0.dev0 saved after ``SAVED_STEPS`` steps: parameters with a state dict, and pickled whole."""

SAVED_STEPS, ALL_STEPS = 3, 6


def saved_file(name: str) -> Path:
    return HERE / f"{name}.pickle"


def save(name: str) -> bytes:
    """What such a file holds."""
    optimizer = run(SAVED[name], steps=SAVED_STEPS).optimizer
    params = [param.copy() for param in _in_order(SAVED[name], optimizer.params)]
    held = {"params": params, "state_dict": optimizer.state_dict(), "optimizer": optimizer}
    return pickle.dumps(held, protocol=4)


def _in_order(case: Case, params: Any) -> list[Any]:
    """An optimizer's parameters in the order of the case's."""
    if case.groups:
        count = len(case.groups)
        return [params[k % count][k // count] for k in range(len(case.tensors))]
    return list(params.values()) if isinstance(params, dict) else [p[1] if isinstance(p, tuple) else p for p in params]


def loaded(name: str, content: bytes, whole: bool) -> str:
    """The bits after the other steps of an optimizer that was loaded: from its state dict, or ``whole``."""
    case, held = SAVED[name], pickle.loads(content)
    optimizer = held["optimizer"]
    if not whole:
        params = [cases.laid_out(p, one.layout) for p, one in zip(held["params"], case.tensors, strict=True)]
        optimizer = made(case, params, "cpu")
        optimizer.load_state_dict(held["state_dict"])
    done = Run(optimizer, None, "")
    for step in range(SAVED_STEPS, ALL_STEPS):
        take_step(case, done, case.gradients(step))
    return bits(done)


def saved_bits() -> str:
    """The same of optimizers that were never saved."""
    return sections((name, bits(run(case, steps=ALL_STEPS))) for name, case in SAVED.items())


# ---- The files ----------------------------------------------------------------------------------------------------------------------

GPU_FILES: dict[str, Callable[[str], str]] = {
    "plans_gpu.txt": plans_gpu,
    "plans_sparse_gpu.txt": plans_sparse_gpu,
    "launches_gpu.txt": launches_gpu,
    "launches_sparse_gpu.txt": launches_sparse_gpu,
}
"""By an engine's name; both give the same."""

FILES: dict[str, Callable[[], str]] = {
    "plans_cpu.txt": plans_cpu,
    "plans_sparse_cpu.txt": plans_sparse_cpu,
    "kernels.txt": kernels,
    "expressions.txt": expressions,
    "bits.txt": bits_cpu,
    "bits_sparse.txt": bits_sparse,
    "bits_saved.txt": saved_bits,
    "state_dicts.txt": state_dicts,
    "interface.txt": interface,
}

TORCH_FILES: dict[str, Callable[[], str]] = {"torch.txt": torch, "interface_torch.txt": interface_for_pytorch}
"""Those that need PyTorch."""


def main() -> None:
    """Write what differs."""
    paths = sorted({*promised_imports(), *documented_imports()})
    _write(IMPORTS.name, "".join(f"{path}\n" for path in paths))
    for name, make in FILES.items():
        _write(name, make())
    for name, make_for in GPU_FILES.items():
        _write(name, make_for(next(iter(ENGINES))))
    for name, make in TORCH_FILES.items():
        _write(name, make())
    for name in SAVED:
        if not saved_file(name).exists():
            saved_file(name).write_bytes(save(name))
            print(f"{name}.pickle is new")


def _write(name: str, text: str) -> None:
    file = HERE / name
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")
        print(f"{name} is new")


if __name__ == "__main__":
    main()
