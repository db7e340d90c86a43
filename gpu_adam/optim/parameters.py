"""What an optimizer knows of its parameters: which there are, in which groups, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..device import Device
from ..dtypes import Format
from ..engines import capture_errors
from ..lazy import cached_property
from ..messages import a_kind
from ..process.sole import User, changing
from ..process.tracing import untraced
from ..process.uninterrupted import uninterrupted
from ..rules.algorithm import Algorithm
from ..rules.hyperparameters import Averaging
from ..state.parameter import Placed, narrowest, working_formats
from ..state.residence import Residence
from ..step.bound import Bound
from ..step.captures import Captures
from ..step.control import Control
from ..step.dispatcher import Dispatcher
from .groups import Groups
from .members import Added, Members


class ParameterLayer:
    """The lowest layer of `gpu_adam.GpuOptimizer`: each is a class that knows only those below it."""

    algorithm: ClassVar[Algorithm]
    defaults: dict[str, Any]
    param_groups: list[dict[str, Any]]
    _pack: bool
    _capturable: bool
    _averaging: Averaging
    _control: Control
    _captures: Captures
    _users: dict[None, User]
    _swapped: tuple[object, list[tuple[Placed, Any]]] | None
    _members: Members
    _groups: Groups
    # What follows from the parameters.
    _dispatcher: Dispatcher
    _bound: Bound

    @property
    def _params(self) -> list[Placed]:
        return self._members.params

    @property
    @untraced
    def params(self) -> Any:
        """The arrays that are updated, in the structure in which they were given; with groups, a list of these."""
        return self._groups.build([placed.ref.array for placed in self._params])

    @property
    @untraced
    def grads(self) -> Any:
        """The bound gradients, in the structure of `params`; with ``pack=True`` views of the buckets, for torch tensors their ``.grad``.

        Assign arrays of the same structure to bind them: `step` without an argument then uses them, and checks them again only where one
        was reshaped, retyped or resized in place. With ``pack=True`` there is nothing to assign: write into the views.
        """
        return self._groups.build(self._bound.current())

    @grads.setter
    @changing
    def grads(self, grads: Any) -> None:
        arrays = self._groups.flatten(grads)
        if self._pack:
            raise ValueError("pack=True binds its own gradients: write into opt.grads, or call step(grads)")
        if self._bound.torch:
            raise ValueError("torch tensors bind their own gradients: set .grad, or call step(grads)")
        self._dispatcher.check_gradients(arrays)
        self._bound.bind(arrays)

    @changing
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the bound gradients.

        With ``pack=True`` and for arrays that were bound they are filled with zeros.

        Args:
            set_to_none: Whether a torch tensor's ``.grad`` becomes ``None``, as in PyTorch, and is not filled with zeros.
        """
        with self._dispatcher.ordered():
            self._bound.clear(set_to_none)

    @changing
    def reread_params(self) -> None:
        """Take up 16-bit parameters that were written to by hand since their last step.

        Where a parameter is no longer what its float32 master weight rounds to, the master weight takes its value. For torch
        tensors a step does so by itself (not for writes through ``p.data``, which torch does not tell of); arrays of other libraries cannot
        tell that they were written to.
        """
        self._refuse_if_swapped()
        self._dispatcher.follow_memory()
        with self._dispatcher.ordered():
            for placed in self._params:
                placed.reread_master()

    # Groups.

    @changing
    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters, whose own step count starts at 0.

        Args:
            group: ``"params"`` as in the constructor, and any hyperparameters that differ from the constructor's.

        Raises:
            TypeError, ValueError: As in the constructor; nothing has changed then.
        """
        self._refuse_if_swapped()
        if not isinstance(group, Mapping):
            raise TypeError(f"the group is {a_kind(group)}: must be a dict with the parameters as its 'params'")
        self._add([dict(group)], grouped=True)

    def _add(self, groups: list[dict[str, Any]], grouped: bool) -> None:
        grown = False
        if self._params:
            grown = self._dispatcher.may_grow and len(self.param_groups) == len(self._groups.structures)
            if not grown:
                self._follow()
        added = self._members.described(groups, self.defaults, self.param_groups, grown=grown)
        uninterrupted(self._take_in, added, grouped)

    def _take_in(self, added: Added, grouped: bool) -> None:
        steps, bound = np.zeros(0, np.int64), list[Any]()
        residence: Residence | None = None
        if self._params:
            steps, bound = self._dispatcher.read_steps(), list(self._bound.arrays)
            residence = self._dispatcher.residence
        grads = self._members.add(added, self.param_groups)
        self._groups.grouped = grouped
        if residence is not None:
            residence.grow(self._params, added.params)
        self._rest(np.concatenate((steps, np.zeros(len(grads), np.int64))), [*bound, *grads], residence)

    def _follow(self, capturing: bool = False) -> None:
        """Take up what was done to the groups and to the parameters since the last step; nothing may have been while one is captured."""
        self._follow_groups(capturing)
        self._dispatcher.follow_memory(capturing)
        thawed = self._bound.thawed() if self._pack else []
        if thawed and capturing:
            raise capture_errors.parameter_thawed(thawed[0].label)
        if thawed:
            uninterrupted(self._pack_in, thawed)

    def _pack_in(self, thawed: Sequence[Placed]) -> None:
        grads = self._members.pack_in(thawed, self.param_groups)
        bound = [grads.get(k, array) for k, array in enumerate(self._bound.arrays)]
        self._rest(self._dispatcher.read_steps(), bound)

    def _follow_groups(self, capturing: bool = False) -> None:
        """Take up what was moved among the groups, by which no graph goes that was captured before."""
        if self._groups.hold(self.param_groups):
            return
        if capturing or self._is_captured:
            raise capture_errors.graph_of_other_parameters()
        self._refuse_if_swapped()
        # What has been done to the parameters is not seen any more once they have been taken up anew.
        self._dispatcher.follow_memory()
        uninterrupted(self._regroup)

    def _regroup(self) -> None:
        steps, bound = self._dispatcher.read_steps(), self._bound.arrays
        earlier = self._members.regroup(self.param_groups, steps)
        self._rest(
            np.array([0 if k is None else steps[k] for k in earlier], np.int64),
            [None if k is None else bound[k] for k in earlier],
        )

    @property
    def _is_captured(self) -> bool:
        """Whether a graph of the caller's has captured a step."""
        executor = self._dispatcher.executor
        return bool(self._captures) or (executor is not None and executor.is_captured)

    def _refuse_if_swapped(self) -> None:
        if self._swapped is not None:
            raise RuntimeError("the parameters are their averages now: leave the block of averaged() first")

    # What follows from the parameters; found when it is asked for, since groups may be added by the thousand.

    def _rest(self, steps: NDArray[np.int64], bound: Sequence[Any], residence: Residence | None = None) -> None:
        """Forget everything that follows from the parameters and is found again at the next step."""
        dispatcher = vars(self).get("_dispatcher")
        if dispatcher is not None:
            # What a caller has captured is not forgotten.
            dispatcher.settle()
        for name in ("_devices", "_working", "_narrowest"):
            vars(self).pop(name, None)
        vars(self).update(self._remade(self._params, steps, bound, residence))
        self._captures.tell(steps)

    def _remade(
        self, params: list[Placed], steps: NDArray[np.int64], bound: Sequence[Any], residence: Residence | None = None
    ) -> dict[str, Any]:
        """The attributes of an optimizer with these parameters and state; what follows from them is found again at the next step."""
        dispatcher = Dispatcher(
            params,
            steps,
            self._averaging,
            self._control,
            self._captures,
            1 + len(self.param_groups),
            pack=self._pack,
            capturable=self._capturable,
            residence=residence,
        )
        return {"_dispatcher": dispatcher, "_bound": Bound(params, bound, self._pack)}

    @cached_property
    def _devices(self) -> set[Device]:
        return {one.ref.device for one in self._params}

    @cached_property
    def _working(self) -> list[set[Format]]:
        """The working formats of each group's parameters."""
        return working_formats(self._params, len(self.param_groups))

    @cached_property
    def _narrowest(self) -> Format:
        return narrowest(self._working)
