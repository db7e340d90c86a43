"""Which elements the update kernels read, which they write, and nothing beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpu_adam.dtypes import BFLOAT16, FLOAT32, FLOAT64
from gpu_adam.errors import EngineUnavailable
from gpu_adam.kernels.abi import SKIP
from gpu_adam.plan.policy import Geometry, Policy
from gpu_adam.strides import Walk
from tests.kernels.numba_simulator.tensors import (
    GPU,
    KINDS,
    SMALL,
    Stretch,
    Tensor,
    coefficients,
    contiguous,
    run,
)
from tests.support.shipped import RULES
from tests.support.tensor_kinds import Kind

SIZES = [0, 0, 1, 2, 3, 4, 5, 0, 31, 127, 128, 129, 255, 256, 257, 0]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def simulated_multi_tensor_sizes_and_alignments(engine: Any, numbers: Iterator[int], kind: Kind) -> None:
    """Every size meets every misalignment over the kinds; parameter and gradient each with its own."""
    start = KINDS.index(kind)
    tensors = [
        Tensor(
            engine,
            kind,
            contiguous(n),
            seed=next(numbers),
            param_off=(start + k) % 8,
            grad_off=(start + 3 * k) % 8,
            row=k % 4,
        )
        for k, n in enumerate(SIZES)
    ]
    run(engine, tensors, rows=4)


@pytest.mark.parametrize("param_off", range(4))
@pytest.mark.parametrize("grad_off", range(4))
def simulated_multi_tensor_all_alignments(engine: Any, numbers: Iterator[int], param_off: int, grad_off: int) -> None:
    sizes = (1, 2, 3, 4, 5, 6, 7, 8, 9, 37)
    tensors = [
        Tensor(engine, Kind(), contiguous(n), seed=next(numbers), param_off=param_off, grad_off=grad_off) for n in sizes
    ]
    run(engine, tensors)


@pytest.mark.parametrize("vectors", [2, 3])
@pytest.mark.parametrize("blocks", [0, 1])
def simulated_multi_tensor_several_vectors_a_thread(
    engine: Any, numbers: Iterator[int], vectors: int, blocks: int
) -> None:
    """With a persistent grid too, of fewer blocks than there are chunks."""
    policy = replace(SMALL, float32=Geometry(threads=8, vectors=vectors, blocks=blocks))
    tensors = [
        Tensor(engine, Kind(), contiguous(n), seed=next(numbers), param_off=n % 4, row=k)
        for k, n in enumerate((5, 97, 130, 300))
    ]
    _, (launch,) = run(engine, tensors, policy, rows=4)
    assert (launch.grid < launch.table.chunks) == bool(blocks)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("vectors", "blocks"), [(1, 0), (2, 0), (1, 1)])
def simulated_flat_sizes(engine: Any, numbers: Iterator[int], kind: Kind, vectors: int, blocks: int) -> None:
    policy = Policy.uniform(Geometry(threads=8, vectors=vectors, blocks=blocks))
    grids = set()
    for k, size in enumerate((1, 2, 3, 4, 5, 31, 64, 129, 577)):
        tensor = Tensor(engine, kind, contiguous(size), seed=next(numbers), flat=True, row=k % 3)
        _, (launch,) = run(engine, [tensor], policy, rows=3)
        grids.add((launch.grid, -(-size // launch.chunk)))
    assert any(grid < chunks for grid, chunks in grids) == bool(blocks)


@pytest.mark.parametrize("off", [1, 2, 3])
def simulated_flat_misaligned(engine: Any, numbers: Iterator[int], off: int) -> None:
    run(
        engine, [Tensor(engine, Kind(), contiguous(70), seed=next(numbers), flat=True, param_off=off, grad_off=3 - off)]
    )


WALKS = [
    Walk((), (), ()),
    Walk((7,), (2,), (1,)),
    Walk((130,), (1,), (-1,)),
    Walk((130,), (-3,), (2,)),
    Walk((3, 5), (5, 1), (1, 3)),
    Walk((4, 6), (7, 1), (6, 1)),
    Walk((2, 3, 4), (12, 4, 1), (12, 1, 3)),
    Walk((2, 3, 2, 5), (40, -11, 5, 1), (1, 2, 6, 12)),
    Walk((2,) * 8, (128, 64, 32, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 32, 64, 128)),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("blocks", [0, 1])
def simulated_strided_walks(engine: Any, numbers: Iterator[int], kind: Kind, blocks: int) -> None:
    tensors = [
        Tensor(engine, kind, journey, seed=next(numbers), param_off=k % 4, grad_off=k % 3, row=k % 4)
        for k, journey in enumerate(WALKS)
    ]
    policy = Policy.uniform(Geometry(threads=8, blocks=blocks), waves=1, min_chunk=128, max_chunk=128)
    _, launches = run(engine, tensors, policy, rows=4)
    strided = [launch for launch in launches if launch.specialization.family == "strided"]
    assert any(launch.grid < launch.table.chunks for launch in strided) == bool(blocks)


def simulated_program_of_skipped_and_other_rows(engine: Any, numbers: Iterator[int]) -> None:
    """Where the step is skipped nothing changes, whatever the other coefficients are; neighbours in the same table are updated."""
    rows = coefficients(2)
    for one in rows.values():
        one[1] = np.nan
        one[1, SKIP] = 1
    kinds = [KINDS[0], KINDS[3], KINDS[7]]
    tensors = [
        Tensor(engine, kind, journey, seed=next(numbers), row=row, flat=flat)
        for kind in kinds
        for journey, flat in ((contiguous(130), False), (WALKS[5], False), (contiguous(33), True))
        for row in (0, 1)
    ]
    run(engine, tensors, rows=rows)


def simulated_program_of_every_rule(engine: Any, numbers: Iterator[int]) -> None:
    """In every family, over some steps; the second kind of formats has master weights, the third is wide."""
    for rule in RULES:
        kinds = [Kind(rule=rule), Kind(BFLOAT16, FLOAT32, master=True, rule=rule), Kind(FLOAT64, FLOAT64, rule=rule)]
        tensors = [Tensor(engine, kind, contiguous(21), seed=next(numbers), row=k) for k, kind in enumerate(kinds)]
        tensors += [Tensor(engine, kinds[1], WALKS[5], seed=next(numbers), row=3)]
        tensors += [Tensor(engine, kinds[0], contiguous(13), seed=next(numbers), flat=True, row=2)]
        run(engine, tensors, rows=4, steps=2)


def simulated_program_of_every_family_and_format(engine: Any, numbers: Iterator[int]) -> None:
    """Several launches in a program, rows of both formats, several steps over one table."""
    tensors = [Tensor(engine, kind, contiguous(9 + k), seed=next(numbers), row=k % 4) for k, kind in enumerate(KINDS)]
    tensors += [Tensor(engine, kind, WALKS[5], seed=next(numbers), row=k % 4) for k, kind in enumerate(KINDS[:4])]
    tensors += [Tensor(engine, kind, contiguous(50), seed=next(numbers), flat=True, row=3) for kind in KINDS[:4]]
    run(engine, tensors, rows=4, steps=3)


def simulated_program_takes_up_new_pointers(engine: Any, numbers: Iterator[int]) -> None:
    tensors = [Tensor(engine, Kind(), contiguous(n), seed=next(numbers), param_off=1) for n in (5, 40, 3)]
    program, (launch,) = run(engine, tensors)
    for k, tensor in enumerate(tensors):
        tensor.grad = Stretch(engine.machine.bounds, FLOAT32, (tensor.size,), (1,), k, next(numbers))
        launch.table.pointers[1, k] = tensor.grad.first - tensor.task.phase * 4
    # More often than there are slots to copy through.
    for _ in range(40):
        program.rebind(0, 1)
    rows = coefficients()
    program.run(rows)
    engine.binding.wait()
    for tensor in tensors:
        tensor.expect_step(rows["float32"])
        tensor.check()


def simulated_program_of_nothing(engine: Any) -> None:
    engine.load((), GPU).run({})


def simulated_program_of_a_flat_launch_has_no_pointers(engine: Any, numbers: Iterator[int]) -> None:
    program, _ = run(engine, [Tensor(engine, Kind(), contiguous(20), seed=next(numbers), flat=True)])
    with pytest.raises(ValueError, match="no table"):
        program.rebind(0, 1)


def simulated_program_memory(engine: Any) -> None:
    memory = engine.allocate(GPU, 100)
    assert not engine.download(memory, 0, 100).any()
    engine.upload(memory, 10, np.arange(5, dtype=np.int32))
    assert engine.download(memory, 10, 20).view(np.int32).tolist() == [0, 1, 2, 3, 4]
    assert engine.download(memory, 0, 0).size == 0
    assert engine.allocate(GPU, 0).nbytes == 0


def simulated_program_is_refused_by_the_engine_itself() -> None:
    from gpu_adam.engines.cuda.numba import engine

    with pytest.raises(EngineUnavailable, match="NUMBA_ENABLE_CUDASIM"):
        engine()
