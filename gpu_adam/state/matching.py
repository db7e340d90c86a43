"""Which entry of a state dict belongs to which parameter: by name where both sides have names, else by place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from ..arrays.tree import Structure
from ..messages import listed, shown


@dataclass(frozen=True)
class Matched:
    """A state dict's groups in the order of the optimizer's.

    Attributes:
        groups: What errors call each saved group, and the group.
        keys: For each parameter its key in the saved state.
    """

    groups: list[tuple[str, Mapping[str, Any]]]
    keys: list[Any]


def match(saved: Any, structures: Sequence[Structure]) -> Matched:
    """The saved groups and keys, in the order of the optimizer's groups and parameters.

    A group goes by name where the optimizer has names and the state dict has them too, as ``param_names`` or in place of numbers
    as ``params``: then the order may differ, of the names in a group and of groups that are told apart by their names.

    Raises:
        TypeError: If it is no state dict.
        ValueError: If it belongs to other groups or names.
    """
    theirs = _groups_of(saved)
    order = _order(theirs, structures)
    sizes, own_sizes = [len(theirs[k]["params"]) for k in order], [len(one.names) for one in structures]
    if sizes != own_sizes:
        raise ValueError(
            f"state_dict has groups of {listed(sizes)} parameters, this optimizer of {listed(own_sizes)}: "
            "group the parameters as they were when it was saved, with add_param_group() where some were added later"
        )
    groups = [(f"group {k} of state_dict", theirs[k]) for k in order]
    everywhere = {name for one in structures if one.named for name in one.names}
    keys = [
        key
        for (where, group), one in zip(groups, structures, strict=True)
        for key in _keys(where, group, one, everywhere)
    ]
    if len({isinstance(key, str) for key in keys}) > 1 or not all(map(_is_key, keys)) or len(set(keys)) < len(keys):
        raise ValueError(
            f"state_dict's groups have the params {listed(keys)}: must be all numbers or all names, and all different"
        )
    unknown = set(saved["state"]) - set(keys)
    if unknown:
        raise ValueError(
            f"state_dict has states of parameters {listed(sorted(unknown, key=repr))}, which are in none of its groups"
        )
    return Matched(groups, keys)


def _groups_of(saved: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(saved, Mapping) or "state" not in saved or "param_groups" not in saved:
        flat = isinstance(saved, Mapping) and any(str(key).startswith(("state.", "param_groups.")) for key in saved)
        hint = ". This one is flattened: save it without flatten_optimizer_state_dict=True" if flat else ""
        raise TypeError(f"state_dict must be a dict with 'state' and 'param_groups'{hint}")
    theirs = saved["param_groups"]
    is_list = isinstance(theirs, Sequence) and isinstance(saved["state"], Mapping)
    if not is_list or not all(isinstance(group, Mapping) for group in theirs):
        raise TypeError("state_dict must have a dict as 'state' and a list of dicts as 'param_groups'")
    for index, group in enumerate(theirs):
        params, names = group.get("params"), group.get("param_names")
        if not isinstance(params, (list, tuple)):
            raise ValueError(f"group {index} of state_dict has params={shown(params)}: must be a list of their keys")
        if names is not None and not isinstance(names, (list, tuple)):
            raise ValueError(f"group {index} of state_dict has param_names={shown(names)}: must be a list")
    return theirs  # type: ignore[no-any-return]


def _is_key(key: Any) -> bool:
    return isinstance(key, (Integral, str)) and not isinstance(key, bool)


def _names(group: Mapping[str, Any]) -> Sequence[Any] | None:
    """What the state dict calls the group's parameters; ``None`` where it has numbers only."""
    params: Sequence[Any] = group["params"]
    if params and all(isinstance(key, str) for key in params):
        return params
    return group.get("param_names")


def _order(theirs: Sequence[Mapping[str, Any]], structures: Sequence[Structure]) -> Sequence[int]:
    """For each of the optimizer's groups the number of the saved one."""
    in_place = range(len(theirs))
    names = [_names(group) for group in theirs]
    if len(theirs) != len(structures) or not all(one.named or not one.names for one in structures):
        return in_place
    try:
        sets = [frozenset(() if one is None else one) for one in names]
    except TypeError:  # no names: `_keys` says so
        return in_place
    own = [frozenset(one.names) for one in structures]
    places = {one: k for k, one in enumerate(sets)}
    told_apart = len(set(own)) == len(own) and len(places) == len(sets)
    return [places[one] for one in own] if told_apart and set(own) == places.keys() else in_place


def _keys(where: str, group: Mapping[str, Any], structure: Structure, everywhere: set[Any]) -> Sequence[Any]:
    """The keys of a saved group, in the order of the optimizer's parameters; ``everywhere`` are the names in all of its groups."""
    params: Sequence[Any] = group["params"]
    names = _names(group)
    if names is None:
        return params
    if not structure.named:
        if names is not params:
            return params
        raise ValueError(
            f"{where} has names as its params, {listed(names)}, and this optimizer's parameters have none: "
            "make it of model.named_parameters() or of a dict"
        )
    own = structure.names
    if list(names) == list(own):
        return params
    try:
        places = {name: place for place, name in enumerate(names)}
    except TypeError:
        raise ValueError(f"{where} has param_names={shown(names)}: must be a list of names") from None
    wanted = set(own)
    if places.keys() != wanted or len(names) != len(own):
        unknown, missing = [name for name in names if name not in wanted], [name for name in own if name not in places]
        raise ValueError(
            f"{where} names {listed(names)}, this optimizer {listed(own)}: {listed(unknown)} are "
            + (
                "in other groups here: group the parameters as they were when it was saved"
                if unknown and everywhere.issuperset(unknown)
                else f"unknown here, {listed(missing)} are missing: rename what was saved"
            )
        )
    return [params[places[name]] for name in own]
