"""One of the package's optimizers over the parameters of a torch optimizer, as these are now, and its state as it is shown there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays.roster import Roster
from ..optim.base import GpuOptimizer
from ..optim.live import Live
from ..state.parameter import AVERAGE
from .access import PLAIN, access_of, is_flattened, is_shard, same_memory
from .entries import COPIES, Found, read_entry
from .groups import Groups, names_of, values_of
from .live_state import LiveState

_NORMS = ("max_grad_norm", "skip_nonfinite", "group_norms")


class Engine:
    """The optimizer, made for the parameters that the groups have; see `fits`.

    Args:
        kind: Its class.
        groups: The groups of the torch optimizer.
        options: What it is made with, beside the groups.

    Attributes:
        core: The optimizer.
        params: The parameters, in the groups' order. Those that hold no floats are left out: they never have a gradient.

    Raises:
        TypeError, ValueError: If the parameters cannot be updated, or not with these options.
    """

    def __init__(self, kind: type[GpuOptimizer], groups: Groups, options: Mapping[str, Any]) -> None:
        self._roster = Roster()
        self._roster.remember([group["params"] for group in groups])
        members = [[p for p in group["params"] if p.is_floating_point() or p.is_complex()] for group in groups]
        self.params: list[Tensor] = list(chain.from_iterable(members))
        self._access = [access_of(p) for p in self.params]
        self._is_plain = all(one is PLAIN for one in self._access)
        _refuse_unfit(self.params, self._is_plain, options)
        self._sizes = [len(own) for own in members]
        self._locals = self._local()
        self._autograd = [p.requires_grad or isinstance(p, torch.nn.Parameter) for p in self.params]
        keys = kind.algorithm.keys
        self._keys = keys
        values = [values_of(group, keys, f"param_groups[{index}]") for index, group in enumerate(groups)]
        names = [names_of(group, own) for group, own in zip(groups, members, strict=True)]
        parts = zip(self._split(self._locals), names, values, strict=True)
        self.core = kind(
            [
                {"params": own if named is None else list(zip(named, own, strict=True)), **value}
                for own, named, value in parts
            ],
            **options,
        )
        self._live = Live(self.core)
        self._rules = self._live.rules
        count = len(self.params)
        self._shown: list[dict[str, Tensor]] = [{} for _ in range(count)]
        self._is_hidden = np.ones(count, np.bool_)
        # What `state[p]["step"]` shows, and the bytes that were written there last, to tell a user's edit by.
        self._counts = np.zeros(count, np.float32)
        self._told = self._counts.tobytes()
        self._is_behind = False

    def _local(self) -> list[Tensor]:
        return [one.local(p) for one, p in zip(self._access, self.params, strict=True)]

    def _split(self, leaves: Sequence[Any]) -> list[list[Any]]:
        """A list for each group."""
        numbers = iter(leaves)
        return [[next(numbers) for _ in range(size)] for size in self._sizes]

    def fits(self, groups: Groups) -> bool:
        """Whether the groups still have its parameters, in its memory where that is not followed by the core."""
        if not self._roster.holds([group["params"] for group in groups]):
            return False
        return self._is_plain or all(map(same_memory, self._local(), self._locals))

    def set_hyperparameters(self, groups: Groups) -> None:
        """Hand over what the groups say now."""
        for index, (own, group) in enumerate(zip(self.core.param_groups, groups, strict=True)):
            own.update(values_of(group, self._keys, f"param_groups[{index}]"))

    def step(self) -> None:
        """A step with the parameters' gradients."""
        self.core.step(None if self._is_plain else self._split(self._gradients()))
        self._is_behind = True

    def _gradients(self) -> list[Tensor | None]:
        triples = zip(self._access, self.params, self._autograd, strict=True)
        return [None if known and not p.requires_grad else one.gradient(p) for one, p, known in triples]

    # The state.

    @property
    def was_edited(self) -> bool:
        """Whether a user has written to the step counts that are shown."""
        return self._counts.tobytes() != self._told

    def show(self, state: LiveState) -> None:
        """Have the state show what the last step began, and the step counts where the host knows them."""
        if not self._live.counts_on_device:
            self.tell_counts()
        if self._live.rules != self._rules:
            self._rules, self._is_hidden[:] = self._live.rules, True
        if self._is_hidden.any():
            stepped = self._live.stepped
            self._show(state, stepped[self._is_hidden[stepped]].tolist())

    def tell_counts(self) -> None:
        """Bring the step counts that are shown up to date, for which it waits where a device counts."""
        if self._is_behind:
            np.copyto(self._counts, self._live.counts, casting="unsafe")
            self._told, self._is_behind = self._counts.tobytes(), False

    def _show(self, state: LiveState, indices: Sequence[int]) -> None:
        algorithm = self.core.algorithm
        for index in indices:
            param, access = self.params[index], self._access[index]
            shown = {}
            if not algorithm.uncounted or self._live.has(index, AVERAGE):
                shown["step"] = torch.from_numpy(self._counts[index : index + 1]).view(())
            for name in self._live.names(index):
                shown[name] = access.shown(param, self._live.view(index, name))
            if shown:  # PyTorch's SGD without momentum has no entry at all
                state.show(param, shown, stale=algorithm.scalars)
            self._shown[index] = shown
            self._is_hidden[index] = False

    def take_up(self, state: LiveState) -> None:
        """Copy what was written to the state into the engine's memory, and have the state show that again.

        Raises:
            TypeError, ValueError: If it does not fit; nothing has changed then.
        """
        self._live.prepare()
        self._rules = self._live.rules
        edited = self._counts.view(np.uint32) != np.frombuffer(self._told, np.uint32)
        counts = self._live.counts
        found: dict[int, Found] = {}
        cleared = []
        for index, param in enumerate(self.params):
            entry, shown = state.get(param), self._shown[index]
            if not self._is_hidden[index] and not edited[index] and _holds(entry, shown):
                continue
            one = self._read(index, entry, int(counts[index]))
            if one is not None:
                found[index] = one
            elif counts[index] or not self._is_hidden[index]:
                cleared.append(index)
        # Nothing has changed up to here, and nothing is refused from here on.
        self._write(found, cleared)
        self._is_hidden[cleared] = True
        for index in cleared:
            self._shown[index] = {}
        self._is_behind = True
        self.tell_counts()
        self._show(state, list(found))

    def _read(self, index: int, entry: Any, count: int) -> Found | None:
        label, shown = self._live.label(index), self._shown[index]
        required = self._live.rule(index).states
        if shown:
            # A rule that was changed since may want more, which begins with zeros.
            required = tuple(name for name in required if name in shown)
        return read_entry(entry, self.params[index], label, self.core.algorithm, required, max(1, count))

    def _write(self, found: Mapping[int, Found], cleared: Sequence[int]) -> None:
        if not found and not cleared:
            return
        self._live.begin({index: one.arrays.keys() - COPIES for index, one in found.items()})
        arrays = {index: self._apart(index, one.arrays) for index, one in found.items()}
        for index, own in arrays.items():
            for name, value in own.items():
                self._live.view(index, name).copy_(value)
        absent = {index: COPIES - own.keys() for index, own in arrays.items()}
        self._live.restart({index: one.step for index, one in found.items()}, absent, cleared)

    def _apart(self, index: int, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is to be copied into a parameter's arrays: of tensors that lie in the engine's memory themselves, copies.

        A user may have given one parameter's state to another one, and the first of them that of the second.
        """
        ours = self._live.addresses
        return {
            name: value.clone() if value.numel() and value.untyped_storage().data_ptr() in ours else value
            for name, value in arrays.items()
            if self._live.has(index, name)
        }

    def scalars(self, param: Tensor, t: int) -> dict[str, Any]:
        """What PyTorch saves of a parameter beside its states, computed for step ``t``."""
        if not self.core.algorithm.scalars:
            return {}
        return self._live.scalars(next(k for k, one in enumerate(self.params) if one is param), t)


def _holds(entry: Any, shown: Mapping[str, Tensor]) -> bool:
    """Whether an entry has nothing but what is shown in it, and a user's own."""
    if not shown:
        return not entry
    return isinstance(entry, dict) and all(entry.get(name) is tensor for name, tensor in shown.items())


def _refuse_unfit(params: Sequence[Tensor], is_plain: bool, options: Mapping[str, Any]) -> None:
    """Raise `ValueError` for options that the parameters do not go with."""
    if options.get("pack") and not (is_plain and not any(map(is_flattened, params))):
        raise ValueError(
            "pack=True moves the parameters' memory, which complex, distributed and FSDP's tensors do not follow: use pack=False"
        )
    asked = [name for name in _NORMS if options.get(name) not in (None, False)]
    if asked and any(map(is_shard, params)):
        raise ValueError(
            f"{asked[0]} goes by the norm of the gradients, of which each rank has a part here: "
            "use torch.nn.utils.clip_grad_norm_ before the step"
        )
