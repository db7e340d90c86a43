"""Launch geometries as values: what a policy says of each format, what becomes of it in a plan, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpu_adam.device import Device
from gpu_adam.dtypes import BFLOAT16, FLOAT32, FLOAT64, FORMATS, Format
from gpu_adam.engines.cuda.arguments import update_arguments, update_kernel
from gpu_adam.kernels.abi import ROW_THREADS
from gpu_adam.plan.launches import Task
from gpu_adam.plan.policy import GPU_POLICY, Geometry, Policy
from gpu_adam.plan.scheduling import launches_of
from gpu_adam.strides import walk
from tests.support.shipped import ADAM

GPU = Device("cuda", 0)
PROCESSORS = 4


def task(size: int, param: Format, *, flat: bool = False, stride: int = 1, width: int = 0) -> Task:
    master = param.itemsize == 2
    whole = walk((size,), (stride,), (1,))
    pointers = (1 << 20,) * 7
    return Task(0, "a", size, 0, whole, 0, flat, param, param, master, ADAM, pointers, width=width, indices=1)


def test_a_policy_is_a_value() -> None:
    one = replace(GPU_POLICY, float64=Geometry(vectors=2, hint="keep_param"))
    assert one == Policy(float64=Geometry(256, 2, "keep_param"))
    assert hash(one) == hash(Policy(float64=Geometry(256, 2, "keep_param")))
    assert one != GPU_POLICY
    assert "vectors=2, hint='keep_param'" in repr(one)


def test_each_format_has_its_geometry() -> None:
    policy = Policy(Geometry(32), Geometry(64), Geometry(96), Geometry(128), waves=1)
    expected = {"float32": 32, "float16": 64, "bfloat16": 96, "float64": 128}
    assert {param.name: policy.geometry(param).threads for param in FORMATS} == expected
    tasks = [task(1000, param) for param in (FLOAT32, BFLOAT16, FLOAT64)]
    tasks += [task(1000, FLOAT64, flat=True), task(1000, BFLOAT16, stride=2)]
    launches = launches_of(tasks, GPU, PROCESSORS, policy)
    assert all(launch.block == expected[launch.specialization.param.name] for launch in launches)
    assert all(update_kernel(launch).threads == launch.block for launch in launches)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("size", [1, 100_000])
def test_a_persistent_grid_has_no_more_blocks_than_chunks(flat: bool, size: int) -> None:
    one_shot, persistent = (
        launches_of([task(size, FLOAT32, flat=flat)], GPU, PROCESSORS, Policy.uniform(Geometry(blocks=blocks)))[0]
        for blocks in (0, 2)
    )
    assert persistent.chunk == one_shot.chunk
    assert persistent.grid == min(one_shot.grid, 2 * PROCESSORS)
    assert (update_kernel(one_shot).persistent, update_kernel(persistent).persistent) == (False, True)


@pytest.mark.parametrize(("width", "tile"), [(1, 1), (4, 1), (6, 2), (7, 4), (64, 16), (300, 128), (5000, 128)])
def test_rows_have_a_tile_of_a_block_each_whatever_the_policy(width: int, tile: int) -> None:
    policy = Policy.uniform(Geometry(512, 2, "plain", blocks=1))
    (launch,) = launches_of([task(100 * width, FLOAT32, width=width)], GPU, PROCESSORS, policy)
    assert (launch.grid, launch.block, launch.chunk) == (
        -(-100 * tile // ROW_THREADS),
        ROW_THREADS,
        width * ROW_THREADS // tile,
    )
    assert update_arguments(launch, 0, 0)[-5:-2] == (width, 100, tile.bit_length() - 1)
    kernel = update_kernel(launch)
    assert (kernel.vectors, kernel.hint, kernel.persistent) == (2, "plain", False)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (Geometry, {"threads": 0}, "threads=0: must be an integer, from 1 to 1024"),
        (Geometry, {"threads": 2048}, "threads=2048"),
        (Geometry, {"threads": 256.0}, "threads=256.0: must be an integer"),
        (Geometry, {"vectors": 0}, "vectors=0: must be an integer, at least 1"),
        (Geometry, {"blocks": -1}, "blocks=-1: must be an integer, at least 0"),
        (Geometry, {"hint": "evict"}, "hint='evict': use 'streaming', 'keep_param', 'plain'"),
        (Policy, {"waves": 0}, "waves=0"),
        (Policy, {"min_chunk": 2048, "max_chunk": 1024}, "min_chunk=2048: must be an integer, from 1 to 1024"),
        (Policy, {"max_chunk": 1025}, "max_chunk=1025: must be a power of two"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)
