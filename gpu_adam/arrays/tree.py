"""The shapes in which parameters and gradients are handed over: a list, a dict, named pairs, or groups of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from ..messages import CLOSURE, a_kind, listed


@dataclass(frozen=True)
class Structure:
    """How one group's parameters were given.

    Attributes:
        kind: ``"list"``, ``"dict"`` or ``"pairs"`` (of name and array).
        names: The parameters' names, for a list their numbers.
    """

    kind: Literal["list", "dict", "pairs"]
    names: tuple[Any, ...]

    @property
    def named(self) -> bool:
        """Whether the caller gave names."""
        return self.kind != "list"

    def build(self, leaves: Sequence[Any]) -> Any:
        """The leaves in this structure."""
        if self.kind == "dict":
            return dict(zip(self.names, leaves, strict=True))
        if self.kind == "pairs":
            return list(zip(self.names, leaves, strict=True))
        return list(leaves)

    def flatten(self, tree: Any, what: str) -> list[Any]:
        """The leaves of a tree of this structure, in order; named structures may be given as a plain list too.

        Raises:
            TypeError: If ``tree`` has no order or is no collection.
            ValueError: If a name is missing or unknown, or the number of leaves is another.
        """
        if isinstance(tree, Mapping):
            if not self.named:
                raise TypeError(f"{what} is a dict, but the parameters were given as a list: give a list")
            missing = [name for name in self.names if name not in tree]
            if missing or len(tree) != len(self.names):
                unknown = sorted(set(tree) - set(self.names), key=repr)
                raise ValueError(
                    f"{what} lacks {listed(missing)} and has unknown {listed(unknown)}: "
                    "use None to leave a parameter alone"
                )
            return [tree[name] for name in self.names]
        leaves = ordered(tree, what)
        if len(leaves) != len(self.names):
            raise ValueError(f"{what} has {len(leaves)} entries for {len(self.names)} parameters")
        if self.named and leaves and all(is_pair(leaf) for leaf in leaves):
            return self.flatten(dict(leaves), what)
        return leaves


def read_structure(tree: Any, what: str) -> tuple[Structure, list[Any]]:
    """The structure of one group's parameters and its leaves.

    Raises:
        TypeError: If the parameters are a single array, have no order (a set), or are no collection.
        ValueError: If a name comes twice, if an iterator has nothing left, or for a module's state dict.
    """
    if isinstance(tree, Mapping):
        if hasattr(tree, "_metadata"):
            # Its tensors share the parameters' memory, but no gradient ever reaches them.
            raise ValueError(f"{what} is a module's state_dict(): pass model.named_parameters()")
        return Structure("dict", tuple(tree)), list(tree.values())
    leaves = ordered(tree, what)
    if not leaves and isinstance(tree, Iterator):
        raise ValueError(f"{what} is a {type(tree).__name__} with nothing left in it: pass a new one, or a list")
    if leaves and all(is_pair(leaf) for leaf in leaves):
        names = tuple(name for name, _ in leaves)
        if len(set(names)) < len(names):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            raise ValueError(f"{what} names {listed(twice)} more than once")
        return Structure("pairs", names), [leaf for _, leaf in leaves]
    return Structure("list", tuple(range(len(leaves)))), leaves


def ordered(tree: Any, what: str) -> list[Any]:
    """A list of what an ordered collection, or an iterator such as ``model.parameters()``, holds."""
    if isinstance(tree, Set):
        raise TypeError(f"{what} is a set, which has no order: give a list or a dict")
    if hasattr(tree, "shape"):
        raise TypeError(f"{what} is {a_kind(tree)}: give a list of arrays, such as [w], or a dict")
    # A torch module has parameters; one of these that holds tensors themselves, such as a ParameterList, is as good as a list.
    is_module = hasattr(tree, "parameters")
    if isinstance(tree, Iterable) and not isinstance(tree, (str, bytes)):
        leaves = list(tree)
        if not is_module or (leaves and all(hasattr(leaf, "shape") for leaf in leaves)):
            return leaves
    remedy = "give a list or a dict of arrays"
    if is_module:
        remedy = "give its parameters(), or dict(its named_parameters())"
    elif callable(tree):
        remedy += f"; {CLOSURE}"
    raise TypeError(f"{what} is {a_kind(tree)}: {remedy}")


def is_pair(leaf: Any) -> bool:
    """Whether it is a name with an array."""
    return isinstance(leaf, tuple) and len(leaf) == 2 and isinstance(leaf[0], str)
