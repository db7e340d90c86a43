"""The package's own options of the PyTorch classes: what they give out, what they refuse, and that nothing around a step reaches it."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from gpu_adam import LossScaler  # noqa: E402
from tests.support.torch_classes import (  # noqa: E402
    core,
    ours,
    parameters,
    same_bits,
    set_gradients,
    state_bits,
    train,
    trained,
)


def test_a_plan_before_and_after_a_step_changes_nothing() -> None:
    params, opt = trained(steps=0)
    twins, twin = trained(steps=0)
    before = opt.plan
    assert same_bits(params, twins)
    assert not opt.state
    train(params, opt, range(2))
    train(twins, twin, range(2))
    assert same_bits(params, twins)
    assert str(opt.plan) == str(twin.plan) == str(before)
    assert opt.plan.bytes_moved == 28 * 17


def test_norms() -> None:
    params = parameters()
    opt = ours("Adam", [{"params": [p]} for p in params], max_grad_norm=1.0, group_norms=True)
    with pytest.raises(RuntimeError, match="no step was made"):
        _ = opt.grad_norm
    train(params, opt, [0])
    each = torch.stack([p.grad.double().norm() for p in params])
    torch.testing.assert_close(opt.group_grad_norms, each)
    torch.testing.assert_close(opt.grad_norm, each.norm())
    assert (opt.grad_norm.dtype, opt.grad_norm.shape) == (torch.float64, ())
    opt.max_grad_norm = None
    train(params, opt, [1])
    with pytest.raises(RuntimeError, match="the last step measured none"):
        _ = opt.grad_norm
    other = trained(max_grad_norm=inf)[1]
    with pytest.raises(RuntimeError, match="group_norms=True"):
        _ = other.group_grad_norms


def test_the_norm_that_gradients_are_clipped_to_may_change() -> None:
    params, opt = trained(steps=0)
    others = parameters()
    other = core("Adam", others, lr=0.1)
    assert opt.max_grad_norm is None
    for seed, most in enumerate((0.5, None, 2, inf, 0.25)):
        opt.max_grad_norm = other.max_grad_norm = most
        assert opt.max_grad_norm == most
        with pytest.raises(ValueError, match="max_grad_norm=-1"):
            opt.max_grad_norm = -1
        train(params, opt, [seed])
        train(others, other, [seed])
        assert same_bits(params, others)
    assert state_bits(opt) == state_bits(other)


def test_averages() -> None:
    params, opt = trained(polyak_average=True)
    values, averages = [p.detach().clone() for p in params], [opt.state[p]["average"].clone() for p in params]
    with opt.averaged():
        assert same_bits(params, averages)
        with pytest.raises(RuntimeError, match="leave the block"), opt.averaged():
            pass
        with pytest.raises(RuntimeError, match="leave the block"):
            opt.step()
        opt.add_param_group({"params": parameters(((2,),)), "lr": 0.5})
        with pytest.raises(RuntimeError, match="leave the block"):
            opt.step()
    assert same_bits(params, values)
    train(params, opt, [3])
    with pytest.raises(RuntimeError, match="keeps no average"), trained()[1].averaged():
        pass


@pytest.mark.parametrize("capturable", [False, True])
def test_there_are_no_graphs_on_a_cpu(capturable: bool) -> None:
    params, opt = trained(capturable=capturable)
    with pytest.raises(RuntimeError, match="graph"):
        opt.graph()
    train(params, opt, [3])
    assert int(opt.state[params[0]]["step"]) == 4


def test_packed_parameters_lie_together_and_their_gradients_are_filled_with_zeros() -> None:
    params = [*parameters(), *parameters(((2,),))]
    params[2].requires_grad_(False)
    opt = ours("Adam", params, lr=0.1, pack=True)
    train(params[:2], opt, [0])
    assert params[0].untyped_storage().nbytes() == params[0].numel() * 4
    assert 0 < params[1].data_ptr() - params[0].data_ptr() <= 1024
    gradients = [p.grad for p in params[:2]]
    opt.zero_grad()
    assert [p.grad is gradient for p, gradient in zip(params, gradients, strict=False)] == [True, True]
    assert not any(gradient.any() for gradient in gradients)
    # Parameters that come later, gradients that somebody has moved, and one that is thawed.
    more = parameters(((4,),))
    opt.add_param_group({"params": more})
    set_gradients(params[:2] + more, 1)
    opt.zero_grad()
    assert all(p.grad is None or not p.grad.any() for p in (*params, *more))
    train(params[:2] + more, opt, [1])
    params[0].grad.data = torch.ones(3, 4)
    opt.zero_grad()
    assert not params[0].grad.any()
    params[2].requires_grad_()
    train([*params, *more], opt, [2])
    assert [int(opt.state[p]["step"]) for p in (*params, *more)] == [3, 3, 1, 2]


def test_packed_complex_parameters_are_refused() -> None:
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    opt = ours("Adam", [p], pack=True)
    p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match="pack=True moves the parameters' memory, which complex"):
        opt.step()
    assert not p.any()
    assert not opt.state


def test_a_lazy_conjugate_is_refused_and_not_updated_as_a_copy() -> None:
    memory = torch.tensor([1 + 2j, 3 - 1j])
    p = torch.nn.Parameter(memory.conj())
    assert p.is_conj()
    opt = ours("Adam", [*parameters(), p])
    p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=r"parameter 2 of group 0 is a lazy conjugate .* resolve_conj"):
        opt.step()
    assert torch.equal(memory, torch.tensor([1 + 2j, 3 - 1j]))


@pytest.mark.skipif(
    not hasattr(torch.Tensor, "grad_dtype"), reason="gradients have their parameter's dtype before PyTorch 2.10"
)
def test_a_real_gradient_of_a_complex_parameter() -> None:
    params, others = ([torch.nn.Parameter(torch.tensor([1 + 2j, 3 - 1j]))] for _ in range(2))
    opt, other = ours("Adam", params), ours("Adam", others)
    params[0].grad_dtype = None
    params[0].grad, others[0].grad = torch.tensor([1.0, 2.0]), torch.tensor([1 + 0j, 2 + 0j])
    opt.step()
    other.step()
    assert same_bits(map(torch.view_as_real, params), map(torch.view_as_real, others))


@pytest.fixture
def mesh() -> Iterator[Any]:
    """Two ranks, of which this process is the first and the other is none."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if torch.distributed.is_initialized():  # by another file, for itself
        torch.distributed.destroy_process_group()
    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield init_device_mesh("cpu", (2,))
    torch.distributed.destroy_process_group()


def spread(mesh: Any, place: Any) -> tuple[Any, Any]:
    """A distributed parameter with a gradient, and what this rank has of it."""
    from torch.distributed.tensor import DTensor

    local, grad = parameters(((3, 4),))[0].detach(), parameters(((3, 4),), seed=1)[0].detach()
    param = torch.nn.Parameter(DTensor.from_local(local, mesh, [place], run_check=False))
    param.grad = DTensor.from_local(grad, mesh, [place], run_check=False)
    return param, local


@pytest.mark.parametrize(
    "options", [{"max_grad_norm": 1.0}, {"skip_nonfinite": True}, {"group_norms": True}, {"pack": True}]
)
def test_what_needs_all_of_a_parameter_is_refused_of_a_shard(mesh: Any, options: dict[str, Any]) -> None:
    from torch.distributed.tensor import Replicate, Shard

    param, local = spread(mesh, Shard(0))
    before = local.clone()
    opt = ours("Adam", [param], **options)
    with pytest.raises(
        ValueError, match="pack=True moves" if "pack" in options else f"{next(iter(options))} goes by the norm"
    ):
        opt.step()
    assert same_bits([local], [before])
    if "pack" not in options:  # of which every rank has a copy
        ours("Adam", [spread(mesh, Replicate())[0]], **options).step()
    plain = ours("Adam", [param])
    plain.step()
    with pytest.raises(ValueError, match="max_grad_norm goes by the norm"):
        plain.max_grad_norm = 1.0
    assert plain.max_grad_norm is None
    plain.step()


def test_a_shard_is_updated_where_it_lies(mesh: Any) -> None:
    from torch.distributed.tensor import Shard

    param, local = spread(mesh, Shard(0))
    other = torch.nn.Parameter(local.clone())
    opt, twin = ours("Adam", [param], lr=0.1), ours("Adam", [other], lr=0.1)
    other.grad = param.grad.to_local().clone()
    for _ in range(2):
        opt.step()
        twin.step()
    assert same_bits([local], [other])
    state = opt.state[param]["exp_avg"]
    assert (state.placements, state.shape) == (param.placements, param.shape)
    assert same_bits([state.to_local()], [twin.state[other]["exp_avg"]])


def test_dense_gradients_of_sparse_adam_are_refused_before_anything_changes() -> None:
    params = parameters(((4, 2), (4, 2)))
    twins = parameters(((4, 2), (4, 2)))
    opt = ours("SparseAdam", params)
    set_gradients(params, 0)
    params[0].grad = params[0].grad.to_sparse(1)
    with pytest.raises(RuntimeError, match="SparseAdam does not support dense gradients, please consider Adam instead"):
        opt.step()
    assert same_bits(params, twins)
    assert not opt.state


def test_what_is_meant_for_the_packages_own_optimizers() -> None:
    params, opt = trained()
    with pytest.raises(
        TypeError, match=r"must be an optimizer of gpu_adam, such as GpuAdam; .*use torch\.amp\.GradScaler"
    ):
        LossScaler(opt)
    with pytest.raises(TypeError, match=r"closure is a list: must be a function .* the gradients in \.grad"):
        opt.step([p.grad for p in params])
    other = core("Adam", parameters())
    opt.grad_scale = LossScaler(other)
    with pytest.raises(ValueError, match="LossScaler of another optimizer"):
        opt.step()
    assert int(opt.state[params[0]]["step"]) == 3
    del opt.grad_scale
    opt.step()


def test_steps_without_gradients_do_nothing() -> None:
    params, twins = parameters(), parameters()
    opt = ours("Adam", params, weight_decay=0.5, decoupled_weight_decay=True)
    opt.step()
    assert opt.step(lambda: 7.0) == 7.0
    assert same_bits(params, twins)
    assert not opt.state
    assert opt.steps_skipped == 0
    set_gradients(params, 0)
    opt.step()
    opt.zero_grad()
    before = [p.detach().clone() for p in params]
    opt.step()
    assert same_bits(params, before)
    assert int(opt.state[params[0]]["step"]) == 1
