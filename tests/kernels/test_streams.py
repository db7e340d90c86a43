"""The streams of a kernel: what it reads and writes, and that all which follows from them fits."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from gpu_adam.kernels import abi, table
from gpu_adam.kernels.specialization import Specialization
from gpu_adam.kernels.streams import VALUES
from gpu_adam.plan.tables import Table
from tests.support.shipped import ADAM, AMSGRAD, RULES


@pytest.mark.parametrize(
    ("kind", "read", "written"),
    [
        (
            Specialization("flat", ADAM, FLOAT32, FLOAT16, False),
            {"param": 32, "grad": 16, "state0": 32, "state1": 32},
            {"param": 32, "state0": 32, "state1": 32},
        ),
        (
            Specialization("flat", AMSGRAD, BFLOAT16, FLOAT64, True, True),
            {"master": 32, "grad": 64, "state0": 32, "state1": 32, "state2": 32, "average": 32},
            {"param": 16, "master": 32, "state0": 32, "state1": 32, "state2": 32, "average": 32},
        ),
        (Specialization("flat", RULES["sgd"], FLOAT64, FLOAT64, False), {"param": 64, "grad": 64}, {"param": 64}),
    ],
    ids=lambda one: one.name if isinstance(one, Specialization) else "",
)
def test_what_a_kernel_reads_and_writes(kind: Specialization, read: dict[str, int], written: dict[str, int]) -> None:
    assert {stream.role: stream.storage.bits for stream in kind.streams if stream.read} == read
    assert {stream.role: stream.storage.bits for stream in kind.streams if stream.written} == written
    assert (kind.bytes_read, kind.bytes_written) == (sum(read.values()) // 8, sum(written.values()) // 8)
    assert kind.lanes == 128 // min({**read, **written}.values())


def test_every_stream_has_a_row_of_pointers_and_holds_a_number_of_an_element() -> None:
    kind = Specialization("flat", AMSGRAD, BFLOAT16, BFLOAT16, True, True)
    assert sorted(stream.row for stream in kind.streams) == list(range(len(abi.ROLES)))
    # The master copy is the parameter, which is then written only.
    assert sorted(stream.value for stream in kind.streams if stream.read) == list(range(len(VALUES)))
    assert {stream.role: stream.place for stream in kind.streams} == {
        "param": 0, "grad": 1, "state0": 2, "state1": 2, "state2": 2, "master": 2, "average": 2,
    }  # fmt: skip


def test_a_tables_parts_follow_each_other_without_gaps() -> None:
    segments, chunks = 3, 5
    one = Table(segments, chunks, strided=True)
    for number, part in enumerate((one.pointers, one.begins, one.ends, one.rows), start=1):
        part[:] = number
    one.chunk_segments[:], one.chunk_starts[:], one.walks[:] = 5, 6, 7
    lengths = (len(abi.ROLES) * segments, segments, segments, segments, chunks, chunks, segments * abi.WALK_WORDS)
    assert one.words.tolist() == np.repeat(np.arange(1, 8), lengths).tolist()
    assert one.words[table.chunk_segments(segments)] == 5
    assert one.words[table.walks(segments, chunks)] == 7
