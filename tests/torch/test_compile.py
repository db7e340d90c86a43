"""``torch.compile`` of a model, of a step, of both in one function: the bits are those of the run that is not compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch._dynamo.utils import counters  # noqa: E402

from gpu_adam.torch import SGD, Adam, AdamW  # noqa: E402
from tests.support.torch_training import assert_same, batch, loss_of, network, train  # noqa: E402

STEPS = 4


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def expected(cls: Any = Adam) -> Any:
    model = network()
    return train(model, cls(model.parameters(), lr=0.01), STEPS)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model(backend: str) -> None:
    model = network()
    train(torch.compile(model, backend=backend), Adam(model.parameters(), lr=0.01), STEPS)
    assert_same(model, expected())


def test_steps_of_more_classes_than_a_function_is_compiled_for() -> None:
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for number in range(2 * torch._dynamo.config.recompile_limit):
            model = network()
            optimizer = type(f"Mine{number}", (Adam,), {})(model.parameters(), lr=0.01)
            loss_of(model, batch()).backward()
            torch.compile(optimizer.step, backend="eager")()
    assert not counters["stats"]  # there was nothing to make a graph of


@pytest.mark.parametrize("cls", [Adam, AdamW, SGD])
def test_a_compiled_step_is_one_break_and_compiled_once(cls: Any) -> None:
    model = network()
    optimizer = cls(model.parameters(), lr=0.01)

    @torch.compile(backend="eager")
    def step(x: Any) -> Any:
        y = x * 2
        optimizer.step()
        return y + 1

    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, batch()).backward()
        assert torch.equal(step(torch.ones(2)), torch.full((2,), 3.0))
    assert_same(model, expected(cls))
    assert sum(counters["graph_break"].values()) == 1, counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 2  # before the step, and behind it
    assert not counters["recompiles"]


def test_the_method_itself_compiled() -> None:
    model = network()
    optimizer = Adam(model.parameters(), lr=0.01)
    step = torch.compile(optimizer.step, backend="aot_eager")
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, batch()).backward()
        step()
    assert_same(model, expected())


def test_a_compiled_training_function() -> None:
    model = network()
    optimizer = Adam(model.parameters(), lr=0.01)

    @torch.compile(backend="aot_eager")
    def training_step(data: tuple[Any, Any]) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, data)
        loss.backward()
        optimizer.step()
        return loss

    losses = [training_step(batch()).item() for _ in range(STEPS)]
    assert losses == sorted(losses, reverse=True)
    assert_same(model, expected())


def test_a_compiled_step_with_a_closure_and_a_scheduler() -> None:
    models = []
    for compiled in (False, True):
        model = network()
        optimizer = Adam(model.parameters(), lr=torch.tensor(0.01))
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step

        def closure(model: Any = model, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = loss_of(model, batch())
            loss.backward()
            return loss

        for _ in range(STEPS):
            step(closure)
            scheduler.step()
        models.append(model)
    assert_same(*models)
