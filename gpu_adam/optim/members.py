"""Which parameters an optimizer has: how they are handed over, in which groups, and what becomes of edits in ``param_groups``."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import ArrayRef
from ..arrays.tree import Structure, read_structure
from ..messages import shown
from ..rules.algorithm import Algorithm
from ..state.apart import Apart, check_apart, param_ref
from ..state.frozen import is_frozen
from ..state.parameter import Placed
from ..state.placement import engines_for, pack_in
from .groups import Groups


@dataclass(frozen=True)
class Added:
    """Groups that have been found to fit.

    Attributes:
        groups: The groups.
        structures: How each was handed over.
        params: Their parameters, without places.
    """

    groups: list[dict[str, Any]]
    structures: list[Structure]
    params: list[Placed]


class Members:
    """The parameters of all groups.

    Args:
        algorithm: What the groups' hyperparameters belong to.
        grouped: Whether the caller gives groups, rather than one structure of parameters.
        engine: The engine's name, or ``"auto"``.
        pack: Whether the parameters are moved into buckets.
        master_weights: Whether 16-bit parameters keep a float32 copy.
        read_lr: Whether a learning rate that lies on a GPU is read when it is checked.

    Attributes:
        params: The parameters, in the groups' order.
        groups: The structures in which they were given.
    """

    def __init__(
        self, algorithm: Algorithm, grouped: bool, *, engine: str, pack: bool, master_weights: bool, read_lr: bool
    ) -> None:
        self.params: list[Placed] = []
        self.groups = Groups(grouped)
        self._algorithm = algorithm
        self._engine = engine
        self._pack = pack
        self._master_weights = master_weights
        self._read_lr = read_lr
        self._apart = Apart()

    def described(
        self,
        groups: Sequence[Mapping[str, Any]],
        defaults: Mapping[str, Any],
        to: Sequence[Mapping[str, Any]],
        *,
        grown: bool,
    ) -> Added:
        """What `add` takes, after all checks; nothing has changed.

        Args:
            groups: The groups as they are given.
            defaults: The hyperparameters that they do not name.
            to: The groups so far.
            grown: Whether nothing has become of the parameters since this was last called.

        Raises:
            TypeError, ValueError, EngineUnavailable: As the optimizer does.
        """
        structures: list[Structure] = []
        added: list[dict[str, Any]] = []
        refs: list[tuple[int, str, ArrayRef]] = []
        for index, group in enumerate(groups, start=len(to)):
            where = f"group {index}"
            if "params" not in group:
                raise ValueError(f"{where} has no 'params'")
            self._algorithm.check_keys(group, where)
            structure, leaves = read_structure(group["params"], f"params of {where}")
            own = {key: group.get(key, defaults[key]) for key in self._algorithm.keys}
            filled = {**group, "params": leaves, **own}
            hyper = self._algorithm.hyperparameters(filled, where, read_lr=self._read_lr)
            structures.append(structure)
            added.append(filled)
            labels = [_label(structure, name, index) for name in structure.names]
            described = [(index, label, param_ref(leaf, label)) for label, leaf in zip(labels, leaves, strict=True)]
            hyper.refuse_misfits({ref.format.working for _, _, ref in described}, where)
            refs.extend(described)
        self._apart.check(self.params, [entry[1:] for entry in refs], grown=grown)
        return Added(added, structures, self._described(refs))

    def add(self, added: Added, to: list[dict[str, Any]]) -> list[Any]:
        """Add groups of parameters, packed where that is asked for and they train.

        Args:
            added: What they are.
            to: The groups so far, which get the new ones.

        Returns:
            For each new parameter its packed gradient, or ``None``.

        Raises:
            ValueError, MemoryError: Where they cannot be packed; nothing has changed then.
        """
        grads = pack_in([one for one in added.params if not is_frozen(one)]) if self._pack else {}
        to.extend(added.groups)
        self.groups.structures.extend(added.structures)
        self.params.extend(added.params)
        self._hand_out(to, first=len(to) - len(added.groups))
        return [grads.get(one.index) for one in added.params]

    def pack_in(self, params: Sequence[Placed], groups: Sequence[MutableMapping[str, Any]]) -> dict[int, Any]:
        """Move parameters into buckets that were frozen when the others were; their gradients by their numbers."""
        grads = pack_in(params)
        self._hand_out(groups)
        return grads

    def regroup(self, groups: Sequence[MutableMapping[str, Any]], steps: NDArray[np.int64]) -> list[int | None]:
        """Take up what was moved among the groups: a parameter keeps its state, and has the hyperparameters of its new group.

        Args:
            groups: The groups as they are now.
            steps: The parameters' step counts.

        Returns:
            The earlier number of each parameter, ``None`` for an array that has taken the place of one without a state.

        Raises:
            TypeError, ValueError: If parameters have come, gone, or been replaced that have a state; nothing has changed then.
        """
        origins = self.groups.origins(groups)
        structures = self.groups.rearranged(origins)
        kept: dict[int, Placed] = {}
        refs: list[tuple[int, str, ArrayRef]] = []
        replaced: list[int] = []
        number = 0
        for g, members in enumerate(origins):
            for k, (old, is_same) in enumerate(members):
                one = self.params[old]
                if is_same:
                    kept[number] = one
                elif steps[old]:
                    raise ValueError(
                        f"param_groups[{g}] has another array in the place of {one.label}, which has a state: "
                        "make a new optimizer, or write the values into the old array"
                    )
                else:
                    refs.append((g, one.label, param_ref(groups[g]["params"][k], one.label)))
                    replaced.append(number)
                number += 1
        check_apart([(one.label, one.ref) for one in kept.values()] + [entry[1:] for entry in refs])
        fresh = dict(zip(replaced, self._described(refs), strict=True))
        before = [one.index for _, one in sorted(kept.items())]
        # Nothing has changed up to here, and nothing is refused from here on.
        self.params[:] = [one for _, one in sorted({**kept, **fresh}.items())]
        places = [(g, name) for g, structure in enumerate(structures) for name in structure.names]
        for index, (one, (g, name)) in enumerate(zip(self.params, places, strict=True)):
            one.index, one.group, one.label = index, g, _label(structures[g], name, g)
        self.groups.structures[:] = structures
        self._hand_out(groups)
        earlier = iter(before)
        return [None if index in fresh else next(earlier) for index in range(len(self.params))]

    def _described(self, refs: Sequence[tuple[int, str, ArrayRef]]) -> list[Placed]:
        """Parameters without places, numbered after those that are there."""
        engines = engines_for(
            [entry[1:] for entry in refs],
            engine=self._engine,
            pack=self._pack,
            shipped=self._algorithm.is_shipped,
        )
        return [
            Placed(
                index,
                group,
                label,
                ref,
                engines[ref.device],
                self._master_weights and ref.format.itemsize == 2,
                autograd=ref.library.autograd_knows(ref.array),
            )
            for index, (group, label, ref) in enumerate(refs, start=len(self.params))
        ]

    def _hand_out(self, groups: Sequence[MutableMapping[str, Any]], first: int = 0) -> None:
        """Give the groups from the first one on the arrays that are updated, and remember them."""
        lists: dict[int, list[Any]] = {index: [] for index in range(first, len(groups))}
        # The parameters are in the groups' order.
        for one in takewhile(lambda one: one.group >= first, reversed(self.params)):
            lists[one.group].append(one.ref.array)
        for index, arrays in lists.items():
            groups[index]["params"] = arrays[::-1]
        self.groups.remember(groups, first)


def _label(structure: Structure, name: Any, group: int) -> str:
    """What errors call a parameter."""
    return f"parameter {shown(name)}" if structure.named else f"parameter {name} of group {group}"
