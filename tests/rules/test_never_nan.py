"""Finite gradients never make a NaN: squares beyond the format, and the steps that are skipped for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_adam import Algorithm, GpuAdam, GpuAdaMax, GpuNAdam, GpuOptimizer, LossScaler, Number, Rule
from gpu_adam.kernels.abi import LR, OWN_0, own
from gpu_adam.kernels.rules.rule import decayed
from tests.rules.states import states_of
from tests.support.reference import DTYPES, is_beyond
from tests.support.rule_cases import SETTINGS, TORCH, Settings
from tests.support.shipped import OPTIMIZERS
from tests.support.strategies import PROVE

SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "sum", "exp_inf")
"""The states that are never negative, and may be infinite."""

EVERY = [(name, chosen) for name, table in SETTINGS.items() for chosen in table.values()]
SUMS_SQUARES = [(name, chosen) for name, chosen in EVERY if name not in ("GpuSgd", "GpuAdaMax")]
WORKING = {"float64": np.float64, "float32": np.float32, "float16": np.float32, "bfloat16": np.float32}


def has_nan(array: Any) -> bool:
    return bool(np.isnan(np.asarray(array).astype(np.float64)).any())


# ---- Squares beyond the format ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("large", [1e20, 1e22, 3e38])
@pytest.mark.parametrize("given", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
@pytest.mark.usefixtures("strict")
def test_a_step_whose_square_is_beyond_the_format_is_skipped(name: str, given: str, large: float, pack: bool) -> None:
    gradients = [np.full(3, g, DTYPES[given]) for g in (large, 1.0, 1.0)]
    skipping = GpuAdam([np.ones(3, DTYPES[name])], lr=0.1, skip_nonfinite=True, pack=pack)
    clipping = GpuAdam([np.ones(3, DTYPES[name])], lr=0.1, skip_nonfinite=True, max_grad_norm=1.0, pack=pack)
    plain = GpuAdam([np.ones(3, DTYPES[name])], lr=0.1)
    for g in gradients:
        skipping.step([g])
        clipping.step([g])
    for g in gradients[1:]:
        plain.step([g])
    assert (skipping.steps_skipped, clipping.steps_skipped) == (1, 0)
    assert np.array_equal(skipping.params[0], plain.params[0])
    assert np.allclose(clipping.params[0].astype(np.float64), 0.7, atol=0.02)


def test_the_format_of_the_bound_is_the_narrowest_of_the_parameters() -> None:
    wide, narrow, other = np.ones(1), np.ones(1, np.float32), np.ones(1)
    large = np.full(1, 1e30)
    alone = GpuAdam([other], skip_nonfinite=True)
    alone.step([large])
    assert alone.steps_skipped == 0
    alone.step([np.full(1, 1e170)])
    assert alone.steps_skipped == 1
    mixed = GpuAdam([{"params": [wide]}, {"params": [narrow]}], skip_nonfinite=True)
    mixed.step([large, np.ones(1)])
    assert mixed.steps_skipped == 1
    mixed.step([large, None])  # one that takes no part counts too
    assert mixed.steps_skipped == 2


@pytest.mark.parametrize("most", [None, 1.0, 1e19, 2e19, math.inf])
@pytest.mark.parametrize("scale", [None, 1e-19, 1.0, 1e4])
@pytest.mark.parametrize("value", [1e15, 1.8e19, 1.9e19, 3e38, 0.0])
def test_the_bound_is_that_of_the_scaled_and_clipped_norm(
    value: float, scale: float | None, most: float | None
) -> None:
    p = np.ones(1, np.float32)
    optimizer = GpuAdam([p], skip_nonfinite=True, max_grad_norm=most)
    optimizer.step([np.full(1, value, np.float32)], grad_scale=scale)
    norm = float(np.float32(value)) / (scale or 1.0)
    assert optimizer.steps_skipped == is_beyond(norm, most, [p.dtype])
    assert not has_nan(p)


def test_a_loss_scaler_backs_off_from_a_square_beyond_the_format() -> None:
    p = np.ones(2, np.float32)
    optimizer = GpuAdam([p])
    scaler = LossScaler(optimizer, init_scale=2.0**10, growth_interval=1)
    optimizer.step([np.full(2, 3e38, np.float32)], grad_scale=scaler)
    assert (optimizer.steps_skipped, scaler.get_scale()) == (1, 2.0**9)
    optimizer.step([np.full(2, 1e20, np.float32)], grad_scale=scaler)  # 2e17 once it is unscaled
    assert (optimizer.steps_skipped, scaler.get_scale()) == (1, 2.0**10)
    assert np.isfinite(p).all()


@pytest.mark.parametrize("name", sorted(DTYPES))
@pytest.mark.parametrize(("optimizer", "chosen"), SUMS_SQUARES, ids=str)
@pytest.mark.usefixtures("strict")
def test_an_element_whose_square_is_beyond_the_format_rests(optimizer: str, chosen: Settings, name: str) -> None:
    p, working = np.ones(3, DTYPES[name]), WORKING[name]
    one = OPTIMIZERS[optimizer]([p], **chosen)
    rests = not chosen.get("momentum")  # one of its own goes on
    one.step([np.array([1.0, 1.0, 0.5], working)])
    for g in (np.finfo(working).max, 1.0, 0.0, -np.finfo(working).max, -2.0):
        before = p.copy()
        one.step([np.array([g, 1.0, 0.5], working)])
        assert not has_nan(p)
        assert not rests or p[0] == before[0]
        assert (p[1:] != before[1:]).all() or p.itemsize == 2
    squares = [value for key, value in states_of(one).items() if key in SQUARES and key != "acc_delta"]
    assert squares
    assert all(value[0] == math.inf and np.isfinite(value[1:]).all() for value in squares)


@pytest.mark.parametrize(("optimizer", "chosen"), SUMS_SQUARES, ids=str)
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_in_a_gradient_shows_where_the_element_rests(
    optimizer: str, chosen: Settings, broken: float
) -> None:
    p = np.ones(2, np.float32)
    one = OPTIMIZERS[optimizer]([p], **chosen)
    one.step([np.array([3e38, 1.0], np.float32)])
    one.step([np.array([broken, 1.0], np.float32)])
    assert np.isnan(p[0])
    assert np.isfinite(p[1])


@pytest.mark.parametrize("optimizer", ["GpuAdam", "GpuRmsProp", "GpuAdaGrad", "GpuAdaDelta", "GpuNAdam"])
def test_it_rests_where_pytorchs_rests(optimizer: str) -> None:
    torch = pytest.importorskip("torch")
    peer_of = getattr(torch.optim, TORCH[optimizer])
    for chosen in SETTINGS[optimizer].values():
        ours, theirs = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
        one, peer = OPTIMIZERS[optimizer]([ours], **chosen), peer_of([theirs], **chosen)
        for value in (1e22, 1.0, -2.0, 0.5):
            for p in (ours, theirs):
                p.grad = torch.tensor([value, 0.25])
            one.step()
            peer.step()
        assert torch.isfinite(theirs).all()
        torch.testing.assert_close(ours.data, theirs.data, rtol=1e-5, atol=1e-6)


# ---- Any finite numbers -------------------------------------------------------------------------------------------------------------

_widths = {"float64": 64, "float32": 32, "float16": 16}
_options: dict[str, st.SearchStrategy[Settings]] = {
    "GpuAdam": st.fixed_dictionaries({"amsgrad": st.booleans(), "eps_hat": st.booleans(), "bias_correction": st.booleans()}),
    "GpuAdaMax": st.fixed_dictionaries({"betas": st.sampled_from([(0.9, 0.999), (0.0, 0.0), (0.5, 0.0), (0.9, 0.1)])}),
    "GpuSgd": st.sampled_from([{}, {"momentum": 0.9}, {"momentum": 0.5, "dampening": 1.0}, {"momentum": 0.9, "nesterov": True}]),
    "GpuAdaGrad": st.fixed_dictionaries({"initial_accumulator_value": st.sampled_from([0.0, 1.0, 3e38])}),
    "GpuRmsProp": st.fixed_dictionaries({"centered": st.booleans(), "momentum": st.sampled_from([0.0, 0.9])}),
    "GpuAdaDelta": st.fixed_dictionaries({"eps": st.sampled_from([1e-6, 1e-45, 1.0, 3e38]), "rho": st.sampled_from([0.9, 0.0])}),
    "GpuNAdam": st.fixed_dictionaries({"betas": st.sampled_from([(0.9, 0.999), (0.0, 0.0), (0.5, 0.9)])}),
}  # fmt: skip


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """An optimizer with options, a format, and gradients anywhere up to the format's largest number."""
    optimizer = draw(st.sampled_from(sorted(_options)))
    name = draw(st.sampled_from(sorted(_widths)))
    largest = float(np.finfo(name).max)
    numbers = st.floats(width=_widths[name], allow_nan=False, allow_infinity=False) | st.sampled_from(
        [0.0, largest, -largest, largest / 2, 1.0, -1.0, 1e-7, min(1e19, largest), min(2e19, largest)]
    ).map(lambda x: float(np.array(x, name)))
    steps = draw(st.lists(st.lists(numbers, min_size=4, max_size=4), min_size=1, max_size=6))
    return {
        "optimizer": optimizer,
        "chosen": draw(_options[optimizer]),
        "lr": draw(st.sampled_from([1e-3, 10.0])),
        "decay": draw(st.sampled_from([{}, {}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}])),
        "name": name,
        "steps": [np.array(values, name) for values in steps],
        "scale": draw(st.sampled_from([None, None, 1.0, 65536.0, 2.0**-60, "scaler"])),
        "most": draw(st.sampled_from([None, None, None, 1.0, 1e30])),
        "skips": draw(st.sampled_from([False, False, True])),
    }  # fmt: skip


@settings(PROVE, max_examples=400)
@given(runs())
def test_finite_gradients_never_make_a_nan(run: dict[str, Any]) -> None:
    p = np.array([1.0, -1.0, 0.0, 0.5], run["name"])
    options = {"lr": run["lr"], **run["decay"], **run["chosen"]}
    optimizer = OPTIMIZERS[run["optimizer"]]([p], max_grad_norm=run["most"], skip_nonfinite=run["skips"], **options)
    scale = run["scale"]
    if scale == "scaler":
        scale = LossScaler(optimizer, init_scale=8.0, growth_interval=2)
    largest = float(np.finfo(WORKING[run["name"]]).max)
    fed = np.ones(4, bool)
    for g in run["steps"]:
        # An infinity is what these are: a gradient beyond the format once it is unscaled or decayed, a parameter that has grown so large.
        divisor = scale.get_scale() if isinstance(scale, LossScaler) else scale or 1.0
        with np.errstate(over="ignore"):
            given = abs(g.astype(np.float64)) / divisor + abs(p.astype(np.float64))
        fed &= np.isfinite(p) & (given <= largest)
        optimizer.step([g], grad_scale=scale)
        assert not has_nan(p[fed])
        for key, value in states_of(optimizer).items():
            assert not has_nan(value[fed]), key
            assert key not in SQUARES or (value[fed] >= 0.0).all()


@settings(PROVE, max_examples=150)
@given(st.sampled_from(EVERY), st.sampled_from(["float32", "float64"]), st.integers(0, 10**6))
def test_finite_states_that_are_loaded_never_make_a_nan(case: tuple[str, Settings], name: str, seed: int) -> None:
    """And an accumulator of squares that is infinite: the element then rests."""
    optimizer, chosen = case
    rng = np.random.default_rng(seed)
    p, largest = np.ones(64, name), np.finfo(name).max
    numbers = np.array([0.0, 1.0, 1e-30, 1e18, 1e20, largest / 4, largest, -1.0, -1e20, -largest], name)
    one = OPTIMIZERS[optimizer]([p], **chosen)
    one.step([np.ones(64, name)])
    saved = one.state_dict()
    for key, value in states_of(one).items():
        drawn = rng.choice(numbers, 64)
        saved["state"][0][key] = rng.choice([*abs(numbers), math.inf], 64).astype(name) if key in SQUARES else drawn
        assert value.dtype == drawn.dtype
    one.load_state_dict(saved)
    before = p.copy()
    finite = np.ones(64, bool)
    for _ in range(3):
        finite &= np.isfinite(p) & np.isfinite(one.state_dict()["state"][0].get("momentum_buffer", p))
        one.step([rng.choice(numbers[[0, 1, 2, 3, 7]], 64)])
        assert not has_nan(p[finite])
    rests = np.zeros(64, bool)
    for key in SQUARES:
        if key in saved["state"][0]:
            rests |= np.isposinf(saved["state"][0][key])
    if chosen.get("momentum", 0) == 0:
        assert np.array_equal(p[rests], before[rests])


@pytest.mark.parametrize("name", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("lr", [1e-3, 1.0, 10.0, 1e30])
def test_nadams_numerator_may_be_infinite_where_the_element_rests(lr: float, name: str) -> None:
    p, largest = np.ones(4, DTYPES[name]), np.finfo(WORKING[name]).max
    optimizer = GpuNAdam([p], lr=lr)
    for sign in (1, -1, 1):
        optimizer.step([np.array([largest, -largest, largest / 3, 0.0], WORKING[name]) * sign])
        assert np.array_equal(p, np.ones(4, DTYPES[name]))


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.0), (0.0, 0.0)])
def test_an_infinite_norm_of_infinite_order_stays_so(betas: tuple[float, float]) -> None:
    p = np.ones(2, np.float32)
    optimizer = GpuAdaMax([p], betas=betas)
    optimizer.step([np.ones(2, np.float32)])
    saved, before = optimizer.state_dict(), p.copy()
    saved["state"][0]["exp_inf"] = np.array([math.inf, 1.0])
    optimizer.load_state_dict(saved)
    for g in (1.0, -3e38, 0.5):
        optimizer.step([np.array([g, 1.0], np.float32)])
        assert p[0] == before[0]
        assert states_of(optimizer)["exp_inf"][0] == math.inf
    assert p[1] < before[1]


# ---- A rule from elsewhere ----------------------------------------------------------------------------------------------------------

W, A = own(2)


def scaled(fma: Callable[..., Any], sqrt: Callable[..., Any]) -> Callable[..., Any]:
    less = decayed(fma)

    def size(v):  # type: ignore[no-untyped-def]
        return sqrt(v)

    def update(p, g, s0, s1, s2, c):  # type: ignore[no-untyped-def]
        v = fma(c[W] * g, g, less(c[W], s0))
        return fma(c[A], g / size(v), p), v, s1, s2

    return update


def scaled_coefficients(mul: Any, sqrt: Any, narrow: Any, power: Any) -> Callable[..., Any]:
    def coefficients(h, t, wide, row):  # type: ignore[no-untyped-def]
        row[W] = 1.0 - h[OWN_0]
        row[A] = -h[LR]

    return coefficients


class Scaled(GpuOptimizer):
    algorithm = Algorithm([Rule("scaled", ("square",), scaled, scaled_coefficients)], [Number("rho", OWN_0, below=1.0)])

    def __init__(self, params: Any, lr: float = 0.1, rho: float = 0.9, **options: Any) -> None:
        super().__init__(params, {"lr": lr, "rho": rho, "weight_decay": 0.0}, **options)


def test_a_rule_from_elsewhere_decays_its_squares_in_the_same_way() -> None:
    p = np.ones(2, np.float32)
    optimizer = Scaled([p])
    for g in (1e30, 1.0, -1.0):
        optimizer.step([np.array([g, 1.0], np.float32)])
    assert p[0] == 1.0
    assert 0.0 < p[1] < 1.0
    assert states_of(optimizer)["square"][0] == math.inf
