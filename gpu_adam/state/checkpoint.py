"""Saving and loading in the layout of PyTorch's optimizers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import to_host
from ..arrays.tree import Structure
from ..casting import exact_casts
from ..checks import MOST_STEPS, step_count
from ..dtypes import FLOAT64, Format
from ..messages import a_kind, listed
from ..rules.algorithm import Algorithm, coefficients
from ..rules.hyperparameters import Asked, Averaging
from .buckets import BucketState
from .matching import match
from .parameter import AVERAGE, Placed, working_formats
from .placement import place
from .plain import plain, plain_pair

_TORCH_ONLY = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
"""Keys that PyTorch's optimizers expect in a group, with its defaults; they choose among its implementations and mean nothing here."""

_NOT_KEPT = {"params", "param_names", *_TORCH_ONLY}
"""Keys of a saved group that are not the group's own."""

FLOAT32_INTEGERS = 1 << 24
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


@exact_casts()
def save(
    algorithm: Algorithm,
    groups: Sequence[Mapping[str, Any]],
    structures: Sequence[Structure],
    params: Sequence[Placed],
    steps: NDArray[np.int64],
    written: Collection[int],
) -> dict[str, Any]:
    """The state of these parameters; every array a copy.

    Args:
        algorithm: What they are updated by.
        groups: Their groups.
        structures: How each was handed over.
        params: The parameters.
        steps: Their step counts.
        written: The numbers of those that count, and not their master weights, since they were written to.
    """
    state = {}
    asked: Asked = {}
    for placed in params:
        # A graph of the caller's may have made more.
        t = min(int(steps[placed.index]), MOST_STEPS)
        if t:
            # Not all hyperparameters are looked at: one that a step refuses must not cost the state.
            used = algorithm.rule_of(groups[placed.group], f"group {placed.group}").states
            # The rule may have been changed since the last step; what the new one keeps beside has seen nothing yet.
            placed.state.ensure(used)
            names = [name for name in (*algorithm.states, "master", AVERAGE) if placed.has(name)]
            for name in set(algorithm.states).difference(used).intersection(names):
                if not to_host(placed.view(name)).any():
                    # Another group's in the same bucket; its own from before the change is kept.
                    names.remove(name)
            arrays = {name: placed.ref.library.copy(placed.view(name)) for name in names}
            master = placed.renewed_master() if placed.index in written else None
            if master is not None:
                arrays["master"] = placed.apart("master", master)
            working = placed.ref.format.working
            numbers = scalars_of(algorithm, groups[placed.group], t, working, f"group {placed.group}", asked)
            scalars = {name: placed.ref.library.scalar(number, "float64") for name, number in numbers.items()}
            state[placed.index] = {"step": _step_of(t, placed), **scalars, **arrays}
    saved = []
    start = 0
    for group, structure in zip(groups, structures, strict=True):
        stop = start + len(structure.names)
        labels = {"param_names": plain(list(structure.names))} if structure.named else {}
        rest = {key: _copied(algorithm, key, value) for key, value in group.items() if key != "params"}
        saved.append({**rest, **_TORCH_ONLY, **labels, "params": list(range(start, stop))})
        start = stop
    return {"state": state, "param_groups": saved}


def _copied(algorithm: Algorithm, key: str, value: Any) -> Any:
    return (
        plain_pair(value)
        if any(one.key == key and one.entry is not None for one in algorithm.numbers)
        else plain(value)
    )


def _step_of(t: int, placed: Placed) -> Any:
    format = "float32" if t <= FLOAT32_INTEGERS else "float64"
    return placed.ref.library.scalar(t, format)


def scalars_of(
    algorithm: Algorithm, group: Mapping[str, Any], t: int, working: Format, where: str, asked: Asked | None = None
) -> dict[str, float]:
    """Those numbers of step ``t``'s row that PyTorch has in its state, none before step 1; they are computed again, not loaded."""
    if not algorithm.scalars or not t:
        return {}
    try:
        hyper = algorithm.hyperparameters(group, where)
        row = coefficients(hyper, hyper.record(Averaging(), working), t, 1.0, where, asked)
    except (TypeError, ValueError):
        # A step refuses them, which must not cost the state: it can be loaded without these numbers.
        return {}
    return {name: row[place] for name, place in algorithm.scalars.items()}


@exact_casts()
def check(
    algorithm: Algorithm,
    saved: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    structures: Sequence[Structure],
    params: Sequence[Placed],
    averages: bool,
) -> Loaded:
    """Everything that is needed from a state dict, converted to the host.

    Raises:
        TypeError: If it is no state dict, or a group of the optimizer is no dict.
        ValueError: If it belongs to other groups, names or shapes, or a key is missing.
    """
    for index, own in enumerate(groups):
        # They are updated as dicts when nothing may fail any more.
        if not isinstance(own, dict):
            raise TypeError(f"param_groups[{index}] is {a_kind(own)}: must be a dict")
    matched = match(saved, structures)
    working = working_formats(params, len(groups))
    new_groups, rules = [], []
    for (where, group), own, formats in zip(matched.groups, groups, working, strict=True):
        foreign = [key for key in dict.fromkeys(one.key for one in algorithm.numbers) if key not in group]
        if foreign:
            raise ValueError(f"{where} lacks {listed(foreign)}: it is that of another kind of optimizer")
        # Also what users and schedulers keep in a group, such as `initial_lr`.
        new = {key: _copied(algorithm, key, value) for key, value in group.items() if key not in _NOT_KEPT}
        new.update({key: own[key] for key in algorithm.keys if key not in new})
        hyper = algorithm.hyperparameters(new, where)
        hyper.refuse_misfits(formats, where)
        rules.append(hyper.rule)
        new_groups.append(new)
    steps: list[int] = []
    arrays: list[dict[str, NDArray[Any]]] = []
    for placed, key in zip(params, matched.keys, strict=True):
        entry = saved["state"].get(key)
        if entry is not None and not isinstance(entry, Mapping):
            raise TypeError(f"state_dict's state of {placed.label} is a {type(entry).__name__}: must be a dict")
        if not entry or (entry.keys() == {"step"} and step_count(entry["step"], placed.label) == 0):
            # Never stepped.
            steps.append(0)
            arrays.append({})
            continue
        wanted = rules[placed.group].states
        # Where PyTorch counts no steps, a parameter that has a state has made some.
        counted = "step" in entry or algorithm.uncounted
        missing = [name for name in (*(() if counted else ("step",)), *wanted) if entry.get(name) is None]
        if missing:
            raise ValueError(f"state_dict's state of {placed.label} lacks {listed(missing)}")
        steps.append(step_count(entry.get("step", 1), placed.label))
        others = ((name, True) for name in algorithm.states if name not in wanted)
        kept = (("master", placed.master), (AVERAGE, averages), *others)
        optional = tuple(name for name, here in kept if here and entry.get(name) is not None)
        arrays.append({name: _host(entry[name], name, placed) for name in (*wanted, *optional)})
    for (where, _), new in zip(matched.groups, new_groups, strict=True):
        algorithm.check_keys(new, where)
    skipped = step_count(saved.get("steps_skipped", 0), "skipped steps")
    return Loaded(new_groups, steps, arrays, skipped)


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


@exact_casts()
def renewed(loaded: Loaded, params: Sequence[Placed], averages: bool, *, keep_places: bool) -> list[Placed]:
    """The parameters with the state that was checked, in memory of its own: nothing of the old one has changed.

    Args:
        loaded: What was checked.
        params: The parameters with their old state.
        averages: Whether averages are kept.
        keep_places: Whether all keep their places in the buckets, and not only those that lie there themselves.
    """
    fresh = [replace(placed, place=placed.place if keep_places or placed.has("param") else None) for placed in params]
    entries = [
        (placed, arrays, bool(t or arrays))
        for placed, t, arrays in zip(fresh, loaded.steps, loaded.arrays, strict=True)
    ]
    place([placed for placed, _, stepped in entries if stepped and placed.place is None])
    names: dict[BucketState, set[str]] = {placed.state: set() for placed in fresh if placed.place is not None}
    for placed, arrays, stepped in entries:
        if stepped:
            copies = (("master", placed.master), (AVERAGE, averages))
            names[placed.state].update(arrays, (name for name, kept in copies if kept))
    # What is in no array of any parameter is zero where it is needed, and allocated there.
    states = {old: old.renewed(wanted) for old, wanted in names.items()}
    for placed, arrays, stepped in entries:
        if placed.place is not None:
            placed.place = replace(placed.place, state=states[placed.state])
        for name in ("master", AVERAGE):
            if stepped and placed.has(name) and name not in arrays:
                # A state saved without them: the parameter itself is the best there is.
                placed.write(name, to_host(placed.ref.array))
        for name, value in arrays.items():
            placed.write(name, value)
        placed.loaded, placed.lacks_average = stepped, stepped and averages and AVERAGE not in arrays
    return fresh


def return_memory(old: Sequence[Placed], fresh: Sequence[Placed]) -> None:
    """Move new state to where the old one was, which a captured graph goes on working on."""
    pairs = {placed.state: one.state for placed, one in zip(old, fresh, strict=True) if placed.place is not None}
    for before, now in pairs.items():
        now.return_to(before)
