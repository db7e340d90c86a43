"""The bits of the CPU engine are those of the arithmetic as it is written down, whatever the formats, options, layouts and values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_adam import GpuAdam
from gpu_adam.engines import cpu
from gpu_adam.engines.threads import ThreadPool
from gpu_adam.plan.policy import CPU_POLICY
from tests.support.reference import (
    DTYPES,
    Options,
    Reference,
    assert_same_bits,
    bits,
    fma_float32,
    fma_float64,
    nearest_float32,
)
from tests.support.strategies import FEW, PROVE, formats, laid_out, layouts, options, shapes, special_values, values

STATES = {"exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "v_max", "master": "master"}

EVERY_OPTION = {
    "defaults": Options(),
    "L2 decay": Options(weight_decay=0.1),
    "decoupled decay": Options(weight_decay=0.1, decoupled_weight_decay=True),
    "maximize": Options(maximize=True, weight_decay=0.1),
    "no bias correction": Options(bias_correction=False),
    "eps_hat": Options(eps_hat=True, eps=1e-3),
    "amsgrad": Options(amsgrad=True, weight_decay=0.01),
    "betas of 0": Options(betas=(0.0, 0.0)),
    "eps of 0": Options(eps=0.0),
    "lr of 0": Options(lr=0.0, weight_decay=0.1, decoupled_weight_decay=True),
    "lr of t": Options(lr=lambda t: 0.1 / math.sqrt(t)),
}


def check_steps(
    p: np.ndarray, gradients: Sequence[np.ndarray], chosen: Options, expected_p: np.ndarray | None = None, **how: Any
) -> GpuAdam:
    """Step, and after each step compare parameter and states with the reference."""
    reference = Reference(np.array(p if expected_p is None else expected_p), how.get("master_weights") is not False)
    optimizer = GpuAdam([p], **vars(chosen), **how)
    for gradient in gradients:
        optimizer.step([gradient])
        reference.step(np.array(gradient), chosen)
        compare(optimizer, reference)
    return optimizer


def compare(optimizer: GpuAdam, reference: Reference) -> None:
    assert_same_bits(optimizer.params[0], reference.p, f"parameter at step {reference.t}")
    state = optimizer.state_dict()["state"][0]
    assert state.pop("step") == reference.t
    for name, value in state.items():
        assert_same_bits(value, getattr(reference, STATES[name]), f"{name} at step {reference.t}")


def gradients_like(p: np.ndarray, dtype: np.dtype, seed: int, count: int = 3, special: float = 0.2) -> list[np.ndarray]:
    return [values(dtype, p.size, 1000 * seed + k, special).reshape(p.shape) for k in range(count)]


# The reference itself.


@pytest.mark.parametrize(
    ("a", "b", "c", "expected"),
    [
        (1 + 2.0**-12, 1 + 2.0**-12, -1 - 2.0**-11, 2.0**-24),  # unfused: 0
        (1 + 2.0**-23, 1 - 2.0**-24, 0.0, 1 + 2.0**-24 - 2.0**-47),  # just below a tie
        (2.0**-75, 2.0**-75, 2.0**-149, 2.0**-148),  # a tie
        (2.0**-75, 2.0**-75, 0.0, 0.0),  # a tie between 0 and the smallest subnormal
        (2.0**-75, 2.0**-74, -0.0, 2.0**-149),
        (2.0**64, 2.0**64, -math.inf, -math.inf),
        (2.0**64, 2.0**64, 0.0, math.inf),
        (-0.0, 1.0, -0.0, -0.0),
        (-0.0, 1.0, 0.0, 0.0),
        (1.0, 1.0, -1.0, 0.0),
        (math.inf, 0.0, 1.0, math.nan),
    ],
)
def test_the_reference_fma_of_float32_rounds_once(a: float, b: float, c: float, expected: float) -> None:
    a32, b32, c32 = (np.array([x], np.float32) for x in (a, b, c))
    with np.errstate(all="ignore"):
        assert_same_bits(fma_float32(a32, b32, c32), np.array([expected], np.float64).astype(np.float32))


@pytest.mark.parametrize(
    ("a", "b", "c", "expected"),
    [
        (1 + 2.0**-27, 1 + 2.0**-27, -1 - 2.0**-26, 2.0**-54),
        (2.0**-538, 2.0**-538, 5e-324, 5e-324),
        (2.0**-538, 2.0**-537, 0.0, 0.0),
        (2.0**512, 2.0**512, -math.inf, -math.inf),
        (2.0**512, 2.0**512, 0.0, math.inf),
        (-(2.0**512), 2.0**512, 0.0, -math.inf),
        (-0.0, 1.0, -0.0, -0.0),
        (-0.0, 1.0, 0.0, 0.0),
        (-1e-200, 1e-200, 0.0, -0.0),
        (-1.0, 1.0, 1.0, 0.0),
        (math.inf, 0.0, 1.0, math.nan),
        (1.0, math.nan, 1.0, math.nan),
    ],
)
def test_the_reference_fma_of_float64_rounds_once(a: float, b: float, c: float, expected: float) -> None:
    assert_same_bits(np.array([fma_float64(a, b, c)]), np.array([expected]))


@given(st.data())
@PROVE
def test_the_reference_fma_of_float32_agrees_with_fractions(data: st.DataObject) -> None:
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    a, b = (np.float32(data.draw(numbers)) for _ in range(2))
    near = np.float32(-float(a) * float(b)) if data.draw(st.booleans()) else np.float32(data.draw(numbers))
    c = near if np.isfinite(near) else np.float32(1)
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if exact:
        found = fma_float32(*(np.array([x]) for x in (a, b, c)))[0]
        assert float(found) == float(nearest_float32(exact))


# The engine against it.


@pytest.mark.parametrize("chosen", EVERY_OPTION.values(), ids=EVERY_OPTION)
@pytest.mark.parametrize("name", DTYPES)
def test_every_option_gives_the_written_bits_in_every_format(name: str, chosen: Options) -> None:
    p = values(DTYPES[name], 261, seed=1)
    check_steps(p, gradients_like(p, DTYPES[name], seed=2), chosen)


@pytest.mark.parametrize("grad", DTYPES)
@pytest.mark.parametrize("param", DTYPES)
def test_a_gradient_of_any_format_is_widened_exactly(param: str, grad: str) -> None:
    p = values(DTYPES[param], 130, seed=3)
    check_steps(p, gradients_like(p, DTYPES[grad], seed=4), Options(weight_decay=0.1))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_without_master_weights_16_bit_parameters_are_rounded_every_step(name: str) -> None:
    p = values(DTYPES[name], 261, seed=5)
    check_steps(p, gradients_like(p, DTYPES[name], seed=6), Options(), master_weights=False)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_master_weights_keep_what_16_bits_would_lose(name: str) -> None:
    p, q = np.ones(1, DTYPES[name]), np.ones(1, DTYPES[name])
    kept, rounded = GpuAdam([p], lr=1e-4), GpuAdam([q], lr=1e-4, master_weights=False)
    for _ in range(100):
        kept.step([np.ones_like(p)])
        rounded.step([np.ones_like(q)])
    assert float(q[0]) == 1.0
    assert float(p[0]) < 1.0


@given(formats, formats, options, st.integers(0, 10**6))
@PROVE
def test_any_options_and_values_give_the_written_bits(param: str, grad: str, chosen: Options, seed: int) -> None:
    # AMSGrad only where the formats agree, which bounds the number of kernels to compile.
    p = values(DTYPES[param], 37, seed)
    check_steps(p, gradients_like(p, DTYPES[grad], seed + 1), replace(chosen, amsgrad=chosen.amsgrad and param == grad))


@given(st.sampled_from(["float32", "bfloat16"]), st.data())
@PROVE
def test_any_shape_stride_and_alignment_gives_the_written_bits(name: str, data: st.DataObject) -> None:
    shape = data.draw(shapes())
    size = math.prod(shape)
    seed = data.draw(st.integers(0, 10**6))
    original = values(DTYPES[name], size, seed).reshape(shape)
    p = laid_out(original, data.draw(layouts(len(shape))))
    grads = [
        laid_out(gradient, data.draw(layouts(len(shape))))
        for gradient in gradients_like(original, DTYPES[name], seed, 2)
    ]
    around = surroundings(p)
    check_steps(p, grads, Options(weight_decay=0.1), expected_p=original)
    assert (surroundings(p) == around).all()


def surroundings(p: np.ndarray) -> np.ndarray:
    """The words of the memory that a view looks into, those of the view itself 0."""
    base = p
    while isinstance(base.base, np.ndarray):
        base = base.base
    saved = p.copy()
    p[...] = 0
    words = bits(base).copy()
    p[...] = saved
    return words


@pytest.mark.parametrize("p_offset", range(4))
@pytest.mark.parametrize("g_offset", range(4))
def test_misaligned_views_give_the_written_bits_and_touch_nothing_else(p_offset: int, g_offset: int) -> None:
    dtype = DTYPES["float16"]
    memory, source = values(dtype, 1040, 1), values(dtype, 1040, 2)
    before = memory.copy()
    p, g = memory[p_offset : p_offset + 1001], source[g_offset : g_offset + 1001]
    check_steps(p, [g, g], Options())
    assert_same_bits(memory[:p_offset], before[:p_offset])
    assert_same_bits(memory[p_offset + 1001 :], before[p_offset + 1001 :])


@given(st.integers(0, 3), st.integers(0, 10**6))
@FEW
def test_all_special_values_meet_each_other(swap: int, seed: int) -> None:
    special = special_values(DTYPES["float32"])
    p, g = (part.ravel() for part in np.meshgrid(special, special))
    rng = np.random.default_rng(seed)
    chosen = Options(
        weight_decay=0.5 * (swap % 2), decoupled_weight_decay=swap > 1, eps=0.0 if swap else 1e-8, amsgrad=True
    )
    check_steps(p.copy(), [g, rng.permutation(g), rng.permutation(g)], chosen)


def test_state_that_is_already_special_is_carried_on_by_the_arithmetic() -> None:
    special = special_values(DTYPES["float32"])
    m, v = (part.ravel() for part in np.meshgrid(special, special))
    p, g = np.ones_like(m), np.full_like(m, 0.25)
    optimizer = GpuAdam([p], amsgrad=True)
    saved = {"step": 6, "exp_avg": m, "exp_avg_sq": v, "max_exp_avg_sq": np.roll(v, 1)}
    optimizer.load_state_dict({"state": {0: saved}, "param_groups": optimizer.state_dict()["param_groups"]})
    reference = Reference(p)
    reference.t, reference.m, reference.v, reference.v_max = 6, m, v, np.roll(v, 1)
    optimizer.step([g])
    reference.step(g, Options(amsgrad=True))
    compare(optimizer, reference)


@pytest.mark.parametrize("t", [1, 2, 255, 256, 2047, 2048, 2**24 - 1, 2**24, 2**31, 2**40])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_bias_correction_is_exact_at_any_step_count(name: str, t: int) -> None:
    p = values(DTYPES[name], 7, 1, special=0)
    moments = {
        "exp_avg": values(DTYPES[name], 7, 2, special=0),
        "exp_avg_sq": abs(values(DTYPES[name], 7, 3, special=0)),
    }
    optimizer, reference = GpuAdam([p], lr=0.5), Reference(p)
    optimizer.load_state_dict(
        {"state": {0: {"step": t - 1, **moments}}, "param_groups": optimizer.state_dict()["param_groups"]}
        if t > 1
        else optimizer.state_dict()
    )
    optimizer.param_groups[0]["lr"] = 0.5
    if t > 1:
        reference.t, reference.m, reference.v = t - 1, moments["exp_avg"], moments["exp_avg_sq"]
    g = values(DTYPES[name], 7, 4, special=0)
    optimizer.step([g])
    reference.step(g, Options(lr=0.5))
    compare(optimizer, reference)


@pytest.mark.parametrize("name", DTYPES)
def test_many_steps_stay_on_the_written_bits(name: str) -> None:
    p = values(DTYPES[name], 3, 1, special=0)
    check_steps(p, gradients_like(p, DTYPES[name], 5, count=200, special=0), Options(weight_decay=0.01))


def test_a_constant_gradient_is_a_fixed_point_of_the_moments() -> None:
    g = np.array([0.1, -3.0, 1e-3], np.float32)
    optimizer = GpuAdam([np.zeros(3, np.float32)], betas=(0.0, 0.0))
    for _ in range(3):
        optimizer.step([g])
    optimizer.param_groups[0]["betas"] = (0.9, 0.999)
    for _ in range(50):
        optimizer.step([g])
    assert_same_bits(optimizer.state_dict()["state"][0]["exp_avg"], g)


def test_the_gradient_may_be_the_parameter_itself() -> None:
    for shape, transpose in (((1000,), False), ((30, 40), True)):
        original = values(DTYPES["float32"], math.prod(shape), 1).reshape(shape)
        p = original.copy()[..., ::2] if transpose else original.copy()
        reference = Reference(p)
        GpuAdam([p], lr=0.1).step([p])
        reference.step(reference.p.copy(), Options(lr=0.1))
        assert_same_bits(p, reference.p)


# The same bits whatever the packing, the chunks and the threads.

MIXED_SIZES = (0, 1, 3, 255, 0, 256, 257, 5000, 1, 70_001)


def several(name: str, seed: int) -> list[np.ndarray]:
    return [values(DTYPES[name], size, seed + k) for k, size in enumerate(MIXED_SIZES)]


def final_bits(optimizer: GpuAdam, name: str, steps: int = 2) -> list[np.ndarray]:
    for k in range(steps):
        optimizer.step(several(name, 100 * (k + 1)))
    return [bits(np.array(p)).ravel() for p in optimizer.params]


@pytest.mark.parametrize("name", DTYPES)
def test_flat_and_multi_tensor_and_strided_launches_give_the_same_bits(name: str) -> None:
    multi_tensor = GpuAdam(several(name, 0))
    packed = GpuAdam(several(name, 0), pack=True)
    expected = final_bits(multi_tensor, name)
    for k in range(2):
        for bound, gradient in zip(packed.grads, several(name, 100 * (k + 1)), strict=True):
            bound[...] = gradient
        packed.step()
    families = [{launch.specialization.family for launch in one.plan.launches} for one in (multi_tensor, packed)]
    assert families == [{"multi_tensor"}, {"flat"}]
    for p, words in zip(packed.params, expected, strict=True):
        assert (bits(p) == words).all()
    strided = GpuAdam([np.repeat(p, 2)[::2] for p in several(name, 0)])
    for words, other in zip(final_bits(strided, name), expected, strict=True):
        assert (words == other).all()
    assert "strided" in str(strided.plan)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("pack", [False, True])
def test_any_number_of_threads_gives_the_same_bits(threads: int, pack: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = final_bits(GpuAdam(several("float32", 0)), "float32")
    monkeypatch.setattr(cpu, "SERIAL", 1000)
    monkeypatch.setattr(cpu.engine(), "pool", ThreadPool(threads))
    optimizer = GpuAdam(several("float32", 0), pack=pack)
    for k in range(2):
        for bound, gradient in zip(optimizer.grads, several("float32", 100 * (k + 1)), strict=True):
            if pack:
                bound[...] = gradient
        optimizer.step(None if pack else several("float32", 100 * (k + 1)))
    for p, words in zip(optimizer.params, expected, strict=True):
        assert (bits(p) == words).all()


@pytest.mark.parametrize("chunk", [1, 8, 64, 4096, 1 << 20])
def test_any_chunk_size_gives_the_same_bits(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = final_bits(GpuAdam(several("float32", 0)), "float32")
    monkeypatch.setattr(cpu.engine(), "policy", replace(CPU_POLICY, min_chunk=chunk, max_chunk=chunk))
    for optimizer in (GpuAdam(several("float32", 0)), GpuAdam([np.repeat(p, 2)[::2] for p in several("float32", 0)])):
        for words, other in zip(final_bits(optimizer, "float32"), expected, strict=True):
            assert (words == other).all()


def test_options_here_are_those_of_the_optimizer() -> None:
    defaults = GpuAdam([np.zeros(1)]).defaults
    assert asdict(Options()) == defaults
