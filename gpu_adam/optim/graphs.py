"""Steps as CUDA graphs."""

from __future__ import annotations

from typing import Any

from ..cuda.streams import handle_of
from ..engines import capture_errors
from ..process.sole import changing
from ..process.uninterrupted import uninterrupted
from ..step.graph import StepGraph
from ..step.request import Request
from .stepping import StepLayer


class GraphLayer(StepLayer):
    """What captures and replays steps, over what makes them."""

    @changing
    def graph(self, grad_scale: Any = None) -> StepGraph:
        """A step with the bound gradients as a CUDA graph, to be replayed.

        Replaying is `step` with one launch: the same bits, with what was changed in `param_groups`, with gradients read from
        the arrays that are bound.

        Args:
            grad_scale: As for `step`, of every replay.

        Raises:
            RuntimeError: Without ``capturable=True``, on a CPU, which has no graphs, and for parameters on several devices.
        """
        if any(one.engine.name == "cpu" for one in self._params):
            raise capture_errors.no_graphs()
        if not self._capturable:
            raise capture_errors.graph_not_capturable()
        self.only_device("a graph")
        self._check_stream(None)
        executor = self._dispatcher.prepare(self._request(self._arrays(None), grad_scale, None))
        return StepGraph(self._replay, executor, uninterrupted(executor.graph), grad_scale)

    @changing
    def _replay(self, graph: StepGraph, stream: Any) -> None:
        on = None if stream is None else handle_of(stream)
        if self._check_stream(on):
            raise capture_errors.graph_in_graph("step()")
        executor, arrays = graph.executor, self._arrays(None)
        holds = self._dispatcher.executor is executor
        if not (holds and self._dispatcher.prepare(self._request(arrays, graph.grad_scale, on)) is executor):
            raise capture_errors.graph_of_other_plan()
        self._dispatcher.run(executor, on, lambda _: graph.launch(on))

    @changing
    def prepare_replay(self, stream: Any = None) -> None:
        """Send what was changed in `param_groups`, before a graph is replayed that captured `step` together with other work.

        Only where something has changed is it needed; where a hyperparameter is a function of the step, before each replay. It then waits
        for the device. `graph` does so by itself, without waiting. Graphs that were captured before the plan changed are reached as
        well, also by the count of the steps that were made since.

        Args:
            stream: As for `step`: where the graph will be replayed.

        Raises:
            RuntimeError: If no step can have been captured, or the update rule is another one now.
        """
        executor = self._dispatcher.executor
        if (executor is None and not self._captures) or not self._capturable:
            raise capture_errors.nothing_captured()
        self._read_hyperparameters()
        on = None if stream is None else handle_of(stream)
        scaling = self._dispatcher.scaling
        limits, mode = self._asks(scaling, self._max_grad_norm)
        request = Request(self._hyper, scaling, limits, mode, stream=on, follows_replays=True)
        if not (self._dispatcher.executor is executor and self._dispatcher.prepare_replay(request)):
            raise capture_errors.graph_of_other_rule()
