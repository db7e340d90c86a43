"""What a group of a torch optimizer says: its hyperparameters, and what its parameters are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

Groups = Sequence[Mapping[str, Any]]


def values_of(group: Mapping[str, Any], keys: Sequence[str], where: str) -> dict[str, Any]:
    """A group's hyperparameters as the engine takes them: tensors of one element, of whatever shape, are 0-dimensional there.

    Args:
        group: The group.
        keys: Those that the engine has.
        where: What errors call the group.

    Raises:
        ValueError: If one is missing, or a tensor has not one element.
    """
    try:
        return {key: _value(group[key], key, where) for key in keys}
    except KeyError as error:
        raise ValueError(f"{where} has lost its {error.args[0]!r}") from None


def _value(value: Any, key: str, where: str) -> Any:
    kind = type(value)
    if kind is float or kind is bool:  # mostly
        return value
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{key} of {where} is a tensor of {value.numel()} elements: must be of one")
        # In the same memory: a scheduler fills it, and a graph reads it there. The tensor itself follows an assignment to its `.data` too.
        return value.detach().reshape(()) if value.dim() else value
    if kind is tuple:
        return tuple(_value(one, key, where) for one in value)
    return value


def names_of(group: Mapping[str, Any], members: Sequence[Tensor]) -> list[str] | None:
    """What some parameters of a group are called; ``None`` where they have no names, or these do not tell them apart."""
    names = group.get("param_names")
    if not names or len(names) != len(group["params"]):
        return None
    called = {id(p): name for p, name in zip(group["params"], names, strict=True)}
    own = [called[id(p)] for p in members]
    return own if len(set(own)) == len(own) and all(isinstance(name, str) for name in own) else None


def refuse_twice(params: Sequence[Any], where: str) -> None:
    """Raise `ValueError` for a parameter that comes twice, with a name or without."""
    ids = [id(one[1]) if isinstance(one, tuple) and len(one) == 2 else id(one) for one in params]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{where} has a parameter twice: each element may be updated once a step")
