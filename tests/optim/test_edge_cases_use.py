"""The edge cases of use (state, groups, addresses, copies), lines 12 to 20 of the list in test_edge_cases.py, on the CPU engine."""

from __future__ import annotations

import copy
import gc
import os
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.support.reference import DTYPES, assert_same_bits, bits
from tests.support.strategies import values

f32, f16, bf16 = np.float32, np.float16, np.dtype(ml_dtypes.bfloat16)


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
    # Between devices, and between engines that differ, it moves in test_every_library_state.py; between libraries in test_checkpoint.py.
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
    # More of it in test_shown_and_copied.py.
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
