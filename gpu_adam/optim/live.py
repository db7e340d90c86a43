"""The state of an optimizer as it lies in memory, for whoever shows it under names of its own, as `gpu_adam.torch` does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import to_host
from ..kernels.rules.rule import Rule
from ..process.uninterrupted import uninterrupted
from ..rules.algorithm import Hyperparameters
from ..state.parameter import AVERAGE
from ..state.placement import place
from .base import GpuOptimizer

_step = GpuOptimizer.step.__wrapped__  # type: ignore[attr-defined]


class Live:
    """An optimizer's state, read and replaced in place between its steps.

    Args:
        optimizer: Whose. Parameters go by their numbers, in the order of its groups.
    """

    def __init__(self, optimizer: GpuOptimizer) -> None:
        self._optimizer = optimizer

    # Looking.

    def label(self, index: int) -> str:
        """What errors call a parameter."""
        return self._optimizer._params[index].label

    @property
    def hyper(self) -> Sequence[Hyperparameters]:
        """The hyperparameters of each group, as they were last read: the same object as long as they are the same."""
        return self._optimizer._hyper

    @property
    def rules(self) -> list[tuple[Rule, bool]]:
        """The rule of each group, as its hyperparameters were last read, and whether these follow a schedule."""
        return [(own.rule, own.is_scheduled) for own in self._optimizer._hyper]

    def rule(self, index: int) -> Rule:
        """The rule of a parameter's group."""
        return self._optimizer._hyper[self._optimizer._params[index].group].rule

    def names(self, index: int) -> list[str]:
        """The arrays that are kept of a parameter: the rule's states, ``"master"`` and ``"average"``, as far as they are there."""
        one = self._optimizer._params[index]
        return [name for name in (*self.rule(index).states, "master", AVERAGE) if one.has(name)]

    def has(self, index: int, name: str) -> bool:
        """Whether one of these arrays is there."""
        return self._optimizer._params[index].has(name)

    def goes_by_count(self, index: int) -> bool:
        """Whether something of a parameter's next step follows from its step count, in every algorithm: an average, a schedule."""
        own = self._optimizer
        return self.has(index, AVERAGE) or own._hyper[own._params[index].group].is_scheduled

    def view(self, index: int, name: str) -> Any:
        """One of these arrays, of the parameter's shape and library, as it lies in its bucket."""
        return self._optimizer._params[index].view(name)

    @property
    def addresses(self) -> set[int]:
        """Where the arrays of the parameters begin."""
        params = [one for one in self._optimizer._params if one.size]
        return {one.address(name) for one in params for name in self.names(one.index)}

    @property
    def stepped(self) -> NDArray[np.intp]:
        """The numbers of the parameters that the last step was planned for: all of them have a state."""
        executor = self._optimizer._dispatcher.executor
        return np.zeros(0, np.intp) if executor is None else executor.planned.members

    @property
    def counts_on_device(self) -> bool:
        """Whether a device counts the steps, so that the host must wait for `counts`."""
        executor = self._optimizer._dispatcher.executor
        return executor is not None and executor.planned.mode.on_device

    @property
    def counts(self) -> NDArray[np.int64]:
        """The parameters' step counts, not to be written to; see `counts_on_device`."""
        dispatcher = self._optimizer._dispatcher
        return dispatcher.read_steps() if self.counts_on_device else dispatcher.steps

    @property
    def is_captured(self) -> bool:
        """Whether a graph of the caller's has captured a step."""
        return self._optimizer._is_captured

    # Stepping.

    def step(self, grads: Any) -> None:
        """As `GpuOptimizer.step`, for callers who have kept PyTorch's compiler out already: to do so twice costs microseconds."""
        _step(self._optimizer, grads)

    # Replacing.

    def refuse_averages(self) -> None:
        """Raise `RuntimeError` where the parameters are their averages now, and must become again what they were."""
        self._optimizer._refuse_if_swapped()

    def prepare(self) -> None:
        """Take up what was done to the parameters and hyperparameters, after which nothing is refused for that.

        Raises:
            ParameterChangedError: If one has become another array than the optimizer was made for.
            TypeError, ValueError: For a hyperparameter that makes no sense.
        """
        self.refuse_averages()
        own = self._optimizer
        own._follow()
        own._read_hyperparameters()

    def begin(self, names: Mapping[int, Collection[str]]) -> None:
        """Have room for what is to be written: of each of these parameters the arrays of these names, and those that are copied from it."""
        own = self._optimizer
        own._dispatcher.settle()
        params = [own._params[index] for index in names]
        place([one for one in params if one.place is None])
        for one in params:
            one.state.ensure((*names[one.index], *self._copies(one.index)))

    def restart(self, counts: Mapping[int, int], absent: Mapping[int, Collection[str]], cleared: Sequence[int]) -> None:
        """Go on from the state that was written into the views.

        Args:
            counts: The step counts of the parameters whose state was written.
            absent: Of some of these what they lack of ``"master"`` and ``"average"``, which then begins with the parameter.
            cleared: The parameters that begin again as if they had never been stepped.
        """
        uninterrupted(self._restart, counts, absent, cleared)
        self._optimizer._read_hyperparameters()

    def _restart(
        self, counts: Mapping[int, int], absent: Mapping[int, Collection[str]], cleared: Sequence[int]
    ) -> None:
        own = self._optimizer
        for index in cleared:
            one = own._params[index]
            for name in filter(one.has, (*own.algorithm.states, "master", AVERAGE)):
                one.ref.library.zero(one.view(name))
            one.loaded = one.lacks_average = False
        for index in counts:
            one, lacking = own._params[index], set(absent.get(index, ())).intersection(self._copies(index))
            if "master" in lacking:
                one.write("master", to_host(one.ref.array))
            one.loaded, one.lacks_average = True, AVERAGE in lacking
        steps = own._dispatcher.read_steps().copy()
        steps[list(counts)] = list(counts.values())
        steps[list(cleared)] = 0
        own._rest(steps, own._bound.arrays)

    def _copies(self, index: int) -> list[str]:
        """The arrays of a parameter that begin as copies of it."""
        wanted = (("master", self._optimizer._params[index].master), (AVERAGE, bool(self._optimizer._averaging)))
        return [name for name, kept in wanted if kept]
