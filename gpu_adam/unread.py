"""Parameters that may have been written to where nobody could see it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .arrays import to_host
from .state import AVERAGE, Placed


@dataclass
class Unread:
    """Parameters whose value counts more, at their next step, than what is kept beside it.

    Weights are loaded before or after the optimizer's state, and into arrays that cannot tell that they were written to. So a parameter
    that was never stepped, or whose state was loaded, is looked at once more when it is stepped. Not earlier: a loaded master weight
    that is compared with what is there before the weights are loaded would lose its lower bits.

    Attributes:
        loaded: The numbers of the parameters whose state was loaded.
        averages: Of those that were loaded without an average: it begins with the parameter.
    """

    loaded: set[int] = field(default_factory=set)
    averages: set[int] = field(default_factory=set)

    def among(self, params: Iterable[Placed], steps: NDArray[np.int64]) -> list[Placed]:
        """Those of the parameters that are to be looked at."""
        wanted = self.loaded.union(np.flatnonzero(steps == 0).tolist())
        return [one for one in params if one.index in wanted] if wanted else []

    def reread(self, params: Iterable[Placed]) -> None:
        """Where somebody has written to these parameters, they count; those that will be looked at later must not be looked at now."""
        for placed in params:
            if placed.index not in self.loaded:
                placed.reread_master()

    def read(self, params: Iterable[Placed], steps: NDArray[np.int64]) -> None:
        """Right before a step: where a parameter is not what its master weight rounds to, it counts."""
        for placed in params:
            placed.reread_master()
        self.begin_averages(params, steps)

    def begin_averages(self, params: Iterable[Placed], steps: NDArray[np.int64]) -> None:
        """Where no step has gone into a parameter's average, it is what the parameter is now."""
        for placed in params:
            if placed.state.has(AVERAGE) and (placed.index in self.averages or not steps[placed.index]):
                placed.write(AVERAGE, to_host(placed.ref.array))

    def forget(self, params: Iterable[Placed]) -> None:
        """Look no more at parameters whose step was launched."""
        stepped = {placed.index for placed in params}
        self.loaded -= stepped
        self.averages -= stepped
