"""The chunks and the launches that come out of the planner, and the bytes that they move."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_adam import GpuAdam
from gpu_adam.device import Device
from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Format
from gpu_adam.kernels.abi import MAX_DIMS, ROLES, VECTOR_BYTES
from gpu_adam.kernels.specialization import Specialization
from gpu_adam.plan.launches import Launch, Plan, Task
from gpu_adam.plan.layout import ALIGNMENT
from gpu_adam.plan.policy import CPU_POLICY, GPU_POLICY, Policy
from gpu_adam.plan.scheduling import launches_of
from gpu_adam.strides import walk
from tests.support.reference import DTYPES
from tests.support.shipped import ADAM, AMSGRAD
from tests.support.strategies import PROVE

GPU = Device("cuda", 0)
H100 = 132  # multiprocessors


def task(
    size: int,
    index: int = 0,
    *,
    phase: int = 0,
    param: Format = FLOAT32,
    grad: Format = FLOAT32,
    master: bool = False,
    states: int = 2,
    row: int = 0,
    address: int = 1 << 40,
    strides: int = 1,
) -> Task:
    """A tensor of made-up addresses, which nothing follows."""
    pointers = (address + 2 * phase, *(address << k for k in range(1, 7)))
    how = walk((size,), (strides,), (strides,))
    rule = AMSGRAD if states == 3 else ADAM
    return Task(index, f"t{index}", size, phase, how, row, False, param, grad, master, rule, pointers)


def launched(sizes: list[int], policy: Policy = GPU_POLICY, processors: int = H100, **about: Any) -> tuple[Launch, ...]:
    return launches_of([task(size, k, **about) for k, size in enumerate(sizes)], GPU, processors, policy)


# Chunks.


@pytest.mark.parametrize("processors", [1, 20, 46, 108, 114, 132, 148, 160])
@pytest.mark.parametrize("elements", [1_000_000, 1 << 20, 10_000_000, 1 << 30, (1 << 31) + 5])
def test_a_million_elements_fill_every_multiprocessor(elements: int, processors: int) -> None:
    chunk = GPU_POLICY.chunk(elements, processors)
    assert chunk & (chunk - 1) == 0
    assert GPU_POLICY.min_chunk <= chunk <= GPU_POLICY.max_chunk
    assert -(-elements // chunk) >= processors


def test_chunks_grow_with_the_work() -> None:
    sizes = [GPU_POLICY.chunk(1 << k, H100) for k in range(34)]
    assert sizes == sorted(sizes)
    assert sizes[0] == GPU_POLICY.min_chunk
    assert sizes[-1] == GPU_POLICY.max_chunk


@given(
    st.lists(st.tuples(st.one_of(st.integers(0, 3000), st.just(65_537)), st.integers(0, 7)), max_size=30),
    st.sampled_from([1, 2, 132]),
    st.sampled_from([16, 64, 1024]),  # at least a vector
    st.booleans(),
)
@PROVE
def test_chunk_tables_cover_every_element_exactly_once(
    sizes: list[tuple[int, int]], processors: int, chunk: int, strided: bool
) -> None:
    tasks = [task(size, k, phase=phase, strides=1 + strided) for k, (size, phase) in enumerate(sizes)]
    policy = Policy(min_chunk=chunk, max_chunk=chunk)
    covered = [np.zeros(size, int) for size, _ in sizes]
    for launch in launches_of(tasks, GPU, processors, policy):
        table = launch.table
        assert table is not None
        assert launch.grid == table.chunks
        for segment, start in zip(table.chunk_segments.tolist(), table.chunk_starts.tolist(), strict=True):
            begin, end = int(table.begins[segment]), int(table.ends[segment])
            first, last = max(start, begin), min(start + launch.chunk, end)
            assert first < last, "an empty chunk"
            covered[launch.tasks[segment].index][first - begin : last - begin] += 1
    assert all((count == 1).all() for count in covered)


def test_the_tables_pointers_lead_to_the_first_element() -> None:
    (launch,) = launched([100, 100], phase=3, master=True, param=BFLOAT16, grad=FLOAT64)
    assert launch.table is not None
    sizes = {"param": 2, "grad": 8, "state0": 4, "state1": 4, "master": 4}
    for segment, one in enumerate(launch.tasks):
        for role, itemsize in sizes.items():
            row = ROLES.index(role)
            first = int(launch.table.pointers[row, segment]) + int(launch.table.begins[segment]) * itemsize
            assert first == one.pointers[row]


# Launches.

GPT2_BLOCK = [768, 768, 768 * 2304, 2304, 768 * 768, 768, 768, 768, 768 * 3072, 3072, 3072 * 768, 768]
GPT2 = [50257 * 768, 1024 * 768, *GPT2_BLOCK * 12, 768, 768]


def test_the_148_tensors_of_gpt2_are_one_launch() -> None:
    assert len(GPT2) == 148
    (launch,) = launched(GPT2)
    assert launch.elements == 124_439_808
    assert launch.grid >= H100
    assert (launch.bytes_read, launch.bytes_written) == (16 * launch.elements, 12 * launch.elements)


def test_ten_thousand_tensors_are_one_launch() -> None:
    (launch,) = launched([1 + k % 7 for k in range(10_000)])
    assert len(launch.tasks) == launch.grid == 10_000
    assert "10,000 tensors" in str(launch)


def test_every_kernel_that_is_needed_is_one_launch() -> None:
    tasks = [
        task(5, 0),
        task(5, 1, param=BFLOAT16, master=True),
        task(5, 2),
        task(5, 3, states=3),
        task(5, 4, grad=FLOAT64),
        task(5, 5, strides=2),
        task(0, 6),
    ]
    launches = launches_of(tasks, GPU, H100, GPU_POLICY)
    assert [[one.index for one in launch.tasks] for launch in launches] == [[0, 2], [1], [3], [4], [5]]
    assert len({launch.specialization.name for launch in launches}) == 5


def test_nothing_to_do_is_no_launch() -> None:
    assert launches_of([], GPU, H100, GPU_POLICY) == ()
    assert launches_of([task(0)], GPU, H100, GPU_POLICY) == ()
    assert str(Plan((), (), (), ())) == "step: 0 launches, 0 elements, 0 bytes"


@pytest.mark.parametrize("policy", [GPU_POLICY, CPU_POLICY], ids=["gpu", "cpu"])
def test_sizes_beyond_32_bits_stay_exact(policy: Policy) -> None:
    sizes = [(1 << 31) + 5, 3, (1 << 33) + 1]
    (launch,) = launched(sizes, policy, phase=3)
    table = launch.table
    assert table is not None
    assert table.words.dtype == np.int64
    assert launch.elements == sum(sizes)
    assert table.ends.tolist() == [3 + size for size in sizes]
    for segment, size in enumerate(sizes):
        starts = table.chunk_starts[table.chunk_segments == segment]
        assert (np.diff(starts) == launch.chunk).all()
        assert starts[0] == 0
        assert starts[-1] < size + 3 <= starts[-1] + launch.chunk
    strided = launched([(1 << 31) + 5], policy, strides=1 << 20)[0]
    assert strided.table is not None
    assert strided.table.walks[0, 1] == (1 << 31) + 5
    assert strided.bytes_read == 16 * ((1 << 31) + 5)


def test_a_flat_stretch_beyond_32_bits_is_one_launch() -> None:
    size = (1 << 32) + 7
    whole = Task(0, "all", size, 0, walk((size,), (1,), (1,)), 0, True, FLOAT32, FLOAT32, False, ADAM, (1 << 40,) * 7)
    (launch,) = launches_of([whole], GPU, H100, GPU_POLICY)
    assert launch.table is None
    assert launch.elements == size
    assert launch.grid == -(-size // launch.chunk)


@pytest.mark.parametrize(
    ("param", "grad", "states", "master", "read", "written"),
    [
        (FLOAT32, FLOAT32, 2, False, 16, 12),
        (FLOAT32, FLOAT32, 3, False, 20, 16),
        (BFLOAT16, BFLOAT16, 2, True, 14, 14),
        (FLOAT16, FLOAT16, 2, True, 14, 14),
        (FLOAT64, FLOAT64, 2, False, 32, 24),
        (BFLOAT16, BFLOAT16, 2, False, 12, 10),
        (FLOAT32, BFLOAT16, 2, False, 14, 12),
    ],
)
def test_a_step_moves_the_bytes_of_the_ledger(
    param: Format, grad: Format, states: int, master: bool, read: int, written: int
) -> None:
    kind = Specialization("multi_tensor", AMSGRAD if states == 3 else ADAM, param, grad, master)
    assert (kind.bytes_read, kind.bytes_written) == (read, written)
    assert kind.lanes * min(param.itemsize, grad.itemsize, kind.working.itemsize) == VECTOR_BYTES


@pytest.mark.parametrize(
    ("name", "options", "bytes_each"),
    [
        ("float32", {}, 28),
        ("float32", {"amsgrad": True}, 36),
        ("bfloat16", {}, 28),
        ("float16", {}, 28),
        ("float64", {}, 56),
    ],
)
def test_the_plan_prints_the_ledgers_bytes(name: str, options: dict[str, Any], bytes_each: int) -> None:
    plan = GpuAdam([np.zeros((256, 3), DTYPES[name])], **options).plan
    assert plan.bytes_moved == bytes_each * 768
    assert f"768 elements, {bytes_each * 768:,} bytes ({bytes_each}.0 a parameter)" in str(plan)


def test_a_walk_has_at_most_eight_dimensions() -> None:
    shape = (2,) * (MAX_DIMS + 1)
    memory = np.zeros((3,) * (MAX_DIMS + 1), np.float32)
    fits = memory[(slice(0, 2),) * MAX_DIMS + (0,)]
    p = fits.copy()
    GpuAdam([fits]).step([p])
    with pytest.raises(ValueError, match=f"parameter 'w' needs {MAX_DIMS + 1} strided dimensions: at most {MAX_DIMS}"):
        GpuAdam({"w": memory[(slice(0, 2),) * (MAX_DIMS + 1)]})
    GpuAdam([np.zeros(shape, np.float32)])  # dense: one stretch


def test_a_gradient_whose_walk_has_too_many_dimensions_is_refused() -> None:
    shape = (2,) * (MAX_DIMS + 1)
    p = np.zeros(shape, np.float32)
    g = np.ones((3,) * (MAX_DIMS + 1), np.float32)[(slice(0, 2),) * (MAX_DIMS + 1)]
    optimizer = GpuAdam({"w": p})
    with pytest.raises(ValueError, match="the gradient of parameter 'w' needs 9 strided dimensions: at most 8"):
        optimizer.step({"w": g})
    assert not p.any()
    assert optimizer.state_dict()["state"] == {}


def test_the_plan_of_packed_parameters_is_one_flat_launch_a_bucket() -> None:
    sizes = (3, 0, 300, 257, 1)
    optimizer = GpuAdam([np.zeros(n, np.float32) for n in sizes] + [np.zeros(5)], pack=True)
    for _ in range(2):
        assert [launch.specialization.family for launch in optimizer.plan.launches] == ["flat", "flat"]
        optimizer.step()
    assert math.ceil(optimizer.plan.launches[0].elements / ALIGNMENT) * ALIGNMENT == optimizer.plan.buckets[0].size
