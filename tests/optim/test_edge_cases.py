"""The edge cases that have broken other optimizers, by number, on the CPU engine: each test is named after its line.

The lines are those of the project's list of edge cases: 1 to 5 here, 6 to 11 in test_edge_cases_arithmetic.py, 12 to 20 in
test_edge_cases_use.py. What they ask of GPUs alone is tested elsewhere:

| line | what a GPU adds                                         | file                                                                 |
| ---- | ------------------------------------------------------- | -------------------------------------------------------------------- |
| 2, 3 | tails, heads and indices of the CUDA kernels            | test_cuda_update.py, test_numba_cuda_simulated.py, engines/test_*.py |
| 4, 5 | strides; gradients that come and go                     | test_every_library.py                                                |
| 8    | lr = 0 in a captured graph                              | no captured graphs yet; refused in engines/test_*.py                 |
| 13   | state from the CPU to the GPU and back, between engines | test_every_library_state.py                                          |
| 15   | host arrays among device arrays; two devices            | test_every_library_devices.py; without a GPU test_dlpack.py          |
| 16   | pointer tables; addresses that are used again           | engines/test_*.py, test_numba_cuda_simulated.py                      |
| 17   | the caller's stream                                     | test_every_library_streams.py; an engine's alone engines/test_*.py   |
| 17   | host staging memory                                     | test_cupy_engine.py, test_every_library_streams.py                   |
| 17   | launches that fail                                      | none: no test makes the driver refuse one                            |
| 18   | synchronisation, device allocations                     | test_every_library_streams.py; of the host test_memory.py            |
| 20   | the cache folder                                        | test_kernel_cache.py; threads in test_threads.py                     |
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.support.reference import DTYPES, Options, Reference, assert_same_bits
from tests.support.strategies import values

f32, f16 = np.float32, np.float16


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
