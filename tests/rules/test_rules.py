"""Every optimizer's steps: those of the paper that it is from, and to the bit those that its docstring states."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import paper_oracle
from gpu_adam.kernels.abi import RECORD_WORDS, ROW_WORDS
from gpu_adam.kernels.rules import nadam
from gpu_adam.kernels.rules.rule import power
from tests.rules.rule_programs import assert_as_written
from tests.rules.rule_references import Reference
from tests.support.reference import DTYPES, assert_same_bits
from tests.support.rule_cases import CASES, SETTINGS, Settings, each, gradients, parameters
from tests.support.shipped import OPTIMIZERS
from tests.support.strategies import FEW, PROVE, laid_out, layouts, special_values, values

STEPS = 100

TOLERANCE = 1e-11
"""Relative and absolute, to parameters of size about 1: float64, with some ten roundings of 1.1e-16 a step, each of which later steps
carry on. RMSProp's centered variance is the difference of two sums, and loses up to two digits of them.
"""

# ---- The papers ---------------------------------------------------------------------------------------------------------------------

BY_LR = {"constant": 0.01, "falling": lambda t: 0.01 / math.sqrt(t)}
COMMON: dict[str, Settings] = {
    "plain": {},
    "L2": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
}
PAPERS: list[tuple[str, type[paper_oracle.Rule], Settings, Settings]] = [
    # The optimizer, its oracle, what both are given, and what the optimizer is besides.
    ("GpuAdaMax", paper_oracle.AdaMax, {}, {"eps": 0.0}),
    ("GpuAdaMax", paper_oracle.AdaMax, {"betas": (0.5, 0.75)}, {"eps": 0.0}),
    ("GpuSgd", paper_oracle.Momentum, {}, {}),
    ("GpuSgd", paper_oracle.Momentum, {"momentum": 0.9}, {}),
    ("GpuSgd", paper_oracle.Momentum, {"momentum": 0.9, "nesterov": True}, {}),
    ("GpuAdaGrad", paper_oracle.AdaGrad, {}, {}),
    ("GpuAdaGrad", paper_oracle.AdaGrad, {"eps": 0.1}, {}),
    ("GpuRmsProp", paper_oracle.RmsProp, {}, {}),
    ("GpuRmsProp", paper_oracle.RmsProp, {"alpha": 0.5, "eps": 0.1, "momentum": 0.5}, {}),
    ("GpuRmsProp", paper_oracle.RmsProp, {"alpha": 0.9, "centered": True}, {}),
    ("GpuRmsProp", paper_oracle.RmsProp, {"alpha": 0.9, "centered": True, "momentum": 0.9}, {}),
    ("GpuAdaDelta", paper_oracle.AdaDelta, {}, {}),
    ("GpuAdaDelta", paper_oracle.AdaDelta, {"rho": 0.5, "eps": 1e-3}, {}),
    ("GpuNAdam", paper_oracle.NAdam, {}, {}),
    ("GpuNAdam", paper_oracle.NAdam, {"betas": (0.5, 0.9), "momentum_decay": 0.1, "eps": 0.1}, {}),
]


@pytest.mark.parametrize("common", COMMON.values(), ids=COMMON)
@pytest.mark.parametrize("lr", BY_LR.values(), ids=BY_LR)
@pytest.mark.parametrize(("name", "paper", "both", "ours"), PAPERS, ids=lambda one: getattr(one, "__name__", str(one)))
def test_it_follows_the_paper(
    name: str, paper: type[paper_oracle.Rule], both: Settings, ours: Settings, lr: Any, common: Settings
) -> None:
    if both.get("momentum") and paper is paper_oracle.RmsProp and callable(lr):
        lr = 0.01  # Graves has the learning rate inside of the sum
    (p,) = parameters((50,))
    model, optimizer = paper(p, lr=lr, **both, **common), OPTIMIZERS[name]([p], lr=lr, **both, **ours, **common)
    for (g,) in gradients((50,), STEPS):
        model.step(g)
        optimizer.step([g])
    np.testing.assert_allclose(p, model.theta, rtol=TOLERANCE, atol=TOLERANCE)


def test_adamax_is_adam_with_a_norm_of_high_order() -> None:
    # Section 7.1: u is the limit of (Σ (1-β2^p) β2^(p(t-i)) |g_i|^p)^(1/p).
    (p,) = parameters((20,))
    optimizer = OPTIMIZERS["GpuAdaMax"]([p], eps=0.0, betas=(0.9, 0.9))
    seen: list[np.ndarray] = []
    for (g,) in gradients((20,), 10):
        optimizer.step([g])
        seen.append(g)
    order = 2000.0
    logs = [order * ((9 - i) * math.log(0.9) + np.log(abs(g))) for i, g in enumerate(seen)]  # as numbers they underflow
    norm = np.exp(np.logaddexp.reduce(logs, axis=0) / order)
    np.testing.assert_allclose(optimizer.state_dict()["state"][0]["exp_inf"], norm, rtol=2e-3)


def test_rmsprop_centered_divides_by_no_root_of_less_than_nothing() -> None:
    # With a gradient that never changes v and m·m end up equal but for roundings; torch takes the root of their difference.
    p = np.linspace(0.1, 3.0, 1000, dtype=np.float32)
    optimizer = OPTIMIZERS["GpuRmsProp"]([p], centered=True, alpha=0.5, eps=1e-3)
    g = p.copy()
    for _ in range(100):
        optimizer.step([g])
    state = optimizer.state_dict()["state"][0]
    below = state["square_avg"].astype(np.float64) - state["grad_avg"].astype(np.float64) ** 2 < 0
    assert below.any(), "the example has no difference below 0"
    assert np.isfinite(p).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("format", ["float64", "float32"])
def test_a_quadratic_is_minimised(name: str, format: str) -> None:
    chosen: Settings = {"GpuAdaGrad": {"lr": 0.5}, "GpuAdaDelta": {"eps": 1e-4}, "GpuSgd": {"lr": 0.1}}.get(
        name, {"lr": 0.05}
    )
    w, target = np.zeros(12, format), np.linspace(-1, 1, 12).astype(format)
    optimizer = OPTIMIZERS[name]([w], **chosen)
    for t in range(400):
        if name in ("GpuAdaMax", "GpuRmsProp"):
            optimizer.param_groups[0]["lr"] = 0.1 / math.sqrt(1 + t)  # steps that keep their size circle around it
        optimizer.step([w - target])
    assert abs(w - target).max() < 0.02


# ---- Bits ---------------------------------------------------------------------------------------------------------------------------

FORMATS = [
    # Of parameter and gradient, and whether there are master weights; the formats of `shipped.formats_of`.
    ("float64", "float64", False),
    ("float32", "float32", False),
    ("float16", "float32", False),
    ("bfloat16", "bfloat16", True),
]


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("formats", FORMATS, ids=str)
@each
def test_every_setting_gives_the_written_bits(
    name: str, settings: Settings, formats: tuple[str, str, bool], pack: bool
) -> None:
    param, grad, master = formats
    sizes = (33, 1, 0, 5) if param == "float64" else (257, 1, 0, 35)
    params = parameters(sizes, DTYPES[param])
    references = [Reference(name, p, master) for p in params]
    optimizer = OPTIMIZERS[name](params, pack=pack, master_weights=master, **settings)
    for step, grads in enumerate(gradients(sizes, 3, DTYPES[grad])):
        optimizer.step(grads)
        for reference, g in zip(references, grads, strict=True):
            reference.step(g, settings)
        assert_as_written(optimizer, references, f"step {step}")


@pytest.mark.parametrize("formats", FORMATS, ids=str)
@each
def test_special_values_go_where_the_arithmetic_takes_them(
    name: str, settings: Settings, formats: tuple[str, str, bool]
) -> None:
    param, grad, master = formats
    # Each special value with each; of the exact arithmetic of float64, which is slow to write out, a part.
    pairs = list(product(special_values(DTYPES[param]), special_values(DTYPES[grad])))[
        :: 31 if param == "float64" else 1
    ]
    p, g = (
        np.array(one).astype(DTYPES[kind]) for one, kind in zip(zip(*pairs, strict=True), (param, grad), strict=True)
    )
    reference = Reference(name, p, master)
    optimizer = OPTIMIZERS[name]([p], master_weights=master, **settings)
    for step in range(3):
        optimizer.step([g])
        reference.step(g, settings)
        assert_as_written(optimizer, [reference], f"step {step}")
        g = np.roll(g, 7)


@PROVE
@given(st.sampled_from(CASES), st.sampled_from(FORMATS), st.integers(0, 40), st.integers(0, 1000))
def test_values_of_all_magnitudes(
    case: tuple[str, Settings], formats: tuple[str, str, bool], size: int, seed: int
) -> None:
    (name, settings), (param, grad, master) = case, formats
    p = values(DTYPES[param], size, seed, 0.1)
    reference = Reference(name, p, master)
    optimizer = OPTIMIZERS[name]([p], master_weights=master, **settings)
    for step in range(3):
        g = values(DTYPES[grad], size, 7 * seed + step + 1, 0.1)
        optimizer.step([g])
        reference.step(g, settings)
        assert_as_written(optimizer, [reference], f"step {step}")


SHAPES = st.lists(st.integers(1, 4), max_size=3).flatmap(
    lambda shape: st.tuples(st.just(tuple(shape)), layouts(len(shape)), layouts(len(shape)))
)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_strides(name: str) -> None:
    @FEW
    @given(st.sampled_from(list(SETTINGS[name].values())), SHAPES, st.integers(0, 1000))
    def strided(settings: Settings, where: Any, seed: int) -> None:
        shape, at, grad_at = where
        p = laid_out(values(DTYPES["float32"], math.prod(shape), seed).reshape(shape), at)
        reference = Reference(name, p)
        optimizer = OPTIMIZERS[name]([p], **settings)
        for step in range(2):
            g = values(DTYPES["float32"], math.prod(shape), 7 * seed + step + 1).reshape(shape)
            optimizer.step([laid_out(g, grad_at)])
            reference.step(g, settings)
            assert_as_written(optimizer, [reference], f"step {step}")

    strided()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_zero_gradient_changes_no_bit_of_the_parameter(name: str) -> None:
    for settings in SETTINGS[name].values():
        p = values(np.dtype(np.float32), 50, 1, 0.0)
        before = p.copy()
        optimizer = OPTIMIZERS[name]([p], **{**settings, "weight_decay": 0.0})
        for _ in range(3):
            optimizer.step([np.zeros(50, np.float32)])
        assert_same_bits(p, before, str(settings))


@pytest.mark.parametrize("momentum_decay", [0.0, 0.004, 0.34, 1.0, 100.0])
@pytest.mark.parametrize("beta1", [0.0, 0.9, 0.9999, 1 - 2.0**-50])
def test_nadam_multiplies_few_momenta_for_the_product_of_all(beta1: float, momentum_decay: float) -> None:
    """A GPU does it in one thread, in each captured step."""
    products = 0

    def mul(a: float, b: float) -> float:
        nonlocal products
        products += 1
        return a * b

    h, row = np.zeros(RECORD_WORDS), np.zeros(ROW_WORDS)
    h[[nadam.BETA1, nadam.BETA2, nadam.Q]] = beta1, 0.999, 0.96**momentum_decay
    coefficients = nadam.nadam_coefficients(mul, math.sqrt, lambda x, wide: x, power(mul))
    for t in (1, 20, 3000, 100_000):
        coefficients(h, t, True, row)
        wanted = np.prod(beta1 * (1 - 0.5 * h[nadam.Q] ** np.arange(1, t + 1)))
        np.testing.assert_allclose(row[nadam.PRODUCT], wanted, rtol=1e-9, atol=nadam.NEGLIGIBLE)
    products = 0
    coefficients(h, 1 << 50, True, row)
    assert products < 4 * 2700


# NAdam's momentum at once where it comes to in the end: the product of the momenta is then as large as it can be.
AT_COUNTS = [*CASES, ("GpuNAdam", {"momentum_decay": 100.0, "betas": (0.9, 0.99)})]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("t", [1, 20, 150, 399, 401, 2047, 1 << 24, (1 << 40) + 12345])
def test_step_counts_do_not_stall_and_give_the_written_bits(name: str, t: int) -> None:
    for settings in (settings for one, settings in AT_COUNTS if one == name):
        p = parameters((3,))[0]
        reference = Reference(name, p)
        optimizer = OPTIMIZERS[name]([p], **settings)
        for g in (np.ones(3), np.full(3, 0.3)):
            optimizer.step([g])
            reference.step(g, settings)
            assert_as_written(optimizer, [reference], f"{settings}")
            saved = optimizer.state_dict()
            saved["state"][0]["step"] = reference.t = t
            optimizer.load_state_dict(saved)
        optimizer.step([np.ones(3)])
        assert optimizer.state_dict()["state"][0]["step"] == t + 1
        assert np.isfinite(p).all()
