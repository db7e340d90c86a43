"""The classes of `gpu_adam.torch`, each with PyTorch's of the same name and the package's own of the same rule, and tensors for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.support.rule_cases import COMMON, SETTINGS, TORCH, Settings
from tests.support.shipped import OPTIMIZERS

NAMES = ("SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RMSprop", "SparseAdam")
DENSE = NAMES[:-1]
"""Those that take dense gradients."""

CORES = {name: OPTIMIZERS[core] for core, name in TORCH.items()} | dict.fromkeys(
    ("AdamW", "SparseAdam"), OPTIMIZERS["GpuAdam"]
)
"""By PyTorch's name the class of this package."""

_IMPLIED: dict[str, Settings] = {
    "AdamW": {"decoupled_weight_decay": True, "weight_decay": 1e-2},
    "SparseAdam": {"eps_hat": True},
}

CASES: list[tuple[str, Settings]] = [
    ("AdamW", {}),
    ("AdamW", {"amsgrad": True, "maximize": True, "weight_decay": 0.1}),
    *((TORCH[core], settings) for core, table in SETTINGS.items() for settings in table.values()),
    *(
        (TORCH[core], {**list(table.values())[-1], **common})
        for core, table in SETTINGS.items()
        for common in COMMON.values()
        if common
    ),
]
"""PyTorch's names of the classes that take dense gradients, with settings: each option alone, and what comes before a rule."""


RICH: dict[str, Settings] = {"SGD": {"momentum": 0.9}, "RMSprop": {"momentum": 0.9, "centered": True}}
"""Settings with which these have as much state as they can."""

_COUNTED: dict[str, Settings] = {
    "on the host": {},
    "on the device": {"max_grad_norm": 1e9},
    "capturable": {"capturable": True},
}
counted = pytest.mark.parametrize("options", _COUNTED.values(), ids=_COUNTED)
"""Parametrize over options with which the host counts the steps, or a device does."""


def ours(name: str, params: Any, **settings: Any) -> Any:
    """An optimizer of `gpu_adam.torch`."""
    import gpu_adam.torch

    return getattr(gpu_adam.torch, name)(params, **settings)


def theirs(name: str, params: Any, **settings: Any) -> Any:
    """PyTorch's own."""
    import torch

    return getattr(torch.optim, name)(params, **settings)


def core(name: str, params: Any, **settings: Any) -> Any:
    """The optimizer of this package that must make the same bits."""
    return CORES[name](params, **{**_IMPLIED.get(name, {}), **settings})


def parameters(shapes: Iterable[Sequence[int]] = ((3, 4), (5,)), dtype: Any = None, seed: int = 0) -> list[Any]:
    """Parameters of these shapes with numbers around 1; float32 unless a dtype is given."""
    import torch

    rng = np.random.default_rng(seed)
    # Not NumPy's own strides, which are 0 where there is nothing.
    values = [
        torch.empty(shape, dtype=torch.float64).copy_(torch.tensor(rng.uniform(0.5, 1.5, shape))) for shape in shapes
    ]
    return [torch.nn.Parameter(value.to(dtype or torch.float32)) for value in values]


def set_gradients(params: Iterable[Any], seed: int, dtype: Any = None) -> None:
    """Give each its gradient of step ``seed``, of its own dtype unless another is given; new tensors, as autograd makes them."""
    import torch

    for index, p in enumerate(params):
        value = np.asarray(np.random.default_rng((seed, index)).standard_normal((2, *p.shape)))
        parts = torch.from_numpy(value).unbind()
        number = torch.complex(*parts) if p.is_complex() else parts[0]
        if dtype is not None:
            p.grad_dtype = None  # any
        p.grad = number.to(dtype or p.dtype)


def train(params: list[Any], opt: Any, seeds: Iterable[int]) -> None:
    """Steps with the gradients of these seeds."""
    for seed in seeds:
        set_gradients(params, seed)
        opt.step()


def trained(make: Any = ours, name: str = "Adam", steps: int = 3, **settings: Any) -> tuple[list[Any], Any]:
    """Two parameters and their optimizer, after some steps."""
    params = parameters()
    opt = make(name, params, **{"lr": 0.1, **RICH.get(name, {}), **settings})
    train(params, opt, range(steps))
    return params, opt


def bits(tensor: Any) -> bytes:
    """The bits of a tensor's elements in order, signs of zeros and kinds of NaN included."""
    import torch

    flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1))
    return bytes(flat.view(torch.uint8).numpy().tobytes())


def same_bits(one: Iterable[Any], other: Iterable[Any]) -> bool:
    """Whether tensors are the same two by two: in dtype, shape and bits."""
    return all(
        a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b) for a, b in zip(one, other, strict=True)
    )


def snapshot(value: Any) -> Any:
    """What a state dict says, with the bits of its tensors, to be compared later."""
    import torch

    if isinstance(value, dict):
        return {key: snapshot(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [snapshot(one) for one in value]
    return (value.dtype, bits(value)) if isinstance(value, torch.Tensor) else value


def state_bits(opt: Any) -> dict[Any, dict[str, Any]]:
    """The state of a torch optimizer, or of one of this package, by parameters' numbers: step counts as numbers, arrays as bits."""
    return {
        key: {name: float(value) if name in ("step", "mu_product") else bits(value) for name, value in entry.items()}
        for key, entry in opt.state_dict()["state"].items()
    }
