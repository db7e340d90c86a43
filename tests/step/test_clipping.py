"""Clipping by the global norm: its value, its bits, what it does to a step, and what a step remembers of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_adam import GpuAdam, GpuSgd
from gpu_adam.engines import cpu
from gpu_adam.engines.threads import ThreadPool
from gpu_adam.plan.policy import CPU_POLICY
from tests.support.reference import DTYPES, assert_same_bits, clip_factor, norm
from tests.support.strategies import FEW, formats, laid_out, layouts, shapes, tame, values


def some(names: Sequence[str], sizes: Sequence[int], seed: int) -> list[np.ndarray]:
    return [tame(DTYPES[name], size, seed + k, 9) for k, (name, size) in enumerate(zip(names, sizes, strict=True))]


NAMES = ("float32", "float16", "bfloat16", "float64", "float32", "float32")
SIZES = (5000, 1023, 1024, 1025, 0, 1)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("most", [1e-3, 1.0, 1e9, 0.0])
def test_a_clipped_step_is_a_step_on_gradients_times_the_factor(most: float, pack: bool) -> None:
    clipped, plain = some(NAMES, SIZES, 0), some(NAMES, SIZES, 0)
    one, other = GpuAdam(clipped, max_grad_norm=most, pack=pack), GpuAdam(plain, pack=pack)
    for step in range(3):
        grads = some(NAMES, SIZES, 100 * step)
        kept = [g.copy() for g in grads]
        one.step(grads)
        measured = norm(grads)
        assert float(one.grad_norm) == measured
        factor = clip_factor(measured, most)
        widened = [g.astype(np.float64 if g.dtype == np.float64 else np.float32) for g in grads]
        other.step([g.dtype.type(factor) * g for g in widened])
        for p, q in zip(one.params, other.params, strict=True):
            assert_same_bits(p, q, f"step {step}")
        for g, k in zip(grads, kept, strict=True):
            assert_same_bits(g, k, "the gradient is not written to")


def test_clip_in_the_step_is_clip_then_step_within_the_rounding_of_the_gradient() -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = torch.ones(5000), torch.ones(5000)
    one, other = GpuAdam([ours], max_grad_norm=1.0), GpuAdam([theirs])
    rng = np.random.default_rng(0)
    for _ in range(5):
        g = torch.from_numpy(rng.standard_normal(5000).astype(np.float32))
        one.step([g])
        theirs.grad = g.clone()
        of_torch = torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        assert float(one.grad_norm) == pytest.approx(float(of_torch), rel=1e-6)
        other.step()
    # torch's norm is a sum in float32 and its factor rounded there: the clipped gradients, below 0.1, are within some units of 2^-24 of
    # each other relative to themselves, and so are the weighted sums of them and of their squares.
    for name, largest in (("exp_avg", 0.1), ("exp_avg_sq", 0.01)):
        mine, torchs = (optimizer.state_dict()["state"][0][name] for optimizer in (one, other))
        torch.testing.assert_close(mine, torchs, rtol=0, atol=16 * 2.0**-24 * largest)


def test_the_plan_moves_32_bytes_a_parameter() -> None:
    p = [np.ones(1000, np.float32), np.ones(77, np.float32)]
    optimizer = GpuAdam(p, max_grad_norm=1.0)
    assert optimizer.plan.bytes_moved == 32 * 1077
    assert len(optimizer.plan.launches) + len(optimizer.plan.prologues) == 2
    text = str(optimizer.plan)
    assert "2 launches" in text
    assert "norm of 2 gradients" in text


@FEW
@given(formats, shapes(), st.data())
def test_the_norm_depends_on_nothing_but_the_elements_order(
    name: str, shape: tuple[int, ...], data: st.DataObject
) -> None:
    dtype = DTYPES[name]
    size = math.prod(shape)
    g = tame(dtype, size, 3, 9).reshape(shape)
    placed = laid_out(g, data.draw(layouts(len(shape))))
    optimizer = GpuAdam([np.zeros(shape, dtype)], max_grad_norm=math.inf)
    optimizer.step([placed])
    assert float(optimizer.grad_norm) == norm([g])


@pytest.mark.parametrize("offset", range(5))
@pytest.mark.parametrize("name", sorted(DTYPES))
def test_misaligned_gradients_have_the_same_norm(name: str, offset: int) -> None:
    block = tame(DTYPES[name], 3010, 1, 9)
    g = block[offset : offset + 3000]
    optimizer = GpuAdam([np.zeros(3000, DTYPES[name])], max_grad_norm=math.inf)
    optimizer.step([g])
    assert float(optimizer.grad_norm) == norm([g.copy()])


def test_an_elements_place_is_that_in_its_parameters_memory() -> None:
    g = values(DTYPES["float32"], 3000, 1, 0.0).reshape(50, 60)
    for p, order in ((np.zeros((50, 60), np.float32), g), (np.zeros((60, 50), np.float32).T, g.T)):
        optimizer = GpuAdam([p], max_grad_norm=math.inf)
        optimizer.step([g])
        assert float(optimizer.grad_norm) == norm([np.ascontiguousarray(order)])


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_same_norm(threads: int, pack: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "SERIAL", 1000)
    monkeypatch.setattr(cpu.engine(), "pool", ThreadPool(threads))
    monkeypatch.setattr(cpu.engine(), "policy", CPU_POLICY)
    sizes = (300_000, 5, 70_000, 1024)
    grads = some(("float32",) * 4, sizes, 1)
    optimizer = GpuAdam(some(("float32",) * 4, sizes, 2), max_grad_norm=1.0, pack=pack)
    optimizer.step(grads)
    assert float(optimizer.grad_norm) == norm(grads)


def test_thousands_of_tensors() -> None:
    grads = some(("float32",) * 2000, [k % 7 * 300 for k in range(2000)], 0)
    optimizer = GpuAdam([np.zeros_like(g) for g in grads], max_grad_norm=math.inf)
    optimizer.step(grads)
    assert float(optimizer.grad_norm) == norm(grads)


def test_a_gradient_that_is_none_has_no_part_in_the_norm() -> None:
    grads: list[Any] = some(NAMES, SIZES, 4)
    grads[0] = None
    optimizer = GpuAdam(some(NAMES, SIZES, 5), max_grad_norm=1.0)
    optimizer.step(grads)
    assert float(optimizer.grad_norm) == norm(grads[1:])


def test_gradients_reallocated_each_step_are_measured_where_they_are() -> None:
    optimizer = GpuAdam([np.zeros(1500, np.float32), np.zeros(10, np.float32)], max_grad_norm=1.0)
    alive = []
    for seed in range(5):
        grads = some(("float32", "float32"), (1500, 10), seed)
        alive.append(grads)
        optimizer.step(grads)
        assert float(optimizer.grad_norm) == norm(grads)


def test_no_gradients_and_empty_ones_have_the_norm_0() -> None:
    optimizer = GpuAdam([np.zeros((0, 3), np.float32)], max_grad_norm=1.0)
    optimizer.step([np.zeros((0, 3), np.float32)])
    assert float(optimizer.grad_norm) == 0.0


def test_each_groups_norm() -> None:
    sizes = ((2000, 3), (), (1500,))
    groups = [{"params": some(("float32",) * len(s), s, k)} for k, s in enumerate(sizes)]
    optimizer = GpuAdam(groups, max_grad_norm=1.0, group_norms=True)
    grads = [some(("float32",) * len(s), s, 10 + k) for k, s in enumerate(sizes)]
    optimizer.step([g for group in grads for g in group])
    assert float(optimizer.grad_norm) == norm([g for group in grads for g in group])
    assert optimizer.group_grad_norms.tolist() == [norm(group) for group in grads]
    optimizer.add_param_group({"params": some(("float32",), (5,), 7)})
    late = some(("float32",), (5,), 8)
    optimizer.step([g for group in (*grads, late) for g in group])
    assert optimizer.group_grad_norms.tolist() == [norm(group) for group in (*grads, late)]


def test_a_norm_is_a_copy_of_the_parameters_library() -> None:
    torch = pytest.importorskip("torch")
    p = torch.ones(3)
    optimizer = GpuAdam([p], max_grad_norm=math.inf)
    optimizer.step([torch.full((3,), 2.0)])
    copied = optimizer.grad_norm
    assert isinstance(copied, torch.Tensor)
    assert copied.dtype == torch.float64
    assert copied.shape == ()
    optimizer.step([torch.zeros(3)])
    assert float(copied) == math.sqrt(12)


def test_the_norm_is_that_of_the_unscaled_gradients() -> None:
    g = some(("float16",), (3000,), 1)
    optimizer = GpuAdam([np.zeros(3000, np.float16)], max_grad_norm=1.0)
    optimizer.step([g[0] * np.float16(8)], grad_scale=8.0)
    assert float(optimizer.grad_norm) == norm([g[0] * np.float16(8)], 8.0)


def test_gradients_too_large_for_float32_squares_are_measured() -> None:
    g = np.full(4, 1e30, np.float32)
    optimizer = GpuAdam([np.zeros(4, np.float32)], max_grad_norm=1.0)
    optimizer.step([g])
    assert float(optimizer.grad_norm) == norm([g]) != math.inf
    assert np.isfinite(optimizer.params[0]).all()


def test_infinity_measures_only() -> None:
    p, q = some(("float32",), (2000,), 1), some(("float32",), (2000,), 1)
    one, other = GpuAdam(p, max_grad_norm=math.inf), GpuAdam(q)
    for g in (*some(("float32",), (2000,), 2), np.full(2000, np.inf, np.float32)):
        one.step([g])
        other.step([g])
    assert_same_bits(p[0], q[0])


def test_the_limit_may_be_changed_between_steps() -> None:
    optimizer = GpuAdam([np.zeros(4, np.float32)], betas=(0.0, 0.0), max_grad_norm=1.0)
    for most in (1.0, 0.25, None, 2.0):
        optimizer.max_grad_norm = most
        optimizer.step([np.full(4, 8.0, np.float32)])
        factor = 1.0 if most is None else np.float32(clip_factor(16.0, most))
        assert optimizer.state_dict()["state"][0]["exp_avg"][0] == np.float32(8.0) * factor
    assert optimizer.state_dict()["state"][0]["step"] == 4


@pytest.mark.parametrize(
    ("most", "error", "message"),
    [
        (-1.0, ValueError, r"max_grad_norm=-1.0: must be in \[0, ∞\]"),
        (math.nan, ValueError, "max_grad_norm=nan"),
        ("1", TypeError, "max_grad_norm='1': must be a number"),
        (True, TypeError, "max_grad_norm=True: must be a number"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(most: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GpuAdam([np.zeros(4)], max_grad_norm=most)


@pytest.mark.parametrize("options", [{}, {"capturable": True}])
def test_without_measuring_there_is_no_norm(options: dict[str, Any]) -> None:
    optimizer = GpuAdam([np.zeros(4)], **options)
    optimizer.step([np.ones(4)])
    with pytest.raises(RuntimeError, match="no norm was measured"):
        _ = optimizer.grad_norm
    with pytest.raises(RuntimeError, match="group_norms=True"):
        _ = optimizer.group_grad_norms


def test_steps_with_no_or_fewer_gradients_have_norms_of_their_own() -> None:
    optimizer = GpuAdam([{"params": [np.ones(3)]}, {"params": [np.ones(3)]}], max_grad_norm=math.inf, group_norms=True)
    optimizer.step([[np.ones(3)], [np.ones(3)]])
    optimizer.step([[np.full(3, 3.0)], [None]])
    assert optimizer.group_grad_norms.tolist() == [math.sqrt(27), 0.0]
    optimizer.step([[None], [None]])
    assert float(optimizer.grad_norm) == 0.0
    assert optimizer.group_grad_norms.tolist() == [0.0, 0.0]


def test_a_limit_that_is_set_while_a_step_looks_for_it_is_the_next_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    p, g = np.zeros(3, np.float32), [np.full(3, 10, np.float32)]
    optimizer = GpuSgd([p], lr=1.0, max_grad_norm=1.0)
    asks = GpuSgd._asks

    def asked(self: GpuSgd, *args: Any) -> Any:
        monkeypatch.setattr(GpuSgd, "_asks", asks)
        self.max_grad_norm = 1e-3  # as the handler of a signal may
        return asks(self, *args)

    monkeypatch.setattr(GpuSgd, "_asks", asked)
    optimizer.step(g)
    for _ in range(2):
        before = p.copy()
        optimizer.step(g)
        assert np.linalg.norm(p - before) == pytest.approx(1e-3, rel=1e-4)
