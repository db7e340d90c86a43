"""PyTorch's learning rate schedulers do with ours what they do with PyTorch's optimizers."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch.optim import lr_scheduler, swa_utils  # noqa: E402

from tests.torch.pytorch_tests.cases import NAMES, Task, advance, assert_same, optimizer, original, takes_sparse_only  # noqa: E402
from tests.torch.pytorch_tests.left_out import differs  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.parametrize("name", NAMES)]

MOMENTUM = {"SGD": {"momentum": 0.9}, "RMSprop": {"momentum": 0.9}}
"""So that there is something to cycle where momentum is asked for."""

SCHEDULERS = {
    "LambdaLR": lambda opt: lr_scheduler.LambdaLR(opt, lambda k: 0.9**k),
    "MultiplicativeLR": lambda opt: lr_scheduler.MultiplicativeLR(opt, lambda k: 0.95),
    "StepLR": lambda opt: lr_scheduler.StepLR(opt, step_size=2, gamma=0.5),
    "MultiStepLR": lambda opt: lr_scheduler.MultiStepLR(opt, [2, 5], gamma=0.1),
    "ConstantLR": lambda opt: lr_scheduler.ConstantLR(opt, factor=0.5, total_iters=3),
    "LinearLR": lambda opt: lr_scheduler.LinearLR(opt, start_factor=0.25, total_iters=4),
    "ExponentialLR": lambda opt: lr_scheduler.ExponentialLR(opt, gamma=0.9),
    "PolynomialLR": lambda opt: lr_scheduler.PolynomialLR(opt, total_iters=6, power=2.0),
    "CosineAnnealingLR": lambda opt: lr_scheduler.CosineAnnealingLR(opt, T_max=5, eta_min=1e-5),
    "CosineAnnealingWarmRestarts": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=3),
    "ReduceLROnPlateau": lambda opt: lr_scheduler.ReduceLROnPlateau(opt, factor=0.5, patience=0, threshold=1.0),
    "CyclicLR": lambda opt: lr_scheduler.CyclicLR(
        opt, base_lr=1e-3, max_lr=1e-2, step_size_up=3, cycle_momentum=has_momentum(opt)
    ),
    "OneCycleLR": lambda opt: lr_scheduler.OneCycleLR(
        opt, max_lr=0.02, total_steps=12, cycle_momentum=has_momentum(opt)
    ),
    "SequentialLR": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.ConstantLR(opt, total_iters=3), lr_scheduler.ExponentialLR(opt, 0.9)], milestones=[3]
    ),
    "ChainedScheduler": lambda opt: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(opt, factor=0.5, total_iters=3), lr_scheduler.ExponentialLR(opt, 0.9)], optimizer=opt
    ),
    "SWALR": lambda opt: swa_utils.SWALR(opt, swa_lr=1e-4, anneal_epochs=4),
}

CYCLES_MOMENTUM = ("CyclicLR", "OneCycleLR")


def has_momentum(opt: Any) -> bool:
    return "momentum" in opt.defaults or "betas" in opt.defaults


def hyperparameters(opt: Any) -> list[dict[str, Any]]:
    """The numbers of the groups that a scheduler may change."""
    keys = ("lr", "initial_lr", "max_lr", "min_lr", "momentum", "max_momentum", "base_momentum", "betas", "swa_lr")
    return [{key: deepcopy(group[key]) for key in keys if key in group} for group in opt.param_groups]


def scheduled(make: Any, name: str, rate: Any = float) -> tuple[Task, Any]:
    """A task, and an optimizer with a group for each of its parameters; `rate` makes a learning rate of a number."""
    task = Task(name)
    weight, bias = task.params
    groups = [{"params": [weight]}, {"params": [bias], "lr": rate(0.03)}]
    return task, make(name, groups, lr=rate(0.02), **MOMENTUM.get(name, {}))


@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_it_changes_what_it_changes_of_pytorchs(name: str, scheduler: str, tensor: bool) -> None:
    rate = torch.tensor if tensor else float
    (task, opt), (twin, peer) = scheduled(optimizer, name, rate), scheduled(original, name, rate)
    one, other = SCHEDULERS[scheduler](opt), SCHEDULERS[scheduler](peer)
    rates = [group["lr"] for group in opt.param_groups]
    same_steps = not (scheduler in CYCLES_MOMENTUM and differs(name, "mu_product"))
    for _ in range(10):
        assert_same(hyperparameters(opt), hyperparameters(peer))
        loss = float(task.loss())
        twin.loss()
        opt.step()
        peer.step()
        for p, q in zip(task.params, twin.params, strict=True):
            torch.testing.assert_close(
                p, q, **({"rtol": 1e-4, "atol": 2e-6} if same_steps else {"rtol": 0.1, "atol": 0.01})
            )
        advance(one, loss)
        advance(other, loss)
    assert_same(hyperparameters(opt), hyperparameters(peer))
    if tensor:
        assert all(group["lr"] is rate for group, rate in zip(opt.param_groups, rates, strict=True))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_it_goes_on_from_a_checkpoint(name: str, scheduler: str) -> None:
    task, opt = scheduled(optimizer, name)
    one = SCHEDULERS[scheduler](opt)
    task.run(opt, 4, (one,))
    twin, other = scheduled(optimizer, name)
    two = SCHEDULERS[scheduler](other)
    with torch.no_grad():
        for p, q in zip(task.params, twin.params, strict=True):
            q.copy_(p)
    other.load_state_dict(deepcopy(opt.state_dict()))
    two.load_state_dict(deepcopy(one.state_dict()))
    assert task.run(opt, 5, (one,)) == twin.run(other, 5, (two,))
    assert_same(hyperparameters(opt), hyperparameters(other))


def test_the_order_of_steps_is_watched_over(name: str) -> None:
    _, opt = scheduled(optimizer, name)
    scheduler = lr_scheduler.StepLR(opt, step_size=3)
    with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        scheduler.step()
    task, opt = scheduled(optimizer, name)
    scheduler = lr_scheduler.StepLR(opt, step_size=3)
    task.run(opt, 4, (scheduler,))


def test_a_group_that_comes_later_is_scheduled(name: str) -> None:
    task = Task(name)
    weight, bias = task.params
    opt = optimizer(name, [weight], lr=0.1)
    scheduler = lr_scheduler.ReduceLROnPlateau(opt, factor=0.5, patience=0, threshold=1.0)
    opt.add_param_group({"params": [bias], "lr": 0.2})
    for _ in range(3):
        task.loss()
        opt.step()
        scheduler.step(1.0)
    assert [group["lr"] for group in opt.param_groups] == [0.0125, 0.025]


def test_an_average_of_the_model_is_taken(name: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    opt = optimizer(name, model.parameters(), lr=0.05)
    averaged = swa_utils.AveragedModel(model)
    total = torch.zeros(2, 3)
    for k in range(1, 4):
        opt.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        if takes_sparse_only(name):
            for p in model.parameters():
                p.grad = p.grad.to_sparse()
        opt.step()
        averaged.update_parameters(model)
        total += model.weight.detach()
        torch.testing.assert_close(averaged.module.weight.detach(), total / k)
