"""PyTorch's GradScaler over our optimizers: the same scales, the same steps left out, the same weights as with torch.optim's."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from gpu_adam.torch import Adam  # noqa: E402
from tests.support.torch_training import assert_close, batch, loss_of, network  # noqa: E402

OVERFLOWS = (2, 5)
STEPS = 8


def trained(cls: type, unscale: bool, max_norm: float | None, **options: Any) -> tuple[Any, Any, Any]:
    """A model after some steps, in two of which the loss overflows; its optimizer, its scaler."""
    model = network()
    optimizer, scaler = (
        cls(model.parameters(), lr=0.01, **options),
        torch.amp.GradScaler("cpu", 2.0**10, growth_interval=3),
    )
    for k in range(STEPS):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, batch()) * (float("inf") if k in OVERFLOWS else 1.0)).backward()
        if unscale:
            scaler.unscale_(optimizer)
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        scaler.step(optimizer)
        scaler.update()
    return model, optimizer, scaler


@pytest.mark.parametrize("fused", [None, True], ids=["unscaled by the scaler", "unscaled in the step"])
@pytest.mark.parametrize(
    ("unscale", "max_norm"), [(False, None), (True, None), (True, 0.1)], ids=["", "unscale_", "clipped"]
)
def test_it_follows_torch_optim(unscale: bool, max_norm: float | None, fused: bool | None) -> None:
    ours, optimizer, scaler = trained(Adam, unscale, max_norm, fused=fused)
    theirs, peer, expected = trained(torch.optim.Adam, unscale, max_norm, fused=fused)
    assert scaler.get_scale() == expected.get_scale()
    assert_close(ours, theirs)
    for one in (optimizer, peer):
        assert [int(state["step"]) for state in one.state.values()] == [STEPS - len(OVERFLOWS)] * 4


@pytest.mark.parametrize("fused", [None, True])
def test_nothing_of_a_step_stays_behind(fused: bool | None) -> None:
    # In a step with fused=True the scaler sets `grad_scale` and `found_inf`, and deletes them afterwards.
    _, optimizer, _ = trained(Adam, False, None, fused=fused)
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")


def test_autocast_with_a_scaler() -> None:
    models = []
    for cls in (Adam, torch.optim.Adam):
        model = network()
        optimizer, scaler = cls(model.parameters(), lr=0.01), torch.amp.GradScaler("cpu")
        for _ in range(4):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, batch())
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        models.append(model)
    # The first gradients are the same; a weight that is rounded otherwise moves those after it by a bfloat16's rounding.
    torch.testing.assert_close(list(models[0].parameters()), list(models[1].parameters()), rtol=1e-2, atol=1e-3)


def test_two_optimizers_share_a_scaler() -> None:
    models = []
    for cls in (Adam, torch.optim.Adam):
        model, scaler = network(), torch.amp.GradScaler("cpu", 2.0**10)
        optimizers = [cls(layer.parameters(), lr=lr) for layer, lr in ((model[0], 0.01), (model[2], 0.02))]
        for k in range(4):
            model.zero_grad()
            scaler.scale(loss_of(model, batch())).backward()
            if k == 1:
                model[2].weight.grad[0, 0] = float("nan")  # leaves out the step of the second one alone
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
        assert [int(one.state[one.param_groups[0]["params"][0]]["step"]) for one in optimizers] == [4, 3]
        models.append(model)
    assert_close(*models)
