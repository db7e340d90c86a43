"""Checkpoints from and to torch.optim, copies of a model with its optimizer, and master weights of what was loaded."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.optim.torch_models import VARIANTS, assert_close, parameters, set_gradients, torch_optimizer  # noqa: E402


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_state_moves_to_torch_optim_and_back(variant: dict[str, Any]) -> None:
    dtype = torch.float64
    ours, theirs = parameters(dtype), parameters(dtype)
    optimizer = GpuAdam(ours, **variant)
    for seed in range(3):
        set_gradients(ours, seed)
        optimizer.step()
    peer = torch_optimizer(theirs, **variant)
    for a, b in zip(ours, theirs, strict=True):
        b.data.copy_(a.data)
    peer.load_state_dict(optimizer.state_dict())
    for seed in range(3, 6):
        set_gradients(theirs, seed)
        peer.step()
    back = GpuAdam(ours)
    for a, b in zip(ours, theirs, strict=True):
        a.data.copy_(b.data)
    back.load_state_dict(peer.state_dict())
    assert {key: back.param_groups[0][key] for key in variant} == variant
    for seed in range(6, 9):
        set_gradients(ours, seed)
        set_gradients(theirs, seed)
        back.step()
        peer.step()
    assert_close(ours, theirs)
    assert_close(
        [s["exp_avg"] for s in back.state_dict()["state"].values()], [s["exp_avg"] for s in peer.state.values()]
    )


def test_state_dicts_have_torchs_layout() -> None:
    ours, theirs = parameters(), parameters()
    optimizer, peer = GpuAdam(ours, amsgrad=True), torch.optim.Adam(theirs, amsgrad=True)
    for params, one in ((ours, optimizer), (theirs, peer)):
        set_gradients(params, 0)
        one.step()
    saved, wanted = optimizer.state_dict(), peer.state_dict()
    assert set(wanted["param_groups"][0]) <= set(saved["param_groups"][0]) | {"decoupled_weight_decay"}
    for key, state in wanted["state"].items():
        assert set(saved["state"][key]) == set(state)
        for name, value in state.items():
            found = saved["state"][key][name]
            assert (found.dtype, found.shape) == (value.dtype, value.shape)


def test_a_state_dict_survives_torch_save(tmp_path: Any) -> None:
    params = parameters(torch.bfloat16)
    optimizer = GpuAdam([(f"p{k}", p) for k, p in enumerate(params)])
    set_gradients(params, 0)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    twins = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = GpuAdam([(f"p{k}", p) for k, p in enumerate(twins)])
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for each, one in ((params, optimizer), (twins, other)):
        set_gradients(each, 1)
        one.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


def test_loading_a_torch_state_for_16_bit_parameters_takes_the_parameters_as_master_weights() -> None:
    ours, theirs = parameters(torch.bfloat16), parameters(torch.bfloat16)
    peer = torch.optim.Adam(theirs)
    set_gradients(theirs, 0)
    peer.step()
    for a, b in zip(ours, theirs, strict=True):
        a.data.copy_(b.data)
    optimizer = GpuAdam(ours)
    optimizer.load_state_dict(peer.state_dict())
    state = optimizer.state_dict()["state"]
    for k, p in enumerate(ours):
        assert state[k]["exp_avg"].dtype == torch.float32
        assert torch.equal(state[k]["master"], p.detach().float())


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_a_model_and_its_optimizer_are_copied_together(duplicate: Any, pack: bool) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = GpuAdam(model.named_parameters(), pack=pack)
    train(model, optimizer)
    model2, optimizer2 = duplicate((model, optimizer))
    assert optimizer2.params[0][1] is model2.weight
    train(model, optimizer)
    before = model.weight.detach().clone()
    train(model2, optimizer2)
    assert torch.equal(model.weight, before)
    assert torch.equal(model2.weight, before)


def train(model: Any, optimizer: GpuAdam) -> None:
    optimizer.zero_grad()
    model(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()


def test_torch_and_numpy_parameters_may_stand_side_by_side() -> None:
    p, q = torch.ones(3), np.ones(3, np.float32)
    GpuAdam([p, q]).step([np.ones(3, np.float32), torch.ones(3)])
    assert (p.numpy() == q).all()
    assert q[0] < 1


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
def test_a_16_bit_parameter_that_was_loaded_after_the_optimizer_was_made_keeps_what_was_loaded(pack):
    module = torch.nn.Linear(3, 2).to(torch.bfloat16)
    opt = GpuAdam(module.parameters(), lr=1e-3, pack=pack)
    loaded = {name: torch.full_like(value, 8.0) for name, value in module.state_dict().items()}
    module.load_state_dict(loaded)
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    opt.step()
    assert all((p == 8).all() for p in module.parameters())


def test_master_weights_keep_their_lower_bits_where_nobody_wrote():
    p = torch.ones(4, dtype=torch.bfloat16)
    opt = GpuAdam([p], lr=1e-4)
    for _ in range(5):
        p.grad = torch.ones_like(p)
        opt.step()
    before = opt.state_dict()["state"][0]["master"]
    with torch.no_grad():
        p[2] = 5
    opt.reread_params()
    after = opt.state_dict()["state"][0]["master"]
    assert after[2] == 5
    assert torch.equal(after[[0, 1, 3]], before[[0, 1, 3]])
    assert not torch.equal(before.bfloat16().float(), before), "the example has no lower bits to keep"
