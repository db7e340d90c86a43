"""Gradients of some rows: which rows are updated, and how rows of the same number are summed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Format
from gpu_adam.engines import SumArguments
from gpu_adam.kernels.abi import SKIP
from gpu_adam.plan.policy import Geometry, Policy
from tests.kernels.numba_simulator.tensors import GPU, Stretch, Tensor, coefficients, contiguous, run
from tests.support.tensor_kinds import Kind

KINDS = [
    Kind(),
    Kind(FLOAT64, FLOAT64, rule="adam_amsgrad"),
    Kind(FLOAT16, FLOAT32, master=True),
    Kind(BFLOAT16, FLOAT32, rule="adam_amsgrad"),
]
INDICES = [4, -1, 0, 7, -1]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("vectors", [1, 2])
def simulated_rows_of_every_width(engine: Any, numbers: Iterator[int], kind: Kind, vectors: int) -> None:
    """Wide rows take several rounds of a block; where the width is no multiple of the vector, every row is aligned in its own way."""
    tensors = [
        Tensor(engine, kind, contiguous(8 * width), seed=next(numbers), row=k % 3, width=width, indices=INDICES)
        for k, width in enumerate((1, 2, 3, 8, 21, 131, 301))
    ]
    _, launches = run(engine, tensors, Policy.uniform(Geometry(vectors=vectors)), rows=3)
    assert {launch.specialization.family for launch in launches} == {"rows"}


@pytest.mark.parametrize("param_off", range(4))
def simulated_rows_misaligned(engine: Any, numbers: Iterator[int], param_off: int) -> None:
    tensor = Tensor(
        engine,
        Kind(),
        contiguous(8 * 9),
        seed=next(numbers),
        width=9,
        param_off=param_off,
        grad_off=(3 * param_off + 1) % 4,
        indices=INDICES,
    )
    run(engine, [tensor])


def simulated_rows_skipped(engine: Any, numbers: Iterator[int]) -> None:
    rows = coefficients()
    for one in rows.values():
        one[0, SKIP] = 1
    run(engine, [Tensor(engine, Kind(), contiguous(8 * 9), seed=next(numbers), width=9, indices=INDICES)], rows=rows)


LIMIT = 50


@pytest.mark.parametrize(
    ("values_format", "working"),
    [
        (FLOAT32, FLOAT32),
        (FLOAT64, FLOAT32),
        (FLOAT16, FLOAT32),
        (BFLOAT16, FLOAT32),
        (FLOAT64, FLOAT64),
        (FLOAT16, FLOAT64),
    ],
    ids=str,
)
@pytest.mark.parametrize("width", [1, 2, 7, 40])
def simulated_coalesce(engine: Any, numbers: Iterator[int], values_format: Format, working: Format, width: int) -> None:
    """Runs of one, of a few and of very many, numbers out of range on either side, and room that is not needed."""
    given = [3, 0, 49, 3, -1, 50, 3, 12, 0, -7, 1000, *[20] * 21, 3, 12]
    check_coalesce(engine, next(numbers), given, values_format, working, width, capacity=64)


def simulated_coalesce_of_nothing(engine: Any, numbers: Iterator[int]) -> None:
    check_coalesce(engine, next(numbers), [], FLOAT32, FLOAT32, 3, capacity=2)


def simulated_coalesce_without_room_to_spare(engine: Any, numbers: Iterator[int]) -> None:
    for given in ([5], [5, 5], [5, 4], [5] * 8, [-1, -1]):
        check_coalesce(engine, next(numbers), given, FLOAT32, FLOAT32, 3, capacity=len(given))


def check_coalesce(
    engine: Any, seed: int, given: list[int], values_format: Format, working: Format, width: int, capacity: int
) -> None:
    bounds, count = engine.machine.bounds, len(given)
    values = Stretch(bounds, values_format, (count, width), (width, 1), 1, seed)
    order = np.argsort(np.array(given, np.int64), kind="stable").astype(np.int64)
    ranked = np.array(given, np.int64)[order]
    out = engine.allocate(GPU, capacity * width * working.itemsize)
    indices = engine.allocate(GPU, capacity * 8)
    engine.upload(out, 0, np.full(out.nbytes, 0x55, np.uint8))
    places, numbers = bounds.add_array(order), bounds.add_array(ranked)
    sizes = (width, count, capacity)
    engine.coalesce(
        SumArguments(values.first, values_format, working, out.address, indices.address, *sizes, places, numbers, LIMIT)
    )
    sums = np.zeros((capacity, width), working.dtype)
    rows = np.full(capacity, -1, np.int64)
    for q, number in enumerate(ranked):
        if 0 <= number < LIMIT and (q == 0 or ranked[q - 1] != number):
            rows[q] = number
            for j in range(width):
                addends = [working.dtype.type(values[int(r) * width + j]) for r, n in enumerate(given) if n == number]
                sums[q, j] = addends[0]
                for addend in addends[1:]:
                    sums[q, j] += addend
    np.testing.assert_array_equal(engine.download(indices, 0, indices.nbytes).view(np.int64), rows)
    np.testing.assert_array_equal(engine.download(out, 0, out.nbytes), sums.reshape(-1).view(np.uint8))
    values.check("values")
