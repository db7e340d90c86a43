"""A step that was captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..process.tracing import untraced
from .executor import Executor


class StepGraph:
    """Replays the step of an optimizer; made by `gpu_adam.GpuOptimizer.graph`.

    It holds as long as the optimizer's plan does: when a gradient comes or goes, a state is loaded, or a group is added, make another.
    """

    def __init__(
        self,
        replay: Callable[[StepGraph, Any], None],
        executor: Executor,
        launch: Callable[[int | None], None],
        grad_scale: Any,
    ) -> None:
        self.executor = executor
        self.launch = launch
        self.grad_scale = grad_scale
        self._replay = replay

    @untraced
    def replay(self, stream: Any = None) -> None:
        """Do what `gpu_adam.GpuOptimizer.step` does with the bound gradients, with one launch.

        Args:
            stream: As for `gpu_adam.GpuOptimizer.step`.

        Raises:
            RuntimeError: If the optimizer's plan has changed since.
        """
        self._replay(self, stream)
