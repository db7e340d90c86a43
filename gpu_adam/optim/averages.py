"""The average of the parameters: reading it, and putting it in their place for a while."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from ..arrays import assign, snapshot, to_host
from ..process.sole import changing, reading
from ..process.uninterrupted import uninterrupted
from ..state.parameter import AVERAGE
from .averaged import Averaged
from .graphs import GraphLayer


class AverageLayer(GraphLayer):
    """What gives the averages out, over what makes steps."""

    @property
    @reading
    def averaged_params(self) -> Any:
        r"""The average of the parameters over the steps so far, in the structure of `params`.

        Views of the state, in float32 (float64 for float64 parameters), which the steps go on updating: copy what is to stay. A
        parameter without a gradient keeps its average too; of one that was never stepped it is a copy of the parameter. What the
        library's current stream does next comes after the last step. With
        ``ema_decay=β`` it is :math:`\bar\theta_t / (1-\beta^t)` where :math:`\bar\theta_t = \beta \bar\theta_{t-1} +
        (1-\beta)\theta_t` (Kingma and Ba, 2014, section 7.2), with ``polyak_average=True`` the plain mean.

        Raises:
            RuntimeError: If the optimizer keeps no average.
        """
        self._require_average()
        self._follow_groups()
        if self._swapped is None:
            self._dispatcher.look()
        steps = self._dispatcher.read_steps()
        pairs = [(placed, steps[placed.index]) for placed in self._params]
        with self._dispatcher.ordered():
            averages = [
                placed.view(AVERAGE) if t else placed.apart(AVERAGE, to_host(placed.ref.array)) for placed, t in pairs
            ]
        return self._groups.build(averages)

    def averaged(self) -> AbstractContextManager[None]:
        """A block in which the parameters are their averages, rounded to their formats; after it they are what they were, to the bit.

        They are put back on the streams that were current at its beginning.

        Raises:
            RuntimeError: If the optimizer keeps no average. Inside the block, for another such block, a step, and all else that would
                change the parameters or take them for what they are not.
        """
        return Averaged(self._begin_block, self._end_block)

    @changing
    def _begin_block(self, block: object) -> None:
        self._require_average()
        self._refuse_if_swapped()
        self._follow()
        uninterrupted(self._swap_in, block)

    def _swap_in(self, block: object) -> None:
        self._dispatcher.begin_averages()
        # The average of a parameter that was never stepped is the parameter.
        steps = self._dispatcher.read_steps()
        stepped = [placed for placed in self._params if steps[placed.index]]
        with self._dispatcher.ordered():
            # Where it fails on the way, the block's end puts back what they were.
            self._swapped = block, [(placed, snapshot(placed.ref)) for placed in stepped]
            for placed in stepped:
                assign(placed.ref, placed.view(AVERAGE))
        # Nobody has written to the parameters, as far as their master weights are concerned.
        self._dispatcher.residence.forget_writes()

    def _end_block(self, block: object) -> None:
        """Make the parameters what they were, where this is the block that changed them."""
        if self._swapped is None or self._swapped[0] is not block:
            return
        _, kept = self._swapped
        errors: list[Exception] = []
        with self._dispatcher.ordered():
            for placed, value in kept:
                try:
                    assign(placed.ref, value)
                except Exception as error:
                    # One that was reshaped in the block must not cost the others what they were.
                    errors.append(error)
        self._dispatcher.residence.forget_writes()
        self._swapped = None
        if errors:
            raise errors[0]

    def _require_average(self) -> None:
        if not self._averaging:
            raise RuntimeError(
                "the optimizer keeps no average of the parameters: make it with ema_decay or polyak_average"
            )
