"""What the golden files are about: optimizers, their parameters, and steps that bring every part of the package to work.

Inputs come out of a hash and are multiples of powers of two, so that they are the same on every machine and with every version of NumPy.
No case has a NaN, whose bits are not promised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from math import inf, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_adam import schedules
from tests.support.reference import DTYPES
from tests.support.rule_cases import CASES as SETTINGS

Array = NDArray[Any]
STEPS = 4


@dataclass(frozen=True)
class Tensor:
    """A parameter.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
        grad: Its gradient's dtype, by default the same.
        layout, grad_layout: How the two lie in memory: see `laid_out`.
        device: The number of its GPU, where there are some.
        frozen: Whether it is a torch tensor that requires no gradient.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    grad: str | None = None
    layout: str = "C"
    grad_layout: str = "C"
    device: int = 0
    frozen: bool = False


@dataclass(frozen=True)
class Case:
    """An optimizer and its steps.

    Attributes:
        optimizer: The name of its class.
        tensors: Its parameters.
        options: What it is made with.
        groups: What each group says of its own; the parameters are dealt out to them in turn. Without any there are no groups.
        named: Whether the parameters have names.
        late: The options of a group with one more parameter that is added after two steps.
        scale: ``grad_scale`` of every step: a number, or ``"scaler"`` for a loss scaler.
        rows: The parameters whose gradients are sparse.
        missing: Steps, from 0 on, and parameters that have no gradient then.
        infinite: Steps at which the first gradient has an infinite element.
    """

    optimizer: str
    tensors: tuple[Tensor, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    groups: tuple[Mapping[str, Any], ...] = ()
    named: bool = False
    late: Mapping[str, Any] | None = None
    scale: float | str | None = None
    rows: frozenset[int] = frozenset()
    missing: frozenset[tuple[int, int]] = frozenset()
    infinite: frozenset[int] = frozenset()

    def parameters(self) -> list[Array]:
        return [array_of(f"parameter {k}", one.shape, one.dtype, one.layout) for k, one in enumerate(self.tensors)]

    def gradients(self, step: int) -> list[Any]:
        """The gradients of a step: arrays, ``(row numbers, row values)``, or None."""
        found: list[Any] = []
        for k, one in enumerate(self.tensors):
            name, dtype = f"gradient {k} of step {step}", one.grad or one.dtype
            if (step, k) in self.missing or one.frozen:
                found.append(None)
            elif k in self.rows:
                count = 5 + 4 * step
                numbers = np.abs(integers(f"rows of {name}", count)) % one.shape[0]
                found.append((numbers, array_of(name, (count, *one.shape[1:]), dtype)))
            else:
                found.append(array_of(name, one.shape, dtype, one.grad_layout))
        if step in self.infinite:
            found[0].reshape(-1)[-1] = inf
        return found


def integers(name: str, count: int) -> NDArray[np.int64]:
    """Any int64, the same for the same name."""
    return np.frombuffer(hashlib.shake_128(name.encode()).digest(8 * count), "<i8").astype(np.int64)


def array_of(name: str, shape: tuple[int, ...], dtype: str, layout: str = "C") -> Array:
    """Numbers of several magnitudes, at most 4 and exact in float64."""
    bits = integers(name, prod(shape))
    numbers = (bits % 4001 - 2000) / 512 * 0.5 ** (bits // 4096 % 8)
    return laid_out(numbers.astype(DTYPES[dtype]).reshape(shape), layout)


def laid_out(array: Array, layout: str) -> Array:
    """A copy in memory of a given kind.

    ``"C"`` and ``"F"``: dense; ``"offset"``: dense, an element beyond a boundary of 64 bytes; ``"spread"``: with gaps between the
    elements; ``"reversed"``: from the last element of the first dimension to the first.
    """
    gap = 2 if layout == "spread" else 1
    memory = np.zeros(gap * array.nbytes + 128, np.uint8)
    begin = -memory.ctypes.data % 64 + (array.itemsize if layout == "offset" else 0)
    flat = memory[begin : begin + gap * array.nbytes].view(array.dtype)
    if layout == "spread":
        flat = flat.reshape(-1, 2)[:, 0]
    place = flat.reshape(array.shape, order="F" if layout == "F" else "C")
    assert np.shares_memory(place, memory) or not array.size
    if layout == "reversed":
        place = place[::-1]
    place[...] = array
    return place


# ---- The cases --------------------------------------------------------------------------------------------------------------------

MIXED = (
    Tensor((5,)),
    Tensor((40, 30), layout="offset"),
    Tensor((33,), "float64"),
    Tensor((257,), "bfloat16"),
    Tensor((8, 6), "bfloat16", grad_layout="F"),
)
"""The kernels of every rule that other tests compile too."""

PLAIN = (Tensor((5,)), Tensor((40, 30)), Tensor((1100,)), Tensor((257,), "bfloat16"))
WALKS = (
    Tensor((6, 7), layout="F", grad_layout="F"),
    Tensor((6, 7), layout="F"),
    Tensor((9,), layout="reversed"),
    Tensor((3, 4, 5), layout="spread", grad_layout="reversed"),
    Tensor(()),
    Tensor((0, 3)),
    Tensor((2, 1, 3), grad_layout="F"),
)
EMBEDDING = (Tensor((20, 24)), Tensor((700,)))

OPTIONS: dict[str, dict[str, Any]] = {
    "clipped": {"options": {"max_grad_norm": 0.5}},
    "measured": {"options": {"max_grad_norm": inf}},
    "norms of groups": {"options": {"max_grad_norm": 0.5, "group_norms": True}, "groups": ({}, {"lr": 0.25})},
    "skipping": {"options": {"skip_nonfinite": True}, "infinite": frozenset({1})},
    "capturable": {"options": {"capturable": True}},
    "capturable, clipped": {"options": {"capturable": True, "max_grad_norm": 0.5, "skip_nonfinite": True}},
    "loss scaler": {"scale": "scaler", "infinite": frozenset({0, 2})},
    "scaled": {"scale": 8.0},
    "scaled, clipped": {"scale": 3.0, "options": {"max_grad_norm": 2.0}},
    "ema": {"options": {"ema_decay": 0.75}},
    "polyak": {"options": {"polyak_average": True}},
    "ema, clipped, loss scaler": {"options": {"ema_decay": 0.9, "max_grad_norm": 1.0}, "scale": "scaler"},
    "no master weights": {"options": {"master_weights": False}},
    "lr by step": {"options": {"lr": schedules.linear(0.5, 8), "betas": (schedules.constant(0.75), 0.9)}},
    "lr by step, capturable": {"options": {"lr": schedules.linear(0.5, 8), "capturable": True}},
    "paper's epsilon": {"options": {"eps_hat": True, "eps": 1e-3}},
    "bias not corrected": {"options": {"bias_correction": False, "weight_decay": 0.1}},
    "groups": {
        "groups": ({"lr": 0.5}, {"amsgrad": True}, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
        "named": True,
    },
    "a group added later": {"groups": ({}, {"lr": 0.5}), "late": {"betas": (0.5, 0.75)}},
    "gradients missing": {"missing": frozenset({(0, 1), (1, 0), (2, 1), (2, 3), (3, 3), (1, 3), (0, 3)})},
    "names": {"named": True},
}
"""With Adam over ``PLAIN``, packed and not."""


def dense_cases() -> dict[str, Case]:
    """All without sparse gradients."""
    found = {}
    for name, settings in SETTINGS:
        label = f"{name} {settings}"
        found[label] = Case(name, MIXED, settings)
        found[f"{label}, packed"] = Case(name, PLAIN, {**settings, "pack": True})
    for name, about in OPTIONS.items():
        case = Case("GpuAdam", PLAIN, **about)
        found[name] = case
        found[f"{name}, packed"] = replace(case, options={**case.options, "pack": True})
    for name in ("capturable, clipped", "ema, clipped, loss scaler"):
        found[f"{name}, over walks"] = replace(found[name], tensors=WALKS, infinite=frozenset())
    found["walks"] = Case("GpuAdam", WALKS)
    found["walks, packed"] = Case("GpuAdam", WALKS, {"pack": True})
    found |= dict(_formats())
    return found


def _formats() -> Iterator[tuple[str, Case]]:
    for master, (layout, grad_layout) in product((True, False), (("offset", "C"), ("F", "C"))):
        tensors = tuple(Tensor((7, 5), param, grad, layout, grad_layout) for param, grad in product(DTYPES, DTYPES))
        yield f"every dtype, {layout}, master={master}", Case("GpuAdam", tensors, {"master_weights": master})
    for master in (True, False):
        tensors = tuple(Tensor((45,), dtype) for dtype in DTYPES for _ in range(2))
        options = {"master_weights": master, "pack": True}
        yield f"every dtype, packed, master={master}", Case("GpuAdam", tensors, options)


def sparse_cases() -> dict[str, Case]:
    """All with sparse gradients; not with an average, and not capturable, which are refused."""
    case = Case("GpuAdam", EMBEDDING, rows=frozenset({0}))
    found = {
        "alone": replace(case, tensors=EMBEDDING[:1]),
        "beside a dense one": case,
        "beside a dense one, packed": replace(case, options={"pack": True}),
        "clipped, skipping": replace(case, options={"max_grad_norm": 0.5, "skip_nonfinite": True}),
        "loss scaler": replace(case, scale="scaler"),
        "groups": replace(case, groups=({"lr": 0.5}, {"amsgrad": True})),
        "lr by step": replace(case, options={"lr": schedules.linear(0.5, 8), "weight_decay": 0.1}),
        "three dimensions": Case("GpuAdam", (Tensor((9, 2, 3), "float64"),), rows=frozenset({0})),
        "dense and sparse by turns": replace(case, missing=frozenset({(1, 0), (2, 1)})),
    }
    for param, grad in (
        ("float64", "float32"),
        ("float32", "bfloat16"),
        ("float16", "float16"),
        ("bfloat16", "float32"),
    ):
        found[f"{param} with {grad}"] = replace(case, tensors=(Tensor((20, 24), param, grad),))
    for name in dict.fromkeys(name for name, _ in SETTINGS):
        found[f"{name}"] = replace(case, optimizer=name, options={"lr": 0.25})
    return found


def gpu_cases() -> dict[str, Case]:
    """Those that are for GPUs only: several of them, and tensors that are many chunks long."""
    spread = tuple(replace(one, device=k % 2) for k, one in enumerate(PLAIN))
    large = (Tensor((1_500_000,)), Tensor((700, 1100), grad_layout="F"), Tensor((3,)))
    return {
        "two GPUs": Case("GpuAdam", spread),
        "two GPUs, packed": Case("GpuAdam", spread, {"pack": True}),
        "two GPUs, clipped": Case("GpuAdam", spread, {"max_grad_norm": 0.5, "skip_nonfinite": True}),
        "large": Case("GpuAdam", large, {"max_grad_norm": 0.5}),
        "large, packed": Case("GpuAdam", large, {"pack": True}),
    }


def torch_cases() -> dict[str, Case]:
    """Those of torch tensors."""
    frozen = (*PLAIN, Tensor((11,), frozen=True))
    return {
        "tensors": Case("GpuAdam", frozen[:4], named=True),
        "frozen": Case("GpuAdam", frozen, {"max_grad_norm": 0.5}),
        "frozen, packed": Case("GpuAdam", frozen, {"pack": True}),
        "NAdam": Case("GpuNAdam", frozen[:4]),
        "walks": Case("GpuAdam", WALKS[:2] + WALKS[4:]),
        "SGD, groups": Case("GpuSgd", frozen, {"momentum": 0.9, "nesterov": True}, groups=({"lr": 0.5}, {"lr": 0.25})),
    }
