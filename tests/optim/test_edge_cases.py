"""The edge cases that have broken other optimizers, by number, on the CPU engine: each test is named after its line.

The lines are those of the project's list of edge cases. What they ask of GPUs alone is tested elsewhere:

| line | what a GPU adds                                         | file                                                                 |
| ---- | ------------------------------------------------------- | -------------------------------------------------------------------- |
| 2, 3 | tails, heads and indices of the CUDA kernels            | test_cuda_update.py, test_numba_cuda_simulated.py, engines/test_*.py |
| 4, 5 | strides; gradients that come and go                     | test_every_library.py                                                |
| 8    | lr = 0 in a captured graph                              | no captured graphs yet; refused in engines/test_*.py                 |
| 13   | state from the CPU to the GPU and back, between engines | test_every_library.py                                                |
| 15   | host arrays among device arrays; two devices            | test_every_library.py; without a GPU test_dlpack.py                  |
| 16   | pointer tables; addresses that are used again           | engines/test_*.py, test_numba_cuda_simulated.py                      |
| 17   | the caller's stream                                     | test_every_library.py; an engine's alone engines/test_*.py           |
| 17   | host staging memory                                     | test_cupy_engine.py, test_every_library.py                           |
| 17   | launches that fail                                      | none: no test makes the driver refuse one                            |
| 18   | synchronisation, device allocations                     | test_every_library.py; of the host test_memory.py                    |
| 20   | the cache folder                                        | test_kernel_cache.py; threads in test_threads.py                     |
"""

from __future__ import annotations

import copy
import gc
import math
import os
import pickle
from collections.abc import Sequence
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.support.reference import DTYPES, Options, Reference, assert_same_bits, bits
from tests.support.strategies import special_values, values

f32, f16, bf16 = np.float32, np.float16, np.dtype(ml_dtypes.bfloat16)


def check_list(sizes: Sequence[int], name: str = "float32", pack: bool = False) -> GpuAdam:
    """Step tensors of these sizes twice, and compare each with the reference."""
    params = [values(DTYPES[name], size, k) for k, size in enumerate(sizes)]
    references = [Reference(p) for p in params]
    optimizer = GpuAdam(params, pack=pack)
    for seed in (1000, 2000):
        gradients = [values(DTYPES[name], size, seed + k) for k, size in enumerate(sizes)]
        optimizer.step(gradients)
        for reference, gradient in zip(references, gradients, strict=True):
            reference.step(gradient, Options())
    for p, reference in zip(optimizer.params, references, strict=True):
        assert_same_bits(p, reference.p)
    return optimizer


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [(0,), (0, 0, 0), (0, 5), (5, 0), (0, 0, 3, 0, 0, 0, 4, 0, 0), (3, 0, 0, 4)],
    ids=lambda sizes: "-".join(map(str, sizes)),
)
def test_1_empty_tensors_first_in_the_middle_last_in_a_row_and_alone(sizes: Sequence[int], pack: bool) -> None:
    optimizer = check_list(sizes, pack=pack)
    assert [state["step"] for state in optimizer.state_dict()["state"].values()] == [2] * len(sizes)


@pytest.mark.parametrize("pack", [False, True])
def test_1_no_parameters_at_all(pack: bool) -> None:
    optimizer = GpuAdam([{"params": []}, {"params": {}}], pack=pack)
    optimizer.step()
    optimizer.step([[], {}])
    assert optimizer.state_dict()["state"] == {}


def test_1_empty_tensors_of_many_dimensions() -> None:
    params = [np.zeros(shape, f32) for shape in ((0, 3), (3, 0), (2, 0, 4), (0,) * 10)]
    for pack in (False, True):
        optimizer = GpuAdam(params, pack=pack)
        optimizer.step([np.zeros(p.shape, f32) for p in params])
        assert [p.shape for p in optimizer.params] == [p.shape for p in params]


@pytest.mark.parametrize("count", [1, 2, 30, 31, 36, 37, 320, 321, 3000])
def test_2_any_number_of_tensors(count: int) -> None:
    # The compared ones are few, since the reference is slow; each has a value of its own.
    params = [np.full(1 + k % 3, k, f32) for k in range(count)]
    optimizer = GpuAdam(params, lr=0.5, eps=0.0)
    optimizer.step([np.ones(p.shape, f32) for p in params])
    assert all((p == f32(k - 0.5)).all() for k, p in enumerate(params))
    assert len(optimizer.plan.launches) == 1


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("sizes", [(1, 2, 3, 4, 5), (255, 256, 257), (65_535, 65_536, 65_537)], ids=str)
def test_2_any_size(sizes: Sequence[int], name: str) -> None:
    check_list(sizes, name)


def free_bytes() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except OSError:
        return 0


@pytest.mark.slow
@pytest.mark.skipif(free_bytes() < 64 << 30, reason="needs 64 GiB of free memory")
def test_2_above_2_to_the_31_elements() -> None:
    # float16 without master weights, and a gradient of stride 0: 4 GiB of parameter and 16 GiB of moments.
    size = (1 << 31) + 5
    p = np.ones(size, f16)
    for shape, gradient in (((size,), np.broadcast_to(f16(1), (size,))), ((size,), None)):
        optimizer = GpuAdam([p.reshape(shape)], lr=0.25, eps=0.0, master_weights=False)
        before = p[0].copy()
        optimizer.step([p if gradient is None else gradient])
        assert p[0] != before
        assert (p == p[0]).all()
        del optimizer
        gc.collect()


@pytest.mark.parametrize("name", DTYPES)
def test_3_misaligned_views_whose_alignments_differ(name: str) -> None:
    memory, source = values(DTYPES[name], 80, 1), values(DTYPES[name], 80, 2)
    params, gradients, references = [], [], []
    for p_offset, g_offset, size in product(range(4), range(4), (1, 7, 37)):
        params.append(memory.copy()[p_offset : p_offset + size])
        gradients.append(source[g_offset : g_offset + size])
        references.append(Reference(params[-1]))
    optimizer = GpuAdam(params)
    for _ in range(2):
        optimizer.step(gradients)
        for reference, gradient in zip(references, gradients, strict=True):
            reference.step(gradient, Options())
    for p, reference in zip(params, references, strict=True):
        assert_same_bits(p, reference.p)
    assert {launch.specialization.family for launch in optimizer.plan.launches} == {"multi_tensor"}


VIEWS = {
    "transposed": lambda a: a.transpose(3, 1, 0, 2),
    "channels-last": lambda a: np.moveaxis(a, -1, 1),
    "every other": lambda a: a[:, ::2, :, ::3],
    "reversed": lambda a: a[::-1, :, ::-1],
    "0-dimensional": lambda a: a[1:2, 2:3, 1:2, 3:4].reshape(()),
    "one column": lambda a: a[:, :1, :, 2:3],
    "Fortran": lambda a: a.T,
}


@pytest.mark.parametrize("other", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_4_non_contiguous_parameters_whose_gradients_strides_differ(view: Any, other: Any) -> None:
    memory = values(DTYPES["float32"], 2 * 6 * 4 * 6, 1).reshape(2, 6, 4, 6)
    p = view(memory)
    source = other(memory.copy())
    # The gradient has the parameter's shape and the other view's habits.
    g = (
        np.zeros_like(source, shape=p.shape)
        if source.ndim != p.ndim
        else np.empty_like(source, shape=p.shape, order="K")
    )
    g[...] = values(DTYPES["float32"], p.size, 2).reshape(p.shape)
    outside, reference = memory.copy(), Reference(p)
    GpuAdam([p]).step([g])
    reference.step(np.array(g), Options())
    assert_same_bits(p, reference.p)
    view(outside)[...] = p
    assert_same_bits(memory, outside)  # nothing else has changed


def test_4_dimensions_of_size_1_with_odd_strides() -> None:
    memory = np.ones(64, f32)
    p = np.lib.stride_tricks.as_strided(memory, (1, 3, 1, 4), (4 * 7, 16, 4 * 13, 4))
    g = np.lib.stride_tricks.as_strided(np.ones(64, f32), (1, 3, 1, 4), (0, 4, 4 * 99, 12))
    optimizer = GpuAdam([p], lr=0.5, eps=0.0)
    optimizer.step([g])
    assert (memory[:12] == 0.5).all()
    assert (memory[12:] == 1).all()


def test_5_a_none_gradient_changes_nothing_of_its_parameter() -> None:
    pattern = [(1, 1, 1), (1, 0, 1), (0, 0, 0), (0, 1, 1), (1, 1, 0), (1, 1, 1)]
    for pack in (False, True):
        params = [values(DTYPES[name], 300, k) for k, name in enumerate(("float32", "float32", "bfloat16"))]
        references = [Reference(p) for p in params]
        optimizer = GpuAdam(params, pack=pack, amsgrad=True)
        for t, present in enumerate(pattern):
            gradients = [
                values(DTYPES["float32"], 300, 10 * t + k) if there else None for k, there in enumerate(present)
            ]
            optimizer.step(gradients)
            for reference, gradient in zip(references, gradients, strict=True):
                if gradient is not None:
                    reference.step(gradient, Options(amsgrad=True))
            for p, reference in zip(optimizer.params, references, strict=True):
                assert_same_bits(p, reference.p)
        assert [state["step"] for state in optimizer.state_dict()["state"].values()] == [4, 4, 4]


def test_5_a_parameter_unfrozen_late_starts_at_step_1() -> None:
    early, late, alone = np.ones(3, f32), np.ones(3, f32), np.ones(3, f32)
    optimizer, other = GpuAdam([early, late]), GpuAdam([alone])
    for _ in range(10):
        optimizer.step([np.ones(3, f32), None])
    for _ in range(3):
        optimizer.step([np.ones(3, f32)] * 2)
        other.step([np.ones(3, f32)])
    assert_same_bits(late, alone)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize(
    "options", [{}, {"amsgrad": True}, {"maximize": True}, {"eps_hat": True}, {"bias_correction": False}], ids=str
)
def test_6_zero_gradients_without_decay_leave_the_bits(name: str, options: dict[str, Any]) -> None:
    p = special_values(DTYPES[name])
    with np.errstate(invalid="ignore"):  # one of the NaNs is a signalling one
        p = p[~np.isnan(p)].copy()
    before = p.copy()
    optimizer = GpuAdam([p], **options)
    for _ in range(3):
        optimizer.step([np.zeros_like(p)])
        optimizer.step([-np.zeros_like(p)])
    assert_same_bits(p, before)


def test_7_several_dtypes_in_one_group_step_once_a_call() -> None:
    params = [np.ones(5, dtype) for dtype in DTYPES.values()]
    optimizer = GpuAdam(params, lr=0.25, eps=0.0)
    for t in (1, 2, 3):
        optimizer.step([np.ones_like(p) for p in params])
        assert [state["step"] for state in optimizer.state_dict()["state"].values()] == [t] * 4
    assert all(abs(p.astype(float) - 0.25).max() < 1e-2 for p in params)


def test_8_a_learning_rate_of_zero_changes_the_moments_alone() -> None:
    p = values(DTYPES["float32"], 50, 1, special=0)
    before = p.copy()
    optimizer = GpuAdam([p], lr=0.0, weight_decay=0.1, decoupled_weight_decay=True)
    optimizer.step([np.ones(50, f32)])
    assert_same_bits(p, before)
    assert (optimizer.state_dict()["state"][0]["exp_avg"] > 0).all()


def test_8_betas_of_zero_are_legal() -> None:
    p = np.zeros(3)
    optimizer = GpuAdam([p], lr=0.5, betas=(0.0, 0.0), eps=0.0)
    for _ in range(3):
        optimizer.step([np.array([1.0, -2.0, 3.0])])
    assert p.tolist() == [-1.5, 1.5, -1.5]


@pytest.mark.parametrize(
    "betas", [(1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, -0.0001), (math.nan, 0.9), (0.9, math.nan)]
)
def test_8_other_betas_are_refused(betas: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"betas\[[01]\]=.* of the defaults: must be in \[0, 1\)"):
        GpuAdam([np.ones(1)], betas=betas)


def test_8_an_eps_of_zero_makes_zero_over_zero_a_nan() -> None:
    p = np.ones(2, f32)
    GpuAdam([p], eps=0.0).step([np.array([0, 1], f32)])
    assert np.isnan(p[0])
    assert p[1] == f32(1 - 1e-3)
    assert "NaN" in (GpuAdam.__doc__ or "")


def test_9_edits_between_steps_take_effect() -> None:
    p = values(DTYPES["float32"], 20, 1, special=0)
    reference, options = Reference(p), Options()
    optimizer = GpuAdam([p])
    for k, edit in enumerate(({}, {"lr": 0.5}, {"betas": (0.5, 0.5)}, {"weight_decay": 0.25}, {"lr": np.array(0.125)})):
        options = Options(**{**vars(options), **edit})
        optimizer.param_groups[0].update(edit)
        gradient = values(DTYPES["float32"], 20, 10 + k)
        optimizer.step([gradient])
        reference.step(gradient, options)
        assert_same_bits(p, reference.p, f"after {edit}")


def test_9_a_longer_array_as_learning_rate_is_refused() -> None:
    optimizer = GpuAdam([np.ones(1)])
    optimizer.param_groups[0]["lr"] = np.ones(1)
    with pytest.raises(ValueError, match=r"lr of group 0 has shape \(1,\): must be a number or a 0-dimensional array"):
        optimizer.step([np.ones(1)])


@pytest.mark.parametrize("t", [255, 256, 2047, 2048, (1 << 24) - 1, 1 << 24, (1 << 24) + 1])
@pytest.mark.parametrize("name", DTYPES)
def test_10_step_counts_do_not_stall(name: str, t: int) -> None:
    p = np.ones(1, DTYPES[name])
    optimizer = GpuAdam([p])
    zeros = np.zeros(1)
    saved = {
        "state": {0: {"step": t, "exp_avg": zeros, "exp_avg_sq": zeros}},
        "param_groups": optimizer.state_dict()["param_groups"],
    }
    optimizer.load_state_dict(saved)
    for _ in range(3):
        optimizer.step([np.ones_like(p)])
    assert optimizer.state_dict()["state"][0]["step"] == t + 3


def test_11_nan_and_infinity_propagate_by_the_arithmetic() -> None:
    gradients = np.array([math.nan, math.inf, -math.inf, 1.0, 1e30, -1e30], f32)
    p = np.ones(6, f32)
    reference = Reference(p)
    optimizer = GpuAdam([p])
    for gradient in (gradients, np.ones(6, f32), gradients[::-1].copy()):
        optimizer.step([gradient])
        reference.step(gradient, Options())
        assert_same_bits(p, reference.p)
    assert np.isnan(p).tolist() == [True, True, True, True, True, True]


def test_11_a_nan_stays_in_the_maximum_of_amsgrad() -> None:
    p = np.ones(2, f32)
    optimizer = GpuAdam([p], amsgrad=True)
    optimizer.step([np.array([1, math.nan], f32)])
    saved = optimizer.state_dict()
    saved["state"][0]["exp_avg_sq"] = saved["state"][0]["exp_avg"] = np.ones(2, f32)
    optimizer.load_state_dict(saved)
    optimizer.step([np.ones(2, f32)])
    assert np.isnan(optimizer.state_dict()["state"][0]["max_exp_avg_sq"]).tolist() == [False, True]


def test_11_negative_zero_and_subnormals_survive() -> None:
    for name, dtype in DTYPES.items():
        tiny = np.array([1, 2, 3], f"u{dtype.itemsize}").view(dtype)
        p = np.concatenate((-np.zeros(1, dtype), tiny, -tiny))
        before = p.copy()
        GpuAdam([p], lr=0.0).step([np.zeros_like(p)])
        assert_same_bits(p, before, name)
        gradient = np.concatenate((np.zeros(1, dtype), tiny, -tiny))
        optimizer = GpuAdam([p], betas=(0.0, 0.999))
        optimizer.step([gradient])
        kept = optimizer.state_dict()["state"][0]["exp_avg"]
        assert_same_bits(kept, gradient.astype(kept.dtype), name)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("master", [False, True])
def test_11_rounding_past_the_largest_number_gives_infinity_and_ties_go_to_even(name: str, master: bool) -> None:
    dtype = DTYPES[name]
    step = float(np.spacing(np.array(1, dtype)))
    largest = float(ml_dtypes.finfo(dtype).max)
    half = (
        float(np.array(largest, np.float64) - np.nextafter(np.array(largest, dtype), dtype.type(0)).astype(float)) / 2
    )
    for start, move, expected in (
        (largest, half, math.inf),  # the tie beyond the largest number, whose last bit is odd
        (largest, 0.75 * half, largest),
        (1.0, step / 2, 1.0),
        (1.0 + step, step / 2, 1.0 + 2 * step),
        (1.0, step * (0.5 + 2.0**-10), 1.0 + step),
    ):
        p = np.array([start], dtype)
        optimizer = GpuAdam([p], lr=float(move), betas=(0.0, 0.0), eps=0.0, maximize=True, master_weights=master)
        optimizer.step([np.ones(1, f32)])
        assert float(p[0]) == expected, (start, move)


def test_12_saving_and_loading_is_exact_for_every_format() -> None:
    # More of it in test_checkpoint.py.
    params = [values(dtype, 20, k) for k, dtype in enumerate(DTYPES.values())]
    optimizer = GpuAdam(params, amsgrad=True)
    optimizer.step([values(p.dtype, 20, 9) for p in params])
    twins = [p.copy() for p in params]
    other = GpuAdam(twins)
    other.load_state_dict(optimizer.state_dict())
    for one in (optimizer, other):
        one.step([values(p.dtype, 20, 10) for p in params])
    assert all((bits(p) == bits(q)).all() for p, q in zip(params, twins, strict=True))


def test_13_auto_is_the_cpu_engine_for_host_arrays_so_state_goes_from_cpu_to_cpu_unchanged() -> None:
    # Between devices, and between engines that differ, it moves in test_every_library.py; between libraries in test_checkpoint.py.
    p = np.ones(3, f32)
    optimizer = GpuAdam([p], engine="cpu")
    optimizer.step([p.copy()])
    other = GpuAdam([p.copy()], engine="auto")
    assert "engine=cpu" in repr(other)
    other.load_state_dict(optimizer.state_dict())
    assert repr(other.state_dict()) == repr(optimizer.state_dict())


def test_14_groups_added_late_and_empty_groups() -> None:
    optimizer = GpuAdam([{"params": []}])
    optimizer.step()
    p = np.ones(2, f32)
    optimizer.add_param_group({"params": [p]})
    optimizer.add_param_group({"params": []})
    optimizer.step([[], [np.ones(2)], []])
    assert p[0] < 1
    assert [len(group["params"]) for group in optimizer.param_groups] == [0, 1, 0]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (lambda a: [a, a], "parameter 0 of group 0 and parameter 1 of group 0 are the same array"),
        (lambda a: [a, a.view()], "parameter 0 of group 0 and parameter 1 of group 0 are the same array"),
        (lambda a: [a, a[::-1]], "parameter 0 of group 0 and parameter 1 of group 0 overlap in memory"),
        (lambda a: [a[:3], a[2:]], "parameter 0 of group 0 and parameter 1 of group 0 overlap in memory"),
        (lambda a: [a, a.view(f16)], "parameter 0 of group 0 and parameter 1 of group 0 overlap in memory"),
        (lambda a: [{"params": {"x": a}}, {"params": {"y": a}}], "parameter 'x' and parameter 'y' are the same array"),
    ],
    ids=["same", "same view", "reversed", "shared end", "other format", "across groups"],
)
def test_14_duplicates_and_overlaps_are_refused(groups: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GpuAdam(groups(np.ones(6, f32)))


def test_14_a_duplicate_in_a_group_added_late_is_refused() -> None:
    p = np.ones(2, f32)
    optimizer = GpuAdam([p])
    with pytest.raises(ValueError, match="parameter 0 of group 0 and parameter 'p' are the same array"):
        optimizer.add_param_group({"params": {"p": p}})
    assert len(optimizer.param_groups) == 1


def test_14_interleaved_views_that_share_no_element_are_taken() -> None:
    memory = np.ones((4, 6), f32)
    GpuAdam([memory[:, k] for k in range(6)], lr=0.5, eps=0.0).step([np.ones(4)] * 6)
    assert (memory == 0.5).all()


def test_14_a_set_has_no_order() -> None:
    with pytest.raises(TypeError, match="is a set, which has no order: give a list or a dict"):
        GpuAdam({1, 2})


def test_15_a_host_array_given_to_a_gpu_engine_is_a_clear_error() -> None:
    # A device array given to the CPU engine is in test_dlpack.py.
    for engine in ("cupy", "numba"):
        with pytest.raises((ValueError, RuntimeError), match=r"engine='auto'|engine='cpu'|GPU|install"):
            GpuAdam([np.ones(1)], engine=engine)


def test_16_a_gradient_reallocated_each_step_is_followed() -> None:
    p, q = np.ones(500, f32), np.ones(500, f32)
    fresh, kept = GpuAdam([p]), GpuAdam([q])
    buffer = np.empty(500, f32)
    for seed in range(12):
        gradient = values(DTYPES["float32"], 500 + seed, seed, special=0)[seed:]
        buffer[...] = gradient
        plan = fresh._dispatcher.executor
        fresh.step([gradient])
        kept.step([buffer])
        assert_same_bits(p, q)
        assert plan is None or fresh._dispatcher.executor is plan, "another address is no reason for another plan"
        del gradient


def test_16_an_address_reused_by_another_format_is_noticed() -> None:
    p, q = np.ones(64, f32), np.ones(64, f32)
    optimizer, other = GpuAdam([p]), GpuAdam([q])
    memory = np.zeros(64 * 8, np.uint8)
    for name in ("float32", "float64", "bfloat16", "float16", "float32"):
        gradient = memory[: 64 * DTYPES[name].itemsize].view(DTYPES[name])
        gradient[...] = values(DTYPES[name], 64, 3, special=0)
        optimizer.step([gradient])
        other.step([gradient.astype(f32) if name != "float64" else gradient.copy()])
        assert_same_bits(p, q)
        del gradient
        gc.collect()


def test_16_an_address_reused_with_other_strides_is_noticed() -> None:
    p, q = np.ones((8, 8), f32), np.ones((8, 8), f32)
    optimizer, other = GpuAdam([p]), GpuAdam([q])
    memory = values(DTYPES["float32"], 64, 3, special=0).reshape(8, 8)
    for gradient in (memory, memory.T, memory, np.broadcast_to(memory[0], (8, 8)), memory.T):
        optimizer.step([gradient])
        other.step([np.ascontiguousarray(gradient)])
        assert_same_bits(p, q)


def test_18_a_gradient_is_not_kept_alive() -> None:
    class Tracked(np.ndarray):
        alive = 0

        def __del__(self) -> None:
            Tracked.alive -= 1

    optimizer = GpuAdam([np.ones(3, f32)])
    for _ in range(3):
        gradient = np.ones(3, f32).view(Tracked)
        Tracked.alive += 1
        optimizer.step([gradient])
        del gradient
        gc.collect()
        assert Tracked.alive == 0


def test_19_deepcopy_pickle_and_repr() -> None:
    # More of it in test_interface.py.
    optimizer = GpuAdam({"p": np.ones(3, bf16)}, lr=0.5)
    optimizer.step({"p": np.ones(3)})
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert repr(twin) == repr(optimizer)
        assert_same_bits(twin.params["p"], optimizer.params["p"])
        assert twin.params["p"] is not optimizer.params["p"]


def test_20_the_cache_folder_is_the_users_own() -> None:
    # Two processes at once and folders that cannot be written are in test_kernel_cache.py, threads in test_threads.py.
    from gpu_adam.engines.compile.disk import cache_dir

    folder = cache_dir()
    assert folder is None or os.access(folder, os.W_OK)
