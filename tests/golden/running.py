"""Running a case, on the CPU or on the stand-in of a GPU engine, and writing down what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np

import gpu_adam
from gpu_adam import GpuOptimizer, LossScaler
from tests.support.torch_tensors import as_torch

from .cases import STEPS, Array, Case, Tensor, array_of
from .stand_in import Gpus, StandInArray


@dataclass
class Run:
    """What has made its steps.

    Attributes:
        optimizer: The optimizer.
        scaler: Its loss scaler, if it has one.
        first_plan: Its plan before the first step.
    """

    optimizer: GpuOptimizer
    scaler: LossScaler | None
    first_plan: str

    def plan(self) -> str:
        """The plan of the last step, and where it was another one before the first step, that one too."""
        last = str(self.optimizer.plan)
        return last if last == self.first_plan else f"{last}\nbefore the first step:\n{self.first_plan}"


LATE = Tensor((17,))
"""The parameter that is added after two steps."""


def run(case: Case, gpus: Gpus | None = None, library: str = "numpy", steps: int = STEPS) -> Run:
    """Make the steps of a case.

    Args:
        case: The case.
        gpus: Where; by default on the CPU.
        library: ``"torch"`` for tensors on the CPU.
        steps: How many.
    """

    def handed_over(array: Array, tensor: Tensor) -> Any:
        if library == "torch":
            return as_torch(array)
        return array if gpus is None else StandInArray(array, tensor.device)

    params = [handed_over(array, one) for array, one in zip(case.parameters(), case.tensors, strict=True)]
    for param, one in zip(params, case.tensors, strict=True):
        if library == "torch":
            param.requires_grad = not one.frozen
    optimizer = made(case, params, "cpu" if gpus is None else gpus.name)
    scaler = None
    if case.scale == "scaler":
        scaler = LossScaler(optimizer, init_scale=16.0, growth_interval=2)
    run = Run(optimizer, scaler, str(optimizer.plan))
    tensors = case.tensors
    for step in range(steps):
        if step == 2 and case.late is not None:
            param = handed_over(array_of("late", LATE.shape, LATE.dtype), LATE)
            optimizer.add_param_group({"params": [param], **case.late})
            tensors = (*tensors, LATE)
        grads = [
            (given[0], handed_over(given[1], one)) if isinstance(given, tuple)
            else None if given is None
            else handed_over(given, one)
            for given, one in zip(replace(case, tensors=tensors).gradients(step), tensors, strict=True)
        ]  # fmt: skip
        if gpus is not None and step == steps - 1:
            gpus.launches()
        # A packed optimizer takes up arrays of the caller's as well.
        bound = bool(case.options.get("pack")) and step != 1 and not case.rows and all(one is not None for one in grads)
        take_step(case, run, grads, bound)
    return run


def made(case: Case, params: list[Any], engine: str) -> GpuOptimizer:
    """The optimizer of a case."""
    given: list[Any] = [(f"layer.{k}", param) for k, param in enumerate(params)] if case.named else params
    if case.groups:
        dealt = zip(_dealt_out(given, case), case.groups, strict=True)
        given = [{"params": params, **group} for params, group in dealt]
    optimizer: GpuOptimizer = getattr(gpu_adam, case.optimizer)(given, engine=engine, **case.options)
    return optimizer


def take_step(case: Case, run: Run, grads: list[Any], bound: bool = False) -> None:
    """One step, with gradients in the order of the parameters; ``bound`` writes them into those of the buckets first."""
    early, late = grads[: len(case.tensors)], grads[len(case.tensors) :]
    handed: Any = [*_dealt_out(early, case), *([late] if late else [])] if case.groups else early
    if bound:
        for place, value in zip(_flat(run.optimizer.grads), _flat(handed), strict=True):
            place[...] = value
        handed = None
    run.optimizer.step(handed, grad_scale=run.scaler if run.scaler is not None else case.scale)


def _dealt_out(each: list[Any], case: Case) -> list[list[Any]]:
    return [each[k :: len(case.groups)] for k in range(len(case.groups))]


# ---- What came of it ---------------------------------------------------------------------------------------------------------------


def _flat(tree: Any) -> Iterator[Any]:
    """The arrays of a structure, in its order, without their names."""
    if isinstance(tree, (list, tuple, dict)):
        for one in tree.values() if isinstance(tree, dict) else tree:
            yield from _flat(one)
    elif not isinstance(tree, str):
        yield tree


def _host(array: Any) -> Array:
    if hasattr(array, "detach"):
        import torch

        array = array.detach()
        array = array.view(torch.int16).numpy() if array.dtype is torch.bfloat16 else array.numpy()
    return np.asarray(array)


def _digest(arrays: Iterator[Any]) -> str:
    digest = sha256()
    for array in arrays:
        digest.update(_host(array).tobytes())
    return digest.hexdigest()


def bits(run: Run) -> str:
    """Hashes of the parameters and of the states, and the numbers that a user can ask for."""
    optimizer = run.optimizer
    state = optimizer.state_dict()["state"]
    arrays = (array for entry in state.values() for array in entry.values() if hasattr(array, "shape"))
    lines = [f"parameters {_digest(_flat(optimizer.params))}", f"states     {_digest(arrays)}"]
    for name in ("grad_norm", "group_grad_norms"):
        try:
            found = getattr(optimizer, name)
        except RuntimeError:
            continue
        lines.append(f"{name} {' '.join(one.hex() for one in np.ravel(found).tolist())}")
    if optimizer.steps_skipped:
        lines.append(f"steps_skipped {optimizer.steps_skipped}")
    if run.scaler is not None:
        lines.append(f"scaler {run.scaler.state_dict()}")
    return "\n".join(lines)


def state_dict(run: Run) -> str:
    """The keys of the state dict in their order, with formats, shapes and what is no array."""
    saved = run.optimizer.state_dict()
    lines = [f"keys {list(saved)}"]
    for key, entry in saved["state"].items():
        lines.append(f"state {key!r}: " + ", ".join(f"{name} {_kind(value)}" for name, value in entry.items()))
    for number, group in enumerate(saved["param_groups"]):
        lines.append(f"group {number}: " + ", ".join(f"{key}={value!r}" for key, value in group.items()))
    return "\n".join(lines)


def _kind(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"{type(value).__module__}.{type(value).__name__} {value.dtype} {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}"
