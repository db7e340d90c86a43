"""One of the package's optimizers over the parameters of a torch optimizer, as these are now, and its state as it is shown there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from operator import is_, itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays.roster import Roster
from ..optim.base import GpuOptimizer
from ..optim.live import Live
from ..process.uninterrupted import uninterrupted
from .access import PLAIN, access_of, same_memory
from .counts import Counts
from .entries import COPIES, Found, read_entry
from .groups import Groups, names_of, values_of
from .live_state import LiveState
from .parameters import refuse_lazy, refuse_unfit, takes_part


class Engine:
    """The optimizer, made for the parameters that the groups have; see `fits`.

    Args:
        kind: Its class.
        groups: The groups of the torch optimizer.
        options: What it is made with, beside the groups.

    Attributes:
        core: The optimizer.
        params: The parameters, in the groups' order. Those that hold no floats, or have neither memory nor a gradient yet, are left out.

    Raises:
        TypeError, ValueError: If the parameters cannot be updated, or not with these options.
    """

    def __init__(self, kind: type[GpuOptimizer], groups: Groups, options: Mapping[str, Any]) -> None:
        self._roster = Roster()
        self._roster.remember([group["params"] for group in groups])
        self._is_capturable = _is_capturable(groups)
        members = [list(filter(takes_part, group["params"])) for group in groups]
        self.params: list[Tensor] = list(chain.from_iterable(members))
        refuse_lazy(members)
        self._left_out = [p for group in groups for p in group["params"] if not takes_part(p)]
        self._access = [access_of(p) for p in self.params]
        self._is_plain = all(one is PLAIN for one in self._access)
        refuse_unfit(self.params, self._is_plain, options)
        self._sizes = [len(own) for own in members]
        self._locals = self._local()
        self._autograd = [p.requires_grad or isinstance(p, torch.nn.Parameter) for p in self.params]
        self._keys = kind.algorithm.keys
        self._pick = itemgetter(*self._keys)
        self._picked = [tuple(map(group.get, self._keys)) for group in groups]
        values = [self._values(group, index) for index, group in enumerate(groups)]
        named = [names_of(group, own) for group, own in zip(groups, members, strict=True)]
        parts = [
            {"params": own if names is None else list(zip(names, own, strict=True)), **value}
            for own, names, value in zip(self._split(self._locals), named, values, strict=True)
        ]
        self.core = kind(parts, **options, capturable=self._is_capturable)
        self._live = Live(self.core)
        self._seen, self._rules = self._live.hyper, self._live.rules
        count = len(self.params)
        self._shown: list[dict[str, Tensor]] = [{} for _ in range(count)]
        self._is_hidden, self._hides = np.ones(count, np.bool_), True
        self._counts = Counts(count)
        self._is_behind = self._is_unshown = False

    @torch.no_grad()
    def _local(self) -> list[Tensor]:
        return [one.local(p) for one, p in zip(self._access, self.params, strict=True)]

    def _split(self, leaves: Sequence[Any]) -> list[list[Any]]:
        """A list for each group."""
        numbers = iter(leaves)
        return [[next(numbers) for _ in range(size)] for size in self._sizes]

    def fits(self, groups: Groups) -> bool:
        """Whether the groups still have its parameters, in its memory where the core does not follow that, and its kind of step."""
        if not self._roster.holds([group["params"] for group in groups]):
            return False
        if _is_capturable(groups) is not self._is_capturable or any(map(takes_part, self._left_out)):
            return False
        return self._is_plain or all(map(same_memory, self._local(), self._locals))

    @property
    def has_all(self) -> bool:
        """Whether all of its parameters still have floats and memory."""
        return all(map(takes_part, self.params))

    @property
    def is_captured(self) -> bool:
        """Whether a graph of the caller's has captured a step, and may be replayed at any time."""
        return self._live.is_captured

    def set_hyperparameters(self, groups: Groups) -> None:
        """Hand over what the groups say now.

        Raises:
            ValueError: If one has lost a hyperparameter, or has a tensor of several elements there.
        """
        for index, (own, group) in enumerate(zip(self.core.param_groups, groups, strict=True)):
            try:
                picked = self._pick(group)
            except KeyError:
                picked = ()
            # The core looks at the values; here it is enough that they are the same objects.
            if not (picked and all(map(is_, picked, self._picked[index]))):
                own.update(self._values(group, index))
                self._picked[index] = picked

    def _values(self, group: Mapping[str, Any], index: int) -> dict[str, Any]:
        return values_of(group, self._keys, f"param_groups[{index}]")

    def clip_to(self, most: float | None) -> None:
        """Have the global norm of the gradients be clipped to another number from now on."""
        refuse_unfit(self.params, self._is_plain, {"max_grad_norm": most})
        self.core.max_grad_norm = most

    def follow(self) -> None:
        """Take up what was done to the parameters' memory.

        Raises:
            ParameterChangedError: If one has become another array.
            RuntimeError: In a block of averages.
        """
        self._live.prepare()

    def refuse_averages(self) -> None:
        """Raise `RuntimeError` where the parameters are their averages now."""
        self._live.refuse_averages()

    def step(self) -> None:
        """A step with the parameters' gradients."""
        # Before it: an exception out of a handler may come right after it.
        self._is_behind = self._is_unshown = True
        if self._is_plain:
            self._live.step(None)
        else:
            self._live.step(self._split(self._gradients()))

    @torch.no_grad()
    def _gradients(self) -> list[Tensor | None]:
        triples = zip(self._access, self.params, self._autograd, strict=True)
        return [None if known and not p.requires_grad else one.gradient(p) for one, p, known in triples]

    # The state.

    @property
    def was_edited(self) -> bool:
        """Whether a user has written to the step counts that are shown."""
        return self._counts.were_edited

    def show(self, state: LiveState) -> None:
        """Have the state show what the last step began, and the step counts where the host knows them."""
        if not self._live.counts_on_device:
            self.tell_counts(state)
        if self._live.hyper is not self._seen:
            self._seen = self._live.hyper
            rules = self._live.rules
            if rules != self._rules:
                self._rules, self._is_hidden[:], self._hides = rules, True, True
        if self._hides:
            stepped = self._live.stepped
            self._show(state, stepped[self._is_hidden[stepped]].tolist())
        self._is_unshown = False

    def show_all(self, state: LiveState) -> None:
        """Have the state show everything as it is now, for which it waits where a device counts the steps."""
        if self._is_unshown:
            self.show(state)
        self.tell_counts(state)

    def tell_counts(self, state: LiveState) -> None:
        """Bring the step counts that the state shows up to date, for which it waits where a device counts; a user's edits stay."""
        if self._is_behind:
            counts = self._live.counts
            if self._counts.are_narrow_for(counts):
                uninterrupted(self._widen_counts, state)
            self._counts.tell(counts)
            algorithm = self.core.algorithm
            if (algorithm.uncounted or algorithm.scalars) and self._live.counts_on_device:
                self._hide(state, np.flatnonzero((counts == 0) & ~self._is_hidden).tolist())
            self._is_behind = False

    def _hide(self, state: LiveState, indices: Sequence[int]) -> None:
        """Show nothing of parameters whose first step was skipped.

        PyTorch's SGD takes what is there for the state of a step that was made, and its NAdam for one with a product of momenta.
        """
        for index in indices:
            state.show(self.params[index], {}, stale=self._shown[index])
            self._shown[index] = {}
            self._is_hidden[index] = self._hides = True

    def _widen_counts(self, state: LiveState) -> None:
        """Have the state show the counts in a wider format, but where somebody has put other ones there."""
        self._counts.widen()
        for index, shown in enumerate(self._shown):
            entry = state.get(self.params[index])
            if "step" in shown and isinstance(entry, dict):
                before, shown["step"] = shown["step"], self._counts.view(index)
                if entry.get("step") is before:
                    state.show(self.params[index], {"step": shown["step"]})

    @torch.inference_mode(False)
    @torch.no_grad()
    def _show(self, state: LiveState, indices: Sequence[int]) -> None:
        algorithm = self.core.algorithm
        for index in indices:
            param, access = self.params[index], self._access[index]
            shown = {}
            if not algorithm.uncounted or self._live.goes_by_count(index):
                shown["step"] = self._counts.view(index)
            for name in self._live.names(index):
                view = self._live.view(index, name)
                if not view.numel():
                    # Its place is where the next parameter's begins, and PyTorch saves no two dtypes of one place.
                    view = torch.empty_like(view)
                shown[name] = access.shown(param, view)
            if shown:  # PyTorch's SGD without momentum has no entry at all
                # A master weight of when the parameter had 16 bits, or an average that was loaded and is not kept, would grow old.
                state.show(param, shown, stale=(*algorithm.scalars, *(COPIES - shown.keys())))
            self._shown[index] = shown
            self._is_hidden[index] = False
        self._hides = bool(self._is_hidden.any())

    def take_up(self, state: LiveState) -> None:
        """Copy what was written to the state into the engine's memory, and have the state show that again.

        Raises:
            TypeError, ValueError: If it does not fit; nothing has changed then.
        """
        self._live.prepare()
        # Known since now at the latest. What other rules want beside is shown when a step has begun it.
        self._rules = self._rules or self._live.rules
        self.tell_counts(state)
        edited, counts = self._counts.edited, self._live.counts
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
        uninterrupted(self._take_over, state, found, cleared)

    @torch.no_grad()
    def _take_over(self, state: LiveState, found: Mapping[int, Found], cleared: Sequence[int]) -> None:
        self._write(found, cleared)
        self._is_hidden[cleared] = True
        for index in cleared:
            self._shown[index] = {}
        self._counts.forget_edits()
        self._is_behind = True
        self.tell_counts(state)
        self._show(state, list(found))
        state.adopt(self)

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
        ours = self._live.addresses
        arrays = {index: self._apart(index, one.arrays, ours) for index, one in found.items()}
        for index, own in arrays.items():
            for name, value in own.items():
                self._live.view(index, name).copy_(value)
        absent = {index: COPIES - own.keys() for index, own in arrays.items()}
        self._live.restart({index: one.step for index, one in found.items()}, absent, cleared)

    def _apart(self, index: int, arrays: Mapping[str, Tensor], ours: Collection[int]) -> dict[str, Tensor]:
        """What is to be copied into a parameter's arrays: of tensors that lie in the engine's memory themselves, copies.

        A user may have given one parameter's state to another one, and the first of them that of the second.

        Args:
            index: The parameter's number.
            arrays: The states that were found.
            ours: Where the arrays of all parameters begin.
        """
        return {
            name: value.clone() if value.numel() and value.untyped_storage().data_ptr() in ours else value
            for name, value in arrays.items()
            if self._live.has(index, name)
        }


def _is_capturable(groups: Groups) -> bool:
    return any(group.get("capturable") for group in groups)


def _holds(entry: Any, shown: Mapping[str, Tensor]) -> bool:
    """Whether an entry has nothing but what is shown in it, and a user's own."""
    if not shown:
        return not entry
    return isinstance(entry, dict) and all(entry.get(name) is tensor for name, tensor in shown.items())
