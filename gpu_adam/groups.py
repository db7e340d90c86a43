"""How the parameters were handed over, group by group, and how gradients are matched with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .structure import Structure, is_pair, ordered


class Groups:
    """The structures of all groups.

    Attributes:
        structures: Each group's.
        grouped: Whether the caller gave groups, rather than one structure of parameters.
    """

    def __init__(self, grouped: bool) -> None:
        self.structures: list[Structure] = []
        self.grouped = grouped

    @property
    def sizes(self) -> list[int]:
        """The parameters of each group."""
        return [len(structure.names) for structure in self.structures]

    def flatten(self, grads: Any) -> list[Any]:
        """One gradient or ``None`` for each parameter.

        Raises:
            TypeError, ValueError: If the gradients are not in the structure of the parameters.
        """
        if not self.grouped:
            return self.structures[0].flatten(grads, "grads")
        leaves = grads if isinstance(grads, Mapping) else ordered(grads, "grads")
        if isinstance(leaves, list) and len(leaves) == len(self.structures) and any(map(_is_tree, leaves)):
            parts = zip(self.structures, leaves, strict=True)
            return [
                leaf
                for number, (structure, tree) in enumerate(parts)
                for leaf in structure.flatten(tree, f"grads of group {number}")
            ]
        names = tuple(name for structure in self.structures for name in structure.names)
        named = all(structure.named for structure in self.structures)
        if named and len(set(names)) < len(names):
            if isinstance(leaves, Mapping) or any(map(is_pair, leaves)):
                raise ValueError("grads go by name, but groups share names: give a list of the gradients of each group")
            named = False
        return Structure("pairs" if named else "list", names).flatten(leaves, "grads")

    def build(self, leaves: Sequence[Any]) -> Any:
        """One value for each parameter, in the structure in which they were given; with groups, a list of these."""
        built = []
        start = 0
        for structure in self.structures:
            built.append(structure.build(leaves[start : start + len(structure.names)]))
            start += len(structure.names)
        return built if self.grouped else built[0]


def is_groups(params: Any) -> bool:
    """Whether these are groups, rather than parameters."""
    return isinstance(params, (list, tuple)) and bool(params) and all(isinstance(group, Mapping) for group in params)


def _is_tree(leaf: Any) -> bool:
    if isinstance(leaf, tuple) and len(leaf) == 2 and "int" in str(getattr(leaf[0], "dtype", "")):
        return False  # a gradient of rows
    return isinstance(leaf, (list, tuple, Mapping)) and not is_pair(leaf)
