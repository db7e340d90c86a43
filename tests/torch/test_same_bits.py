"""Each class makes the same bits as the package's own optimizer of the same rule: parameters, state and step counts."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.support.rule_cases import Settings  # noqa: E402
from tests.support.strategies import FEW, shapes  # noqa: E402
from tests.support.torch_classes import (  # noqa: E402
    CASES,
    core,
    ours,
    parameters,
    same_bits,
    set_gradients,
    state_bits,
)

FORMATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
each = pytest.mark.parametrize(("name", "settings"), CASES, ids=[f"{name}{settings or ''}" for name, settings in CASES])


def twins(make: Any) -> tuple[list[Any], list[Any]]:
    return make(), make()


def step_both(one: Any, other: Any, params: list[Any], others: list[Any], seed: int, **gradients: Any) -> None:
    set_gradients(params, seed, **gradients)
    set_gradients(others, seed, **gradients)
    one.step()
    other.step()


def assert_same(one: Any, other: Any, params: list[Any], others: list[Any]) -> None:
    assert same_bits(params, others)
    # What the package's own saves of a rule that PyTorch's counts no steps of.
    counted = state_bits(one)
    for key, entry in state_bits(other).items():
        found = counted.get(key, {})
        assert found == {name: value for name, value in entry.items() if name in found or name != "step"}


@each
def test_every_rule_and_setting(name: str, settings: Settings) -> None:
    def make() -> list[Any]:
        params = [p for dtype in FORMATS for p in parameters(((3, 4), (0,), (), (7,)), dtype)]
        return [*params, torch.nn.Parameter(parameters(((5, 2),))[0].detach().t())]

    params, others = twins(make)
    one, other = ours(name, params, **settings), core(name, others, **settings)
    for seed in range(4):
        set_gradients(params, seed)
        set_gradients(others, seed)
        if seed == 1:  # absent now and then
            for absent in (*params[:3], *others[:3]):
                absent.grad = None
        one.step()
        other.step()
    assert_same(one, other, params, others)
    if one.state[params[0]].get("step") is not None:
        assert int(one.state[params[0]]["step"]) == 3
        assert int(one.state[params[-1]]["step"]) == 4


def laid_out(value: Any, order: list[int], gap: int, offset: int) -> Any:
    """A tensor of the same numbers whose dimensions lie in memory in another order, with gaps, its beginning misaligned."""
    outer = [value.shape[d] * gap for d in order]
    memory = torch.full((offset + torch.Size(outer).numel(),), torch.nan, dtype=value.dtype)
    view = memory[offset:].view(outer)[tuple(slice(None, None, gap) for _ in order)]
    view = view.permute([order.index(d) for d in range(len(order))])
    return view.copy_(value)


@FEW
@given(
    case=st.sampled_from(CASES),
    sizes=st.lists(shapes(3), min_size=1, max_size=4),
    dtype=st.sampled_from(FORMATS),
    gradient_dtype=st.sampled_from((None, *FORMATS)),
    orders=st.randoms(use_true_random=False),
    gap=st.integers(1, 3),
    offset=st.integers(0, 3),
    masters=st.sampled_from((None, True, False)),
)
def test_any_layout_and_dtype(
    case: tuple[str, Settings],
    sizes: Any,
    dtype: Any,
    gradient_dtype: Any,
    orders: Any,
    gap: int,
    offset: int,
    masters: Any,
) -> None:
    name, settings = case
    order = [orders.sample(range(len(shape)), len(shape)) for shape in sizes]

    def make() -> list[Any]:
        values = [p.detach() for p in parameters(sizes, dtype)]
        return [torch.nn.Parameter(laid_out(value, own, gap, offset)) for value, own in zip(values, order, strict=True)]

    params, others = twins(make)
    one, other = (
        ours(name, params, master_weights=masters, **settings),
        core(name, others, master_weights=masters, **settings),
    )
    for seed in range(3):
        step_both(one, other, params, others, seed, dtype=gradient_dtype)
    for p in (*params, *others):  # strides that differ from the parameter's
        p.grad = laid_out(p.grad, list(range(p.dim()))[::-1], gap, 1)
    one.step()
    other.step()
    assert_same(one, other, params, others)


OPTIONS: dict[str, Settings] = {
    "packed": {"pack": True},
    "clipped": {"max_grad_norm": 0.5},
    "clipped and packed": {"max_grad_norm": 0.5, "pack": True, "group_norms": True},
    "skipping": {"skip_nonfinite": True},
    "average": {"ema_decay": 0.7},
    "mean, no master weights": {"polyak_average": True, "master_weights": False},
    "capturable": {"capturable": True},
    "all": {"max_grad_norm": 1.0, "skip_nonfinite": True, "ema_decay": 0.7, "pack": True, "capturable": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["AdamW", "SGD", "NAdam", "RMSprop"])
def test_options_of_the_package(name: str, options: Settings) -> None:
    # Packed, only float32: an absent gradient is zero there for both.
    dtypes = (torch.float32, torch.bfloat16)
    params, others = twins(lambda: [p for dtype in dtypes for p in parameters(dtype=dtype)])
    groups, other_groups = ([{"params": own[:2]}, {"params": own[2:], "lr": 0.02}] for own in (params, others))
    settings = {"lr": 0.01, **({"momentum": 0.9} if name in ("SGD", "RMSprop") else {}), **options}
    one, other = ours(name, groups, **settings), core(name, other_groups, **settings)
    for seed in range(5):
        set_gradients(params, seed)
        set_gradients(others, seed)
        if seed == 2 and "skip_nonfinite" in options:
            params[1].grad[0] = others[1].grad[0] = inf
        one.step()
        other.step()
    assert_same(one, other, params, others)
    assert one.steps_skipped == other.steps_skipped == ("skip_nonfinite" in options)
    if "max_grad_norm" in options:
        assert same_bits([one.grad_norm], [other.grad_norm])
    if "group_norms" in options:
        assert same_bits([one.group_grad_norms], [other.group_grad_norms])
    if one.state[params[0]].get("average") is not None:
        with one.averaged(), other.averaged():
            assert same_bits(params, others)
        assert same_bits(params, others)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "Adagrad"])
def test_a_grad_scaler_hands_its_scale_to_a_fused_step(name: str) -> None:
    params, others = twins(parameters)
    one, other = ours(name, params, fused=True, lr=0.01), core(name, others, lr=0.01)
    scalers = [torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2) for _ in range(2)]
    for seed in range(6):
        for scaler, opt, own in ((scalers[0], one, params), (scalers[1], other, others)):
            set_gradients(own, seed)
            for p in own:
                p.grad.mul_(scaler.scale(torch.ones(())))
            if seed == 3:
                own[0].grad[0, 0] = inf
            scaler.step(opt)
            scaler.update()
    assert scalers[0].state_dict() == scalers[1].state_dict()
    assert scalers[0].get_scale() != 8.0
    assert_same(one, other, params, others)


def test_groups_edited_between_steps() -> None:
    params, others = twins(lambda: parameters(((3,), (4,), (5,))))
    groups, other_groups = (
        [{"params": own[:1], "lr": torch.tensor([0.1])}, {"params": own[1:], "betas": (0.5, 0.6), "eps": 1e-3}]
        for own in (params, others)
    )
    other_groups[0]["lr"] = torch.tensor(0.1)
    one, other = ours("Adam", groups), core("Adam", other_groups)
    for seed in range(6):
        for opt in (one, other):
            opt.param_groups[0]["lr"].fill_(0.1 / (1 + seed))
            opt.param_groups[1]["lr"] = 0.01 * seed
            opt.param_groups[1]["amsgrad"] = seed >= 2
            opt.param_groups[0]["maximize"] = seed == 4
            opt.param_groups[1]["decoupled_weight_decay"] = seed > 3
            opt.param_groups[1]["weight_decay"] = 0.1
        step_both(one, other, params, others, seed)
    assert_same(one, other, params, others)


@pytest.mark.parametrize("name", ["Adam", "SGD", "Adagrad"])
def test_complex_parameters_are_pairs_of_reals(name: str) -> None:
    pairs = [p.detach() for p in parameters(((3, 2), (2,), (0, 2)), torch.float64)]
    params = [torch.nn.Parameter(torch.view_as_complex(pair.clone())) for pair in pairs]
    others = [torch.nn.Parameter(pair.clone()) for pair in pairs]
    one, other = (
        ours(name, params, lr=0.1, weight_decay=0.1, max_grad_norm=2.0),
        core(name, others, lr=0.1, weight_decay=0.1, max_grad_norm=2.0),
    )
    for seed in range(3):
        set_gradients(params, seed)
        for p, q in zip(params, others, strict=True):
            if seed == 1:
                p.grad = p.grad.conj()  # which autograd leaves to be computed
            q.grad = torch.view_as_real(p.grad.resolve_conj()).clone()
        one.step()
        other.step()
    assert same_bits(map(torch.view_as_real, params), others)
    assert same_bits([one.grad_norm], [other.grad_norm])


@pytest.mark.parametrize("name", ["SparseAdam", "Adam", "SGD", "Adagrad"])
def test_sparse_gradients(name: str) -> None:
    params, others = twins(lambda: parameters(((6, 3), (4, 2))))
    one, other = ours(name, params, lr=0.1), core(name, others, lr=0.1)
    rows = torch.tensor([[4, 0, 4]])
    for seed in range(3):
        values = parameters(((3, 3), (3, 2)), seed=seed)
        for p, q, value in zip(params, others, values, strict=True):
            row = rows.clamp(max=p.shape[0] - 1)
            p.grad = torch.sparse_coo_tensor(row, value.detach(), p.shape, check_invariants=True)
            q.grad = torch.sparse_coo_tensor(row, value.detach(), q.shape, check_invariants=True)
        one.step()
        other.step()
    assert_same(one, other, params, others)


def test_special_values() -> None:
    values = torch.tensor([0.0, -0.0, 1e-45, -1e-40, inf, -inf, torch.nan, 3e38, 1.0])
    params, others = twins(lambda: [torch.nn.Parameter(values.flip(0).clone()), torch.nn.Parameter(values.bfloat16())])
    one, other = ours("Adam", params, amsgrad=True), core("Adam", others, amsgrad=True)
    for shift in range(4):
        for p in (*params, *others):
            p.grad = values.roll(shift).to(p.dtype)
        one.step()
        other.step()
    assert_same(one, other, params, others)
