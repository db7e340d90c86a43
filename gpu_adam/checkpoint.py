"""Saving and loading in the layout of PyTorch's optimizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .algorithm import Algorithm, Hyperparameters, coefficients
from .arrays import copy_of, to_host
from .formats import FLOAT64
from .hyperparameters import Averaging
from .state import Placed, working_formats
from .structure import Structure

AVERAGE = "average"

_TORCH_ONLY = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
"""Keys that PyTorch's optimizers expect in a group, with its defaults; they choose among its implementations and mean nothing here."""

_NOT_KEPT = {"params", "param_names", *_TORCH_ONLY}
"""Keys of a saved group that are not the group's own."""

_MOST_STEPS = 1 << 53
"""Step counts stay below, so that a count that travelled as float64 is exact."""

_FLOAT32_INTEGERS = 1 << 24
"""Up to here float32, in which PyTorch counts steps, holds every integer."""


@dataclass(frozen=True)
class Loaded:
    """A state dict that has been found to fit.

    Attributes:
        groups: For each group the hyperparameters to take over.
        steps: For each parameter its step count.
        arrays: For each parameter the host arrays of its states by name.
        steps_skipped: How many steps were skipped.
    """

    groups: list[dict[str, Any]]
    steps: list[int]
    arrays: list[dict[str, NDArray[Any]]]
    steps_skipped: int


def save(
    algorithm: Algorithm,
    groups: Sequence[Mapping[str, Any]],
    structures: Sequence[Structure],
    params: Sequence[Placed],
    steps: NDArray[np.int64],
) -> dict[str, Any]:
    """The state of these parameters; every array a copy."""
    stepped = {placed.group for placed in params if steps[placed.index]}
    hyper = {number: algorithm.hyperparameters(groups[number], f"group {number}") for number in sorted(stepped)}
    state = {}
    for placed in params:
        t = int(steps[placed.index])
        if t:
            used = hyper[placed.group].rule.states
            # The rule may have been changed since the last step; what the new one keeps beside has seen nothing yet.
            placed.state.ensure(used)
            names = [name for name in (*algorithm.states, "master", AVERAGE) if placed.state.has(name)]
            for name in set(algorithm.states).difference(used).intersection(names):
                if not to_host(placed.view(name)).any():
                    # Another group's in the same bucket; its own from before the change is kept.
                    names.remove(name)
            arrays = {name: copy_of(placed.ref.family, placed.view(name)) for name in names}
            scalars = _scalars(algorithm, hyper[placed.group], t, placed) if algorithm.scalars else {}
            state[placed.index] = {"step": _step_of(t, placed), **scalars, **arrays}
    saved = []
    start = 0
    for group, structure in zip(groups, structures, strict=True):
        stop = start + len(structure.names)
        labels = {"param_names": list(structure.names)} if structure.named else {}
        rest = {key: _copied(value) for key, value in group.items() if key != "params"}
        saved.append({**rest, **_TORCH_ONLY, **labels, "params": list(range(start, stop))})
        start = stop
    return {"state": state, "param_groups": saved}


def _copied(value: Any) -> Any:
    """A copy that later edits in place do not reach; functions, which need not be copyable, are shared."""
    return value if callable(value) else deepcopy(value)


def _step_of(t: int, placed: Placed) -> Any:
    if placed.ref.family != "torch":
        return t
    import torch

    return torch.tensor(t, dtype=torch.float32 if t <= _FLOAT32_INTEGERS else torch.float64)


def _scalars(algorithm: Algorithm, hyper: Hyperparameters, t: int, placed: Placed) -> dict[str, Any]:
    """Those numbers of the last step's row that PyTorch has in its state; they are computed again, not loaded."""
    record = hyper.record(Averaging(), placed.ref.format.working)
    row = coefficients(hyper, record, t, 1.0, f"group {placed.group}")
    values = {name: row[place] for name, place in algorithm.scalars.items()}
    if placed.ref.family != "torch":
        return values
    import torch

    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def check(
    algorithm: Algorithm,
    saved: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    structures: Sequence[Structure],
    params: Sequence[Placed],
) -> Loaded:
    """Everything that is needed from a state dict, converted to the host.

    Raises:
        TypeError: If it is no state dict.
        ValueError: If it belongs to other groups, names or shapes, or a key is missing.
    """
    if not isinstance(saved, Mapping) or "state" not in saved or "param_groups" not in saved:
        raise TypeError("state_dict must be a dict with 'state' and 'param_groups'")
    theirs = saved["param_groups"]
    listed = isinstance(theirs, Sequence) and isinstance(saved["state"], Mapping)
    if not listed or not all(isinstance(group, Mapping) for group in theirs):
        raise TypeError("state_dict must have a dict as 'state' and a list of dicts as 'param_groups'")
    for number, group in enumerate(theirs):
        if not isinstance(group.get("params"), (list, tuple)):
            raise ValueError(
                f"group {number} of state_dict has params={group.get('params')!r}: must be a list of their keys"
            )
    sizes, own_sizes = [len(group["params"]) for group in theirs], [len(group["params"]) for group in groups]
    if sizes != own_sizes:
        raise ValueError(f"state_dict has groups of {sizes} parameters, this optimizer of {own_sizes}")
    working = working_formats(params, len(groups))
    new_groups, rules = [], []
    keys: list[Any] = []
    for number, (group, own, structure) in enumerate(zip(theirs, groups, structures, strict=True)):
        names = group.get("param_names")
        if names is not None and not isinstance(names, (list, tuple)):
            raise ValueError(f"group {number} of state_dict has param_names={names!r}: must be a list")
        if names is not None and structure.named and list(names) != list(structure.names):
            raise ValueError(
                f"group {number} of state_dict names {list(names)}, this optimizer {list(structure.names)}"
            )
        foreign = [key for key in dict.fromkeys(one.key for one in algorithm.numbers) if key not in group]
        if foreign:
            raise ValueError(f"group {number} of state_dict lacks {foreign}: it is that of another kind of optimizer")
        # Also what users and schedulers keep in a group, such as `initial_lr`.
        new = {key: _copied(value) for key, value in group.items() if key not in _NOT_KEPT}
        new.update({key: own[key] for key in algorithm.keys if key not in new})
        hyper = algorithm.hyperparameters(new, f"group {number} of state_dict")
        hyper.refuse_misfits(working[number], f"group {number} of state_dict")
        rules.append(hyper.rule)
        new_groups.append(new)
        keys.extend(group["params"])
    if any(not isinstance(key, (Integral, str)) for key in keys) or len(set(keys)) < len(keys):
        raise ValueError(
            f"state_dict's groups have the params {keys}: must be a number or name for each, all different"
        )
    unknown = set(saved["state"]) - set(keys)
    if unknown:
        raise ValueError(
            f"state_dict has states of parameters {sorted(unknown, key=repr)}, which are in none of its groups"
        )
    steps: list[int] = []
    arrays: list[dict[str, NDArray[Any]]] = []
    for placed, key in zip(params, keys, strict=True):
        entry = saved["state"].get(key)
        if entry is None:
            steps.append(0)
            arrays.append({})
            continue
        if not isinstance(entry, Mapping):
            raise TypeError(f"state_dict's state of {placed.label} is a {type(entry).__name__}: must be a dict")
        wanted = rules[placed.group].states
        # Where PyTorch counts no steps, a parameter that has a state has made some.
        counted = "step" in entry or algorithm.uncounted
        missing = [name for name in (*(() if counted else ("step",)), *wanted) if entry.get(name) is None]
        if missing:
            raise ValueError(f"state_dict's state of {placed.label} lacks {missing}")
        steps.append(_count(entry.get("step", 1), placed.label))
        others = ((name, True) for name in algorithm.states if name not in wanted)
        kept = (("master", placed.master), (AVERAGE, placed.state.has(AVERAGE)), *others)
        optional = tuple(name for name, here in kept if here and entry.get(name) is not None)
        arrays.append({name: _host(entry[name], name, placed) for name in (*wanted, *optional)})
    skipped = _count(saved.get("steps_skipped", 0), "skipped steps")
    return Loaded(new_groups, steps, arrays, skipped)


def _count(step: Any, label: str) -> int:
    try:
        count = int(step)
        whole = not isinstance(step, str) and 0 <= count == float(step) and count < _MOST_STEPS
    except (TypeError, ValueError, OverflowError, RuntimeError):
        whole = False
    if not whole:
        raise ValueError(
            f"state_dict's step of {label} is {step!r}: must be a whole number from 0 to {_MOST_STEPS - 1}"
        )
    return count


def _host(value: Any, name: str, placed: Placed) -> NDArray[Any]:
    try:
        host = to_host(value)
    except (TypeError, ValueError, BufferError) as error:
        raise ValueError(f"state_dict's {name} of {placed.label} {error}") from None
    if host.shape != placed.ref.shape:
        raise ValueError(f"state_dict's {name} of {placed.label} has shape {host.shape}: must be {placed.ref.shape}")
    if host.dtype.name not in ("float64", "float32", "float16", "bfloat16"):
        raise ValueError(f"state_dict's {name} of {placed.label} has dtype {host.dtype}: must be a float format")
    working = placed.ref.format.working
    if host.dtype == np.float64 and working is not FLOAT64:
        beyond = np.isfinite(host) & (np.abs(host) > working.largest)
        if beyond.any():
            raise ValueError(
                f"state_dict's {name} of {placed.label} has {host[beyond][0]!r}, which {working} has no place for: "
                f"must be at most {working.largest!r}, or infinite"
            )
    return host


def apply(
    algorithm: Algorithm,
    loaded: Loaded,
    groups: Sequence[dict[str, Any]],
    params: Sequence[Placed],
    steps: NDArray[np.int64],
) -> None:
    """Write what was checked into the optimizer."""
    for group, new in zip(groups, loaded.groups, strict=True):
        group.update(new)
    steps[:] = loaded.steps
    for placed, arrays in zip(params, loaded.arrays, strict=True):
        placed.state.ensure(arrays)
        for name, value in arrays.items():
            placed.write(name, value)
        for name in algorithm.states:
            # What was not kept there, of a parameter never stepped all of it, goes back to zero here.
            if name not in arrays and placed.state.has(name):
                placed.write(name, np.zeros(placed.ref.shape, placed.ref.format.working.dtype))
        for name in ("master", AVERAGE):
            if placed.state.has(name) and name not in arrays:
                # A state saved without them: the parameter itself is the best there is.
                placed.write(name, to_host(placed.ref.array))
