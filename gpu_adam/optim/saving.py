"""The state: a copy of it to save, and taking one up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import MOST_STEPS
from ..process.native import at_once
from ..process.sole import changing, reading
from ..process.uninterrupted import uninterrupted
from ..state import checkpoint
from .averages import AverageLayer


class StateLayer(AverageLayer):
    """What saves and loads the state, over all that changes it."""

    @reading
    def state_dict(self) -> dict[str, Any]:
        """A copy of the state, in the layout of PyTorch's optimizer of the same name.

        Returns:
            ``{"state": {i: {"step": t, …}}, "param_groups": [...]}``: of each parameter the states of the rule by name (of Adam
            ``"exp_avg"`` and ``"exp_avg_sq"``), ``"master"`` and ``"average"`` where they are kept. The arrays have the parameters'
            shapes, libraries and devices, and the working format; numbers are Python's own. Parameters that were never stepped are
            absent, as in PyTorch. Where a step is refused because parameters have changed or been replaced, it is the state of what they
            were.
        """
        try:
            self._follow_groups()
        except (TypeError, ValueError):
            # The remedy may be a new optimizer, which wants the state.
            if not self._groups.are_in_place(self.param_groups):
                raise
        written = self._dispatcher.look() if self._swapped is None else ()
        steps = self._dispatcher.read_steps()
        with self._dispatcher.ordered():
            saved = checkpoint.save(
                self.algorithm, self.param_groups, self._groups.structures, self._params, steps, written
            )
        return {**saved, "steps_skipped": min(self.steps_skipped, MOST_STEPS)}

    @changing
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up a state, saved by `state_dict` or by PyTorch's optimizer of the same name; the next step is then the same to the bit.

        Weights may be loaded before or after: where a float32 master weight does not round to the parameter as it is at the next
        step, the parameter counts.

        Args:
            state_dict: As `state_dict` returns it, its arrays of any library and on any device; it is not modified. If it has names and the
                parameters have, they are matched by name, else by place.

        Raises:
            TypeError, ValueError: If it does not fit: other groups, names or shapes, missing keys. Nothing has changed then, nor after
                any other error.
        """
        self._refuse_if_swapped()
        self._follow()
        averages = bool(self._averaging)
        loaded = checkpoint.check(
            self.algorithm, state_dict, self.param_groups, self._groups.structures, self._params, averages
        )
        captured = self._is_captured
        if captured:
            self._dispatcher.settle()
        # Made beside the old state, and put in its place when nothing can fail any more.
        # What the state lacks is read from the parameters, which the last step may still be writing to.
        with self._dispatcher.ordered():
            params = checkpoint.renewed(loaded, self._params, averages, keep_places=captured)
        steps = np.array(loaded.steps, np.int64)
        remade = self._remade(params, steps, self._bound.arrays)
        changes: list[tuple[dict[str, Any], Mapping[str, Any]]] = [
            (vars(self), remade),
            (vars(self._members), {"params": params}),
            (vars(self._control), self._control.restarted(loaded.steps_skipped)),
            *zip(self.param_groups, loaded.groups, strict=True),
        ]
        uninterrupted(self._take_over, changes, steps, captured)

    def _take_over(self, changes: Sequence[Any], steps: NDArray[np.int64], captured: bool) -> None:
        # Held until all is done: what is destroyed may run code.
        before = self._params, self._dispatcher
        at_once(starmap(dict.update, changes))
        if captured:
            checkpoint.return_memory(before[0], self._params)
            self._captures.tell(steps)
        del before
