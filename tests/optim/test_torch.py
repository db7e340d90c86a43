"""torch tensors: the same updates as torch.optim, in the tensors' own memory, with PyTorch's habits."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam

torch = pytest.importorskip("torch", reason="torch is not installed")

STEPS = 25

# Relative and absolute to parameters of size about 1. PyTorch rounds 1-β and the moments' sums otherwise.
TOLERANCE = {
    torch.float64: 1e-13,  # a few roundings of 1.1e-16 a step
    torch.float32: 2e-5,  # a few roundings of 6e-8 a step, and float32(1-β2) against 1-float32(β2)
}

VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "L2 decay": {"weight_decay": 0.1},
    "amsgrad": {"amsgrad": True},
    "maximize": {"maximize": True, "weight_decay": 0.05},
    "betas and eps": {"lr": 0.03, "betas": (0.5, 0.9), "eps": 1e-3},
    "AdamW": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "AdamW with amsgrad": {"weight_decay": 0.1, "decoupled_weight_decay": True, "amsgrad": True},
}


def parameters(dtype: Any = torch.float32) -> list[Any]:
    """Parameters of several shapes, one of them channels-last and one transposed."""
    generator = torch.Generator().manual_seed(3)
    tensors = [
        torch.randn(7, generator=generator),
        torch.randn((), generator=generator),
        torch.randn(2, 3, 4, 5, generator=generator).contiguous(memory_format=torch.channels_last),
        torch.randn(6, 5, generator=generator).t(),
        torch.randn(0, 3, generator=generator),
    ]
    return [torch.nn.Parameter(tensor.to(dtype)) for tensor in tensors]


def set_gradients(params: list[Any], seed: int, dtype: Any = None) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def torch_optimizer(params: Any, **options: Any) -> Any:
    decoupled = options.pop("decoupled_weight_decay", False)
    return (torch.optim.AdamW if decoupled else torch.optim.Adam)(params, **{"weight_decay": 0, **options})


def assert_close(ours: list[Any], theirs: list[Any]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        tolerance = TOLERANCE[a.dtype]
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


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


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
def test_a_gradient_whose_data_is_swapped_is_followed(pack: bool) -> None:
    p, q = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
    optimizer, expected = GpuAdam([p], lr=0.1, pack=pack), GpuAdam([q], lr=0.1)
    for k in range(3):
        if p.grad is None:
            p.grad = torch.zeros(3)
        p.grad.data = torch.full((3,), 1.0 - k)  # as some distributed wrappers do
        q.grad = torch.full((3,), 1.0 - k)
        optimizer.step()
        expected.step()
        assert torch.equal(p, q)


def test_memory_swapped_under_a_parameter_is_followed() -> None:
    p, q = torch.nn.Parameter(torch.ones(300)), torch.nn.Parameter(torch.ones(300))
    moving, staying = GpuAdam([p], lr=0.1), GpuAdam([q], lr=0.1)
    left_behind = []
    for seed in range(4):
        set_gradients([p], seed)
        set_gradients([q], seed)
        moving.step()
        staying.step()
        assert torch.equal(p, q)
        left_behind.append((p.data, p.data.clone()))
        p.data = torch.cat((torch.zeros(1 + seed), p.data))[1 + seed :]  # another alignment each time
    assert all(torch.equal(now, then) for now, then in left_behind)


def test_many_parameters_swapped_at_once_are_followed() -> None:
    params, twins = parameters(), parameters()
    optimizer, other = GpuAdam(params), GpuAdam(twins)
    for seed in range(3):
        for p in params:
            p.data = p.data.clone()
        set_gradients(params, seed)
        set_gradients(twins, seed)
        optimizer.step()
        other.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        (lambda p: torch.ones(4), r"parameter 'p' was float32 \(2, 3\) on cpu and is now float32 \(4,\)"),
        (lambda p: torch.ones(2, 3).double(), r"parameter 'p' was float32 .* and is now float64"),
        (lambda p: torch.ones(3, 2).t(), "parameter 'p' now lies in memory in another order"),
        (lambda p: p.as_strided((2, 3), (1, 2)), "parameter 'p' now lies in memory in another order"),
        (lambda p: torch.ones(1).expand(2, 3), "parameter 'p' has shape"),
    ],
    ids=["shape", "dtype", "order", "order at the same address", "broadcast"],
)
def test_a_swap_that_cannot_be_followed_is_refused_and_changes_nothing(swap: Any, message: str) -> None:
    p, q = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2))
    optimizer = GpuAdam({"q": q, "p": p})
    set_gradients([p, q], 0)
    optimizer.step()
    own, steps, q_before = p.data, optimizer.state_dict()["state"], q.detach().clone()
    p.data = swap(own)
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    p.data = own
    assert torch.equal(q, q_before)
    assert optimizer.state_dict()["state"][1]["step"] == steps[1]["step"]
    optimizer.step()
    assert not torch.equal(q, q_before)


def test_tying_two_parameters_between_steps_is_refused() -> None:
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = GpuAdam({"p": p, "q": q})
    set_gradients([p, q], 0)
    optimizer.step()
    q.data = p.data
    with pytest.raises(ValueError, match="parameter 'p' and parameter 'q' are the same array"):
        optimizer.step()


FREED = """
import torch
from gpu_adam import GpuAdam
p = torch.nn.Parameter(torch.ones(8))
optimizer = GpuAdam({{"p": p}})
p.grad = torch.ones(8)
optimizer.step()
{what}.untyped_storage().resize_(0)
try:
    optimizer.step()
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["p.data", "p.grad"])
def test_memory_that_was_freed_is_refused(what: str) -> None:
    # In a process of its own: where this fails, it ends the process.
    done = subprocess.run([sys.executable, "-c", FREED.format(what=what)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "parameter 'p' has no memory" in done.stdout


def test_a_gradient_of_other_strides_updates_the_parameter_itself() -> None:
    p, q = torch.nn.Parameter(torch.zeros(4, 6)), torch.nn.Parameter(torch.zeros(4, 6))
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    strided, plain = GpuAdam([p]), GpuAdam([q])
    for gradient in (values.t().contiguous().t(), values, values.expand(4, 6), values[:, :1].expand(4, 6)):
        strided.step([gradient])
        plain.step([gradient.contiguous()])
        assert torch.equal(p, q)


def test_a_gradient_that_is_not_sparse_in_rows_is_refused_also_after_a_dense_one() -> None:
    p = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = GpuAdam({"p": p})
    for _ in range(2):
        with pytest.raises(
            ValueError, match="the gradient of parameter 'p' is sparse in 2 dimensions: must be in the first one"
        ):
            optimizer.step([torch.eye(3).to_sparse()])
        optimizer.step([torch.eye(3)])


def test_a_lazily_negated_gradient_is_refused_and_not_read_with_the_wrong_sign() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    lazy = torch.ones(3, dtype=torch.complex64).mul(1j).conj().imag
    optimizer = GpuAdam({"p": p})
    with pytest.raises(ValueError, match=r"the gradient of parameter 'p' is a lazy negation .* resolve_neg"):
        optimizer.step([lazy])
    optimizer.step([torch.ones(3)])
    with pytest.raises(ValueError, match="lazy negation"):
        optimizer.step([lazy])
    optimizer.step([lazy.resolve_neg()])


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(3, dtype=torch.int32), torch.ones(3, dtype=torch.complex64), torch.ones(3, dtype=torch.float8_e4m3fn)],
    ids=lambda tensor: str(tensor.dtype),
)
def test_other_dtypes_are_refused(tensor: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"parameter 'p' has dtype {str(tensor.dtype)[6:]}, which is not supported: use one of float64"
    ):
        GpuAdam({"p": tensor})


def test_tensors_that_share_memory_are_refused() -> None:
    weight = torch.ones(4, 4)
    with pytest.raises(ValueError, match="parameter 'a' and parameter 'b' overlap in memory"):
        GpuAdam({"a": weight[:2], "b": weight[1:]})
    GpuAdam({"a": weight[:, :2], "b": weight[:, 2:]})  # interleaved, and no element shared


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


# Checkpoints, both ways.


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
