"""Small programs whose bits are compared: an optimizer's settings, a format, packed or in place, and what a step does beyond the rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_adam import GpuOptimizer, LossScaler
from gpu_adam import optim as optimizers
from gpu_adam.arrays import to_host

from ..libraries import BFLOAT16, Array

STEPS = 4
SHAPES = ((5,), (70, 30), (1025,))
"""Sizes that end in the middle of a vector; together they lie in a bucket unaligned."""

ROWS, HEIGHT, WIDTH = 9, 50, 24
SCALE = 8.0
SPOILT = 2
"""The step of mode ``"skip"`` whose gradients have an infinity in them."""

OPTIMIZERS: dict[str, Any] = {
    name: one for name, one in vars(optimizers).items() if name.startswith("Gpu") and one.__base__ is GpuOptimizer
}
"""Those that are no other one with defaults of its own: what they launch is that one's."""

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "GpuAdam": {"": {}, "amsgrad": {"amsgrad": True}},
    "GpuSgd": {"": {}, "momentum": {"momentum": 0.9, "nesterov": True}},
    "GpuRmsProp": {
        "": {},
        "centered": {"centered": True},
        "momentum": {"momentum": 0.9},
        "centered, momentum": {"centered": True, "momentum": 0.9},
    },
}
"""Settings that choose between an optimizer's rules; the others have one."""

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": BFLOAT16, "float64": np.dtype(np.float64)}

MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip": {"max_grad_norm": 1.0, "group_norms": True},
    "scale": {},
    "skip": {},
    "average": {"ema_decay": 0.9},
    "graph": {"capturable": True, "max_grad_norm": 1.0},
    "strided": {},
    "rows": {},
}
"""What a step does: options of the optimizer. In mode ``"skip"`` there is a `LossScaler`, in ``"graph"`` steps are replayed."""

ONLY_IN_PLACE = ("strided", "rows")
"""Modes that packing would make ordinary. They have one format: the families' kernels differ little between formats."""


@dataclass(frozen=True)
class Cell:
    """One program.

    Attributes:
        optimizer: Its class.
        settings: As ``SETTINGS`` calls them.
        format: Of parameters and gradients.
        pack: Whether the parameters are packed.
        mode: As ``MODES`` calls it.
    """

    optimizer: str
    settings: str
    format: str
    pack: bool
    mode: str

    def __str__(self) -> str:
        settings = f" ({self.settings})" if self.settings else ""
        return f"{self.optimizer}{settings}, {self.format}, {'packed' if self.pack else 'in place'}, {self.mode}"


def settings_of(optimizer: str) -> dict[str, dict[str, Any]]:
    """An optimizer's settings, by name."""
    return SETTINGS.get(optimizer, {"": {}})


def cells_of(optimizer: str, settings: str) -> Iterator[Cell]:
    """All programs of an optimizer with these settings."""
    for mode in MODES:
        if mode in ONLY_IN_PLACE:
            yield Cell(optimizer, settings, "float32", False, mode)
            continue
        for format in DTYPES:
            for pack in (False, True):
                yield Cell(optimizer, settings, format, pack, mode)


def left(cell: Cell, engine: str, library: Any) -> dict[str, Array]:
    """Run a program on an engine, with a library's arrays: all that it leaves, by name."""
    numbers = np.random.default_rng(2014)
    if cell.mode == "rows":
        starts = [_values(numbers, (HEIGHT, WIDTH), cell.format)]
    else:
        starts = [_values(numbers, shape, cell.format) for shape in SHAPES]
    params = [_put(library, start, cell) for start in starts]
    options = {**settings_of(cell.optimizer)[cell.settings], **MODES[cell.mode]}
    made = OPTIMIZERS[cell.optimizer](
        params, lr=lambda t: 0.1 / t, weight_decay=0.01, engine=engine, pack=cell.pack, **options
    )
    scale = LossScaler(made, SCALE, growth_interval=2) if cell.mode == "skip" else None
    if cell.mode == "scale":
        scale = SCALE
    on_gpu = engine != "cpu"
    graph = None
    kept = []
    for step in range(STEPS):
        if cell.mode == "rows":
            values = library.put(_values(numbers, (ROWS, WIDTH), cell.format))
            kept.append((library.put(numbers.integers(0, HEIGHT, ROWS)), values))
            made.step([kept[-1]])
            continue
        gradients = [_values(numbers, start.shape, cell.format) for start in starts]
        if cell.mode == "skip" and step == SPOILT:
            gradients[1][3, 4] = np.inf
        if cell.mode == "graph" and on_gpu:
            if step == 0:
                _bind(made, [library.put(gradient) for gradient in gradients], cell.pack, library, gradients)
                made.step()
                graph = made.graph()
                continue
            for view, gradient in zip(_bound(made), gradients, strict=True):
                library.fill(view, gradient)
            assert graph is not None
            graph.replay()
            continue
        kept.append([library.put(gradient) for gradient in gradients])
        made.step(kept[-1], grad_scale=scale)
    return _found(made, cell)


def _found(made: Any, cell: Cell) -> dict[str, Array]:
    out = {f"parameter {k}": to_host(param) for k, param in enumerate(made.params)}
    saved = made.state_dict()
    for k, entry in saved["state"].items():
        for name, value in entry.items():
            is_number = name == "step" or isinstance(value, (int, float))  # NAdam's product of momenta is one
            out[f"{name} {k}"] = np.array(float(value)) if is_number else to_host(value)
    out["skipped"] = np.array(float(saved["steps_skipped"]))
    if cell.mode in ("clip", "skip", "graph"):
        out["norm"] = np.array(float(made.grad_norm))
    return out


def _values(numbers: np.random.Generator, shape: tuple[int, ...], format: str) -> Array:
    """Ordinary numbers, with some among them that are 0, subnormal or large."""
    values = numbers.standard_normal(shape)
    kind = numbers.integers(0, 16, shape)
    values[kind == 0] = 0.0
    values[kind == 1] *= 1e-39
    values[kind == 2] *= 1e6
    return np.asarray(values.astype(DTYPES[format]))


def _put(library: Any, array: Array, cell: Cell) -> Any:
    """A parameter: in mode ``"strided"`` one whose elements do not lie in the order of its gradient's."""
    if cell.mode == "strided":
        return library.put(np.ascontiguousarray(array.T)).T
    return library.put(array)


def _bind(made: Any, arrays: list[Any], pack: bool, library: Any, gradients: list[Array]) -> None:
    if pack:
        for view, gradient in zip(made.grads, gradients, strict=True):
            library.fill(view, gradient)
    elif hasattr(arrays[0], "data_ptr"):
        for param, array in zip(made.params, arrays, strict=True):
            param.grad = array
    else:
        made.grads = arrays


def _bound(made: Any) -> list[Any]:
    return list(made.grads)


def difference(found: Mapping[str, Array], expected: Mapping[str, Array]) -> str | None:
    """The first element whose bits are not the same, in words; ``None`` where all are. All NaN count as the same."""
    if found.keys() != expected.keys():
        return f"there is {sorted(found)} and not {sorted(expected)}"
    for name, right in expected.items():
        one = found[name]
        if one.dtype != right.dtype or one.shape != right.shape:
            return f"{name} is {one.dtype}{list(one.shape)} and not {right.dtype}{list(right.shape)}"
        word = f"u{right.dtype.itemsize}"
        mine, theirs = (np.ascontiguousarray(array).reshape(-1).view(word) for array in (one, right))
        with np.errstate(invalid="ignore"):
            nan = (one != one) & (right != right)
        wrong = np.flatnonzero((mine != theirs) & ~nan.reshape(-1))
        if len(wrong):
            at = int(wrong[0])
            digits = 2 * right.dtype.itemsize
            told = [
                f"{words[at]:#0{digits + 2}x} ({float(array.reshape(-1)[at]):.9g})"
                for words, array in ((mine, one), (theirs, right))
            ]
            return f"{name}, element {at} of {right.size}: {told[0]}, not {told[1]}; {len(wrong)} differ"
    return None
