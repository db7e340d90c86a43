"""How the parameters were handed over, group by group, and how gradients are matched with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from ..arrays import raise_if_foreign
from ..arrays.roster import Roster
from ..arrays.tree import Structure, is_pair, ordered
from ..messages import a_kind, listed


class Groups:
    """The structures of all groups.

    Attributes:
        structures: Each group's.
        grouped: Whether the caller gave groups, rather than one structure of parameters.
    """

    def __init__(self, grouped: bool) -> None:
        self.structures: list[Structure] = []
        self.grouped = grouped
        self._roster = Roster()

    @property
    def sizes(self) -> list[int]:
        """The parameters of each group."""
        return [len(structure.names) for structure in self.structures]

    def remember(self, groups: Sequence[Mapping[str, Any]], first: int = 0) -> None:
        """Take the parameters of the groups from the first one on for those of the optimizer."""
        self._roster.remember([group["params"] for group in groups[first:]], first)

    def hold(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Whether these groups have the very parameters that were remembered, in the same order."""
        try:
            now = [group["params"] for group in groups]
        except (TypeError, LookupError) as error:  # no groups any more
            raise_if_foreign(error)
            return False
        return self._roster.holds(now)

    def are_in_place(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Whether groups differ from the remembered ones in nothing but arrays that stand for others."""
        try:
            found = [origin for members in self.origins(groups) for origin, _ in members]
        except ValueError:
            return False
        return [len(group["params"]) for group in groups] == self.sizes and found == sorted(found)

    def origins(self, groups: Sequence[Mapping[str, Any]]) -> list[list[tuple[int, bool]]]:
        """Where the parameters of edited groups come from.

        Returns:
            For each group and each of its parameters the number of the earlier one, and whether it is the same array; another one stands
            for the parameter in whose place it is.

        Raises:
            ValueError: If parameters have been added or taken away, or one comes twice.
        """
        if not isinstance(groups, (list, tuple)):
            raise ValueError(f"param_groups is {a_kind(groups)}: must be a list of dicts, as it was")
        for index, group in enumerate(groups):
            if not isinstance(group, Mapping) or not isinstance(group.get("params"), (list, tuple)):
                raise ValueError(f"param_groups[{index}] must be a dict with a list of arrays as 'params'")
        sizes, before = [len(group["params"]) for group in groups], list(map(len, self._roster.lists))
        change = f"param_groups has groups of {listed(sizes)} parameters, not of {listed(before)}"
        arrays = [id(one) for group in groups for one in group["params"]]
        if len(set(arrays)) < len(arrays):
            raise ValueError(f"{change}, or a parameter twice: each element may be updated once a step")
        if len(sizes) > len(before) or sum(sizes) > sum(before):
            raise ValueError(f"{change}: use add_param_group()")
        starts = [0, *accumulate(before)]
        numbers = {
            id(one): starts[index] + k
            for index, members in enumerate(self._roster.lists)
            for k, one in enumerate(members)
        }
        found = [
            [(numbers.get(id(one), starts[index] + k), id(one) in numbers) for k, one in enumerate(group["params"])]
            for index, group in enumerate(groups)
        ]
        taken = [origin for members in found for origin, _ in members]
        if sorted(taken) != list(range(starts[-1])) or len(sizes) < len(before):
            raise ValueError(
                f"{change}, or others: to leave a parameter alone give it no gradient, "
                "for others use add_param_group() or make a new optimizer"
            )
        return found

    def rearranged(self, origins: Sequence[Sequence[tuple[int, bool]]]) -> list[Structure]:
        """The structures of groups whose parameters were moved.

        Raises:
            ValueError: If names, or ways of handing parameters over, do not go together.
        """
        named = [(structure.kind, name) for structure in self.structures for name in structure.names]
        structures = []
        for index, members in enumerate(origins):
            kinds = {named[origin][0] for origin, _ in members} or {"list"}
            names = tuple(named[origin][1] for origin, _ in members)
            if len(kinds) > 1 or (kinds != {"list"} and len(set(names)) < len(names)):
                raise ValueError(
                    f"param_groups[{index}] has parameters that were given in different ways or under the same name: "
                    "make a new optimizer"
                )
            (kind,) = kinds
            structures.append(Structure(kind, tuple(range(len(names))) if kind == "list" else names))
        return structures

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
                for index, (structure, tree) in enumerate(parts)
                for leaf in structure.flatten(tree, f"grads of group {index}")
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
