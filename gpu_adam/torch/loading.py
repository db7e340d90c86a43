"""A state dict, checked and brought into the order of an optimizer's parameters; nothing is changed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..checks import step_count
from ..kernels.rules.rule import Rule
from ..messages import a_kind, listed, shown
from ..rules.algorithm import Algorithm
from ..state.checkpoint import FLOAT32_INTEGERS
from .access import access_of
from .entries import read_entry, working_dtype
from .groups import Groups, values_of


@torch.no_grad()
def read_state_dict(
    saved: Any, groups: Groups, defaults: Mapping[str, Any], algorithm: Algorithm
) -> tuple[dict[Any, Any], list[dict[str, Any]], int]:
    """The state and the groups that a state dict gives to an optimizer.

    Args:
        saved: A state dict of this package's optimizers, of `torch.optim`'s, or of a distributed checkpoint; not modified.
        groups: The optimizer's groups.
        defaults: What a group has where nothing is saved.
        algorithm: The optimizer's.

    Returns:
        For each parameter its entry, with copies of the saved arrays in the working format and on the parameter's device; the groups,
        with the optimizer's own parameters; how many steps were skipped.

    Raises:
        TypeError: If it is no state dict.
        ValueError: If it belongs to other groups, or another kind of optimizer, or a state does not fit its parameter.
    """
    if not isinstance(saved, Mapping) or "state" not in saved or "param_groups" not in saved:
        raise TypeError(f"the state dict is {a_kind(saved)}: must be a dict with 'state' and 'param_groups'")
    theirs = saved["param_groups"]
    _refuse_malformed(saved["state"], theirs)
    if len(theirs) != len(groups):
        raise ValueError(
            f"loaded state dict has a different number of parameter groups: {len(theirs)} and not {len(groups)}"
        )
    keys: list[Any] = []
    fresh = []
    for index, (own, their) in enumerate(zip(groups, theirs, strict=True)):
        keys.extend(_keys(own, their, index))
        fresh.append(_group(own, their, defaults, algorithm, index))
    params = list(chain.from_iterable(group["params"] for group in groups))
    rules = list(
        chain.from_iterable([algorithm.rule_of(group, "the state dict")] * len(group["params"]) for group in fresh)
    )
    of = {key: (param, rule) for key, param, rule in zip(keys, params, rules, strict=True)}
    state: dict[Any, Any] = {}
    for key, entry in saved["state"].items():
        if key in of:
            param, rule = of[key]
            state[param] = _entry(entry, param, f"parameter {shown(key)}", algorithm, rule)
        else:
            state[key] = deepcopy(entry)  # of no parameter: PyTorch's optimizers keep it as well
    return state, fresh, step_count(saved.get("steps_skipped", 0), "skipped steps")


def _refuse_malformed(state: Any, groups: Any) -> None:
    """Raise `TypeError`, or `ValueError` for a group without parameters, where a state dict is not built as one."""
    if not isinstance(state, Mapping):
        raise TypeError(f"'state' of the state dict is {a_kind(state)}: must be a dict")
    if not isinstance(groups, (list, tuple)):
        raise TypeError(f"'param_groups' of the state dict is {a_kind(groups)}: must be a list of dicts")
    for index, group in enumerate(groups):
        if not isinstance(group, Mapping):
            raise TypeError(f"group {index} of the state dict is {a_kind(group)}: must be a dict")
        if not isinstance(group.get("params"), (list, tuple)):
            raise ValueError(f"group {index} of the state dict has no list of its parameters' keys as 'params'")


def _keys(own: Mapping[str, Any], their: Mapping[str, Any], index: int) -> Sequence[Any]:
    """The keys of a saved group in the order of the optimizer's own parameters: by name where both have the same names, else by place."""
    params = their["params"]
    if len(params) != len(own["params"]):
        raise ValueError(
            f"loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
            f"group {index} has {len(params)} parameters and not {len(own['params'])}"
        )
    named = bool(params) and all(isinstance(key, str) for key in params)
    names, wanted = params if named else their.get("param_names"), own.get("param_names")
    if names and wanted and len(names) == len(params):
        places = dict(zip(names, params, strict=True))
        if places.keys() == set(wanted):
            return [places[name] for name in wanted]
        if named:
            raise ValueError(
                f"group {index} of the state dict has parameters {listed(names)}: the optimizer's are {listed(wanted)}"
            )
    return params  # type: ignore[no-any-return]


def _group(
    own: Mapping[str, Any], their: Mapping[str, Any], defaults: Mapping[str, Any], algorithm: Algorithm, index: int
) -> dict[str, Any]:
    where = f"group {index} of the state dict"
    numbers = dict.fromkeys(one.key for one in algorithm.numbers)
    # PyTorch's SparseAdam has no weight decay.
    foreign = [key for key in numbers if key not in their and key != "weight_decay"]
    if foreign:
        raise ValueError(f"{where} lacks {listed(foreign)}: it is that of another kind of optimizer")
    kept = {key: deepcopy(value) for key, value in their.items() if key != "params"}
    fresh = {**defaults, **kept, "params": own["params"]}
    names = own.get("param_names")
    if names is not None and set(kept.get("param_names") or names) == set(names):
        # Those that were saved may stand in another order, in which the parameters are not.
        fresh["param_names"] = names
    algorithm.hyperparameters(values_of(fresh, algorithm.keys, where), where, read_lr=not fresh["capturable"])
    return fresh


def _entry(entry: Any, param: Tensor, label: str, algorithm: Algorithm, rule: Rule) -> Any:
    """A parameter's entry as the state has it until the next step; what is the user's own is copied as it is."""
    found = None
    if param.is_floating_point() or param.is_complex():
        found = read_entry(entry, param, label, algorithm, rule.states, 1)
    if found is None:
        return deepcopy(entry)
    access = access_of(param)
    copied: dict[str, Any] = {}
    for name, value in entry.items():
        if name == "step":
            copied[name] = step_tensor(found.step)
        elif name in found.arrays:
            array = found.arrays[name]
            # A parameter without memory will get some: its state must not be lost before.
            device = array.device if param.is_meta else param.device
            copied[name] = access.shown(param, array.detach().to(device=device, dtype=working_dtype(param), copy=True))
        elif name not in algorithm.scalars:
            copied[name] = deepcopy(value)
    return copied


def step_tensor(t: int) -> Tensor:
    """A step count as PyTorch's optimizers keep it: float32, and float64 beyond the integers that float32 holds."""
    return torch.tensor(t, dtype=torch.float32 if t <= FLOAT32_INTEGERS else torch.float64, device="cpu")
