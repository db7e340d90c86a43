"""Gradients that are absent in some steps, on GPUs made of host memory: the CUDA C++ kernels leave the bits of the CPU engine."""

from __future__ import annotations

from typing import Any

import pytest

from gpu_adam.plan.step_plan import StepPlan
from gpu_adam.step import dispatcher
from gpu_adam.step.planning import plan_of
from tests.support import gpu_rigs, host_library, host_pairs
from tests.support.gpu_rigs import Host
from tests.support.host_library import KeptPair

host, host_kernels, engines = gpu_rigs.host, gpu_rigs.host_kernels, host_pairs.engines

MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"max_grad_norm": 3.0},
    "skipping": {"skip_nonfinite": True, "group_norms": True},
    "capturable": {"capturable": True},
    "scheduled": {"lr": lambda t: 0.1 / t},
    "scheduled, clipped": {"lr": lambda t: 0.1 / t, "max_grad_norm": 3.0},
    "scheduled, capturable": {"lr": lambda t: 0.1 / t, "capturable": True},
}
SETS = [(), (0,), (1,), (2,), (0, 1), (1, 2), (), (0, 2), (1,), (), (0,)]


@pytest.fixture
def library(engines: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    host_library.use(monkeypatch, engines.engine.binding)
    return engines


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many plans were made, as a list of one number."""
    made = [0]

    def counted(*args: Any) -> StepPlan:
        made[0] += 1
        return plan_of(*args)

    monkeypatch.setattr(dispatcher, "plan_of", counted)
    return made


class Varied(KeptPair):
    """A pair, one stream, and what stays alive."""

    def __init__(self, host: Host, **options: Any) -> None:
        super().__init__(host, **options)
        self.stream = host.stream()
        self.kept: list[Any] = []

    def step(self, absent: tuple[int, ...] = (), infinite: bool = False) -> None:
        gradients: list[Any] = self.gradients(infinite)
        mine: list[Any] = self.up(gradients)
        for k in absent:
            gradients[k] = mine[k] = None
        self.kept.append(mine)
        self.on_gpu.step(mine, stream=self.stream if len(set(self.devices)) == 1 else None)
        self.on_cpu.step(gradients)

    def warm(self) -> None:
        for absent in ((), (0,), (1,)):
            self.step(absent)


@pytest.mark.parametrize("mode", MODES)
def test_the_bits_are_the_cpu_engines_and_no_plan_is_made(library: Host, mode: str, plans: list[int]) -> None:
    pair = Varied(library, **MODES[mode])
    pair.warm()
    plans[0] = 0
    for step, absent in enumerate(SETS * 4):
        pair.step(absent, infinite="skip_nonfinite" in MODES[mode] and step % 5 == 3)
    assert plans[0] == 0
    pair.check()
    assert pair.on_gpu.steps_skipped == pair.on_cpu.steps_skipped


@pytest.mark.parametrize("mode", ["plain", "scheduled", "clipped", "skipping"])
def test_several_devices(library: Host, mode: str) -> None:
    """Where the norm is summed over several of them another set is another plan."""
    pair = Varied(library, devices=(0, 1, 0), **MODES[mode])
    for absent in SETS * 2:
        pair.step(absent)
    pair.check()


def test_the_host_waits_for_no_step(library: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Varied(library, skip_nonfinite=True, max_grad_norm=1.0)
    pair.warm()
    waits: list[str] = []
    for name in ("wait", "exchange", "allocate"):
        monkeypatch.setattr(library.engine.binding, name, lambda *_, name=name: waits.append(name))
    for absent in SETS:
        pair.step(absent)
    assert waits == []
    monkeypatch.undo()


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 3.0}], ids=str)
def test_a_step_without_some_is_captured_where_the_set_stays(library: Host, options: dict[str, Any]) -> None:
    pair = Varied(library, capturable=True, **options)
    pair.warm()
    pair.step((1,))
    gradients = pair.gradients()
    arrays: list[Any] = pair.up(gradients)
    arrays[1] = None
    pair.kept.append(arrays)
    with library.captured(pair.stream) as graph:
        pair.on_gpu.step(arrays, stream=pair.stream)
    for _ in range(3):
        graph.launch(pair.stream)
        pair.on_cpu.step([gradients[0], None, gradients[2]])
    library.engine.finish()
    pair.check()


def test_a_graph_goes_on_with_its_own_set_when_others_come(library: Host) -> None:
    pair = Varied(library, capturable=True)
    pair.warm()
    pair.step((1,))
    gradients = pair.gradients()
    arrays: list[Any] = pair.up(gradients)
    arrays[1] = None
    with library.captured(pair.stream) as graph:
        pair.on_gpu.step(arrays, stream=pair.stream)
    for absent in SETS:
        pair.step(absent)
        library.engine.finish()
        pair.on_gpu.prepare_replay(pair.stream)
        graph.launch(pair.stream)
        pair.on_cpu.step([gradients[0], None, gradients[2]])
    library.engine.finish()
    pair.check()


def test_another_set_cannot_be_captured(library: Host) -> None:
    pair = Varied(library, capturable=True)
    pair.warm()
    arrays: list[Any] = pair.up(pair.gradients())
    with library.captured(pair.stream), pytest.raises(RuntimeError, match="gradients"):
        pair.on_gpu.step([None, *arrays[1:]], stream=pair.stream)
    pair.step((0,))
    pair.check()


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 3.0}], ids=str)
def test_an_optimizers_own_graph_follows_the_set(library: Host, options: dict[str, Any]) -> None:
    pair = Varied(library, capturable=True, **options)
    pair.warm()
    gradients = pair.gradients()
    arrays: list[Any] = pair.up(gradients)
    gradients[1] = arrays[1] = None
    pair.on_gpu.grads, pair.on_cpu.grads = arrays, gradients
    graph = pair.on_gpu.graph()
    for absent in SETS:
        pair.step(absent)
        for _ in range(2):
            graph.replay(pair.stream)
            pair.on_cpu.step()
    library.engine.finish()
    pair.check()
