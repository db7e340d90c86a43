"""torch tensors: the same updates as torch.optim, in the tensors' own memory, with PyTorch's habits."""

from __future__ import annotations

from typing import Any

import pytest

from gpu_adam import GpuAdam

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.optim.torch_models import (  # noqa: E402
    STEPS,
    TOLERANCE,
    VARIANTS,
    assert_close,
    parameters,
    set_gradients,
    torch_optimizer,
)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
def test_it_follows_torch_optim(variant: dict[str, Any], dtype: Any, pack: bool) -> None:
    ours, theirs = parameters(dtype), parameters(dtype)
    optimizer, peer = GpuAdam(ours, pack=pack, **variant), torch_optimizer(theirs, **variant)
    for seed in range(STEPS):
        set_gradients(ours, seed)
        set_gradients(theirs, seed)
        optimizer.step()
        peer.step()
    assert_close(ours, theirs)
    if pack:
        set_gradients(ours, 0)
        optimizer.zero_grad()
        assert all(p.grad is bound for p, bound in zip(ours, optimizer.grads, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_parameters_are_a_float32_run_rounded(dtype: Any) -> None:
    # Gradients are exact in both formats, so the master weights are float32 parameters that started at rounded values.
    p16 = [torch.nn.Parameter(p.detach().to(dtype)) for p in parameters()]
    p32 = [torch.nn.Parameter(p.detach().float()) for p in p16]
    optimizer16, optimizer32 = GpuAdam(p16, lr=0.01), GpuAdam(p32, lr=0.01)
    for seed in range(STEPS):
        set_gradients(p16, seed)
        for a, b in zip(p16, p32, strict=True):
            b.grad = a.grad.float()
        optimizer16.step()
        optimizer32.step()
    for a, b in zip(p16, p32, strict=True):
        assert torch.equal(a, b.to(dtype))


def test_gradients_are_read_from_grad_and_none_is_left_alone() -> None:
    p, frozen = parameters()[:2]
    optimizer = GpuAdam([p, frozen])
    before = frozen.detach().clone()
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(frozen, before)
    assert list(optimizer.state_dict()["state"]) == [0]


def test_zero_grad_sets_to_none_or_to_zero_as_asked() -> None:
    (p,) = params = parameters()[:1]
    optimizer = GpuAdam(params)
    set_gradients(params, 0)
    gradient = p.grad
    optimizer.zero_grad(set_to_none=False)
    assert p.grad is gradient
    assert not gradient.any()
    optimizer.zero_grad()
    assert p.grad is None


def test_a_model_trains_by_its_named_parameters() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16, 2))
    optimizer = GpuAdam(model.named_parameters(), lr=0.05)
    assert [name for name, _ in optimizer.params] == ["0.weight", "0.bias", "3.weight", "3.bias"]
    x, y = torch.randn(32, 1, 4, 4), torch.randn(32, 2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
def test_backward_and_clipping_work_on_the_gradients_that_are_bound(pack: bool) -> None:
    torch.manual_seed(0)
    model, twin = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    twin.load_state_dict(model.state_dict())
    optimizer, peer = GpuAdam(model.parameters(), pack=pack), torch.optim.Adam(twin.parameters())
    for k in range(5):
        for net, one in ((model, optimizer), (twin, peer)):
            one.zero_grad()
            net(torch.full((4, 5), 1.0 + k)).square().sum().backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            one.step()
    assert_close(list(model.parameters()), list(twin.parameters()))
    if pack:
        assert {launch.specialization.family for launch in optimizer.plan.launches} == {"flat"}


def test_packing_keeps_the_gradients_that_were_there() -> None:
    params = parameters()
    set_gradients(params, 1)
    expected = [p.grad.clone() for p in params]
    GpuAdam(params, pack=True)
    assert all(torch.equal(p.grad, value) for p, value in zip(params, expected, strict=True))


def test_a_packed_gradient_that_is_replaced_is_used_and_zero_grad_binds_it_again() -> None:
    p, q = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
    packed, plain = GpuAdam([p], lr=0.1, pack=True), GpuAdam([q], lr=0.1)
    for k in range(3):
        for each in (p, q):
            each.grad = torch.full((3,), 1.0 + k)
        packed.step()
        plain.step()
        assert torch.equal(p, q)
    p.grad = None
    packed.step()
    assert torch.equal(p, q)
    packed.zero_grad()
    assert p.grad is packed.grads[0]


def test_a_tensor_may_be_the_learning_rate() -> None:
    lr = torch.tensor(0.5)
    p = torch.nn.Parameter(torch.zeros(1))
    p.grad = torch.ones(1)
    optimizer = GpuAdam([p], lr=lr, eps=0.0)
    optimizer.step()
    assert p.item() == -0.5
    lr.fill_(0.0)
    optimizer.step()
    assert p.item() == -0.5


def test_the_gradient_scaler_drives_it() -> None:
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer, scaler = GpuAdam([p], lr=0.1), torch.amp.GradScaler("cpu", init_scale=1024.0)
    for gradient, moved in ((float("inf"), False), (1.0, True)):
        optimizer.zero_grad()
        before = p.detach().clone()
        scaler.scale((p * gradient).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(p, before) is not moved
