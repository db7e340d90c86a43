"""PyTorch's own database of its optimizers, which drives its tests, put before ours.

`torch.testing._internal.common_optimizers` of the installed PyTorch says of each optimizer which arguments are worth trying, what must be
refused, which schedulers to run beside it, and how sparse gradients are tried.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any
from unittest import mock

import hypothesis
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
import gpu_adam.torch as ours  # noqa: E402

NAMES = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RMSprop", "SGD", "SparseAdam")
"""The optimizers that both have."""

DENSE = tuple(name for name in NAMES if name != "SparseAdam")
"""Those that take dense gradients."""

FUSED = ("Adagrad", "Adam", "AdamW", "SGD")
"""Those of which PyTorch has a fused version that runs on a CPU."""


@cache
def _common_optimizers() -> Any:
    # Not at the top: the import takes three seconds. It is made for a process that runs nothing but PyTorch's tests: it forbids to set the
    # flags of torch.backends, chooses hypothesis's profile, and sets environment variables.
    profile = hypothesis.settings.get_current_profile_name()
    with mock.patch.dict(os.environ), mock.patch.object(torch.backends, "disable_global_flags"):
        try:
            return import_module("torch.testing._internal.common_optimizers")
        finally:
            hypothesis.settings.load_profile(profile)


@cache
def information(name: str) -> Any:
    """The `OptimizerInfo` of the optimizer of this name."""
    (found,) = [info for info in _common_optimizers().optim_db if info.name == name]
    return found


def inputs(name: str, dtype: Any = None, *, flags: bool = True) -> list[dict[str, Any]]:
    """Keyword arguments worth trying: every one as it is, and unless told otherwise with `foreach` and with `fused` where PyTorch has them.

    They are new ones at each call, because a scheduler writes into the tensors among them.
    """
    if not flags:
        return [each.kwargs for each in information(name).optim_inputs_func(device="cpu", dtype=dtype)]
    every = _common_optimizers()._get_optim_inputs_including_global_cliquey_kwargs
    return [each.kwargs for each in every("cpu", dtype, information(name), skip=("differentiable",))]


def capturable_inputs(name: str) -> list[dict[str, Any]]:
    """Those that PyTorch tries on a GPU only: with `capturable=True`, and tensors as hyperparameters."""
    given = [each.kwargs for each in information(name).optim_inputs_func(device="cuda")]
    return [kwargs for kwargs in given if kwargs.get("capturable")]


@dataclass(frozen=True)
class Refused:
    """One thing that PyTorch refuses."""

    description: str
    params: Any
    kwargs: dict[str, Any]
    error: type[Exception]
    message: str


def refusals(name: str) -> list[Refused]:
    """What the constructor must refuse or warn of. `params=None` means that the hyperparameters are looked at before the parameters."""
    found = []
    for each in information(name).optim_error_inputs_func(device="cpu", dtype=torch.float32):
        assert each.error_on is _common_optimizers().OptimizerErrorEnum.CONSTRUCTION_ERROR
        given = each.optimizer_error_input
        found.append(Refused(given.desc, given.params, given.kwargs, each.error_type, each.error_regex))
    return found


def schedulers(name: str) -> tuple[list[Any], ...]:
    """Lists of functions, each of which makes a learning rate scheduler of an optimizer; the schedulers of a list work together."""
    return information(name).scheduler_inputs


def optimizer(name: str, params: Any, **kwargs: Any) -> Any:
    """Ours of this name."""
    return getattr(ours, name)(params, **kwargs)


def original(name: str, params: Any, **kwargs: Any) -> Any:
    """PyTorch's of this name."""
    return getattr(torch.optim, name)(params, **kwargs)


def takes_sparse_only(name: str) -> bool:
    return bool(information(name).only_supports_sparse_grads)


def set_gradients(name: str, params: list[Any], gradients: list[Any]) -> None:
    """Put gradients to parameters, sparse ones where the optimizer takes no others."""
    for p, gradient in zip(params, gradients, strict=True):
        p.grad = gradient.to_sparse() if gradient is not None and takes_sparse_only(name) else gradient


class Task:
    """A linear regression: the mean of (x · weight + bias − y)² is to become less.

    Attributes:
        params: The weight (6, 4) and the bias (4), both leaves.
    """

    def __init__(self, name: str, *, dtype: Any = torch.float32, contiguous: bool = True, seed: int = 0) -> None:
        made = torch.Generator().manual_seed(seed)
        self.name = name
        self.x = torch.randn(16, 6, generator=made, dtype=torch.float64).to(dtype)
        self.y = torch.randn(16, 4, generator=made, dtype=torch.float64).to(dtype)
        values = [torch.randn(shape, generator=made, dtype=torch.float64).to(dtype) for shape in ((6, 4), (4,))]
        if not contiguous:
            values = [torch.stack([value, -value], dim=-1)[..., 0] for value in values]
        self.params = [torch.nn.Parameter(value) for value in values]

    def loss(self) -> Any:
        """Its value now; puts the gradients to the parameters."""
        for p in self.params:
            p.grad = None
        weight, bias = self.params
        value = (self.x @ weight + bias - self.y).square().mean()
        value.backward()
        set_gradients(self.name, self.params, [p.grad for p in self.params])
        return value.detach()

    def run(self, opt: Any, steps: int, every_step: tuple[Any, ...] = ()) -> list[float]:
        """The losses before each of so many steps, and after the last; `every_step` are schedulers."""
        losses = []
        for _ in range(steps):
            losses.append(float(self.loss()))
            opt.step()
            for scheduler in every_step:
                advance(scheduler, losses[-1])
        return [*losses, float(self.loss())]


def advance(scheduler: Any, loss: float) -> None:
    """One step of a scheduler; one of them wants to know the loss."""
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        scheduler.step(loss)
    else:
        scheduler.step()


def assert_moved(losses: list[float], kwargs: dict[str, Any]) -> None:
    """The loss went where it should."""
    if kwargs.get("maximize"):
        assert losses[-1] > losses[0], kwargs
    else:
        assert losses[-1] < losses[0], kwargs


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Two structures of tensors and values are equal, bit by bit."""
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor), where
        assert (one.dtype, one.shape, one.layout) == (other.dtype, other.shape, other.layout), where
        assert torch.equal(one, other), (where, one, other)
    elif isinstance(one, dict):
        assert isinstance(other, dict), where
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}[{key!r}]")
    elif isinstance(one, (list, tuple)):
        assert type(one) is type(other), where
        assert len(one) == len(other), where
        for k, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{k}]")
    else:
        assert type(one) is type(other), (where, one, other)
        assert one == other, where


def without_names(state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state dict without the parameters' names, which not everybody has given."""
    groups = [
        {key: value for key, value in group.items() if key != "param_names"} for group in state_dict["param_groups"]
    ]
    return {**state_dict, "param_groups": groups}
