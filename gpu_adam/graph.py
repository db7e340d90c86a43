"""A step that was captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .tracing import untraced

if TYPE_CHECKING:
    from .optimizer import GpuOptimizer
    from .schedule import Schedule


class StepGraph:
    """Replays the step of an optimizer; made by `gpu_adam.GpuOptimizer.graph`.

    It holds as long as the optimizer's plan does: when a gradient comes or goes, a state is loaded, or a group is added, make another.
    """

    def __init__(
        self,
        optimizer: GpuOptimizer,
        schedule: Schedule,
        launch: Callable[[int | None], None],
        grad_scale: Any,
    ) -> None:
        self.schedule = schedule
        self.launch = launch
        self.grad_scale = grad_scale
        self._optimizer = optimizer

    @untraced
    def replay(self, stream: Any = None) -> None:
        """Do what `gpu_adam.GpuOptimizer.step` does with the bound gradients, with one launch.

        Args:
            stream: As for `gpu_adam.GpuOptimizer.step`.

        Raises:
            RuntimeError: If the optimizer's plan has changed since.
        """
        self._optimizer._replay(self, stream)
