"""Learning-rate schedulers of PyTorch: every one drives our optimizers as it drives torch.optim's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch.optim import lr_scheduler, swa_utils  # noqa: E402

from gpu_adam.torch import SGD, Adam  # noqa: E402
from tests.support.torch_training import assert_close, assert_same, network, train  # noqa: E402

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda opt: lr_scheduler.LambdaLR(opt, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda opt: lr_scheduler.MultiplicativeLR(opt, lambda epoch: 0.9),
    "StepLR": lambda opt: lr_scheduler.StepLR(opt, step_size=3, gamma=0.5),
    "MultiStepLR": lambda opt: lr_scheduler.MultiStepLR(opt, milestones=[2, 5], gamma=0.5),
    "ConstantLR": lambda opt: lr_scheduler.ConstantLR(opt, factor=0.5, total_iters=4),
    "LinearLR": lambda opt: lr_scheduler.LinearLR(opt, start_factor=0.1, total_iters=4),
    "ExponentialLR": lambda opt: lr_scheduler.ExponentialLR(opt, gamma=0.9),
    "PolynomialLR": lambda opt: lr_scheduler.PolynomialLR(opt, total_iters=10, power=2.0),
    "CosineAnnealingLR": lambda opt: lr_scheduler.CosineAnnealingLR(opt, T_max=10),
    "CosineAnnealingWarmRestarts": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=3),
    "OneCycleLR": lambda opt: lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=20),
    "CyclicLR": lambda opt: lr_scheduler.CyclicLR(opt, base_lr=1e-3, max_lr=0.1, step_size_up=3),
    "ReduceLROnPlateau": lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=0, threshold=0.5),
    "SWALR": lambda opt: swa_utils.SWALR(opt, swa_lr=0.05, anneal_epochs=4),
    "ChainedScheduler": lambda opt: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(opt, total_iters=4), lr_scheduler.ExponentialLR(opt, gamma=0.9)]
    ),
    "SequentialLR": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, total_iters=4), lr_scheduler.CosineAnnealingLR(opt, T_max=10)], milestones=[4]
    ),
}
STEPS = 12


def advance(model: Any, optimizer: Any, scheduler: Any, steps: int) -> list[tuple[Any, ...]]:
    """Train, and say after each step what the scheduler has put into the group."""
    said = []
    for k in range(steps):
        train(model, optimizer, 1)
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(1.0 / (1 + k % 3))
        else:
            scheduler.step()
        group = optimizer.param_groups[0]
        said.append((float(group["lr"]), group.get("betas"), group.get("momentum")))
    return said


@pytest.mark.usefixtures("strict")  # a scheduler warns if it does not see the optimizer's steps
@pytest.mark.parametrize("lr", [0.01, torch.tensor(0.01)], ids=["number", "tensor"])
@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_it_follows_torch_optim(make: Callable[[Any], Any], lr: Any) -> None:
    models, said = [], []
    for cls in (Adam, torch.optim.Adam):
        model = network()
        optimizer = cls(model.parameters(), lr=lr.clone() if isinstance(lr, torch.Tensor) else lr)
        models.append(model)
        said.append(advance(model, optimizer, make(optimizer), STEPS))
    assert said[0] == said[1]
    assert_close(*models)


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_a_momentum_is_cycled(name: str) -> None:
    models, said = [], []
    for cls in (SGD, torch.optim.SGD):
        model = network()
        optimizer = cls(model.parameters(), lr=0.01, momentum=0.9)
        models.append(model)
        said.append(advance(model, optimizer, SCHEDULERS[name](optimizer), STEPS))
    assert said[0] == said[1]
    assert len({momentum for _, _, momentum in said[0]}) > 2
    assert_close(*models)


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_run_that_is_resumed_has_the_same_bits(make: Callable[[Any], Any]) -> None:
    whole, part, resumed = network(), network(), network(seed=1)
    optimizer = Adam(whole.parameters(), lr=0.01)
    said = advance(whole, optimizer, make(optimizer), 6)
    # The plateau's losses begin anew every three steps.
    optimizer = Adam(part.parameters(), lr=0.01)
    scheduler = make(optimizer)
    first = advance(part, optimizer, scheduler, 3)
    saved = part.state_dict(), optimizer.state_dict(), scheduler.state_dict()
    optimizer = Adam(resumed.parameters(), lr=0.01)
    scheduler = make(optimizer)
    for one, state in zip((resumed, optimizer, scheduler), saved, strict=True):
        one.load_state_dict(state)
    assert first + advance(resumed, optimizer, scheduler, 3) == said
    assert_same(resumed, whole)


def test_a_tensor_of_the_users_is_what_the_scheduler_fills() -> None:
    model, lr = network(), torch.tensor(0.5)
    optimizer = Adam(model.parameters(), lr=lr)
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    advance(model, optimizer, scheduler, 2)
    assert optimizer.param_groups[0]["lr"] is lr
    assert float(lr) == 0.125


def test_a_tensor_whose_data_is_assigned_counts_as_it_is() -> None:
    lr = torch.tensor(0.5)
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = SGD([p], lr=lr)
    p.grad = torch.ones(2)
    optimizer.step()
    lr.data = torch.tensor(0.25)
    optimizer.step()
    assert p.tolist() == [0.25, 0.25]


def test_every_group_has_its_own_rate() -> None:
    models = []
    for cls in (Adam, torch.optim.Adam):
        model = network()
        optimizer = cls([{"params": model[0].parameters(), "lr": 0.02}, {"params": model[2].parameters()}], lr=0.01)
        scheduler = lr_scheduler.LambdaLR(optimizer, [lambda epoch: 0.9**epoch, lambda epoch: 1.0 / (1 + epoch)])
        advance(model, optimizer, scheduler, 5)
        models.append(model)
    assert_close(*models)
