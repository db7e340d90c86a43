"""Where state lies and how parameters are walked: formats, walks, overlap of arrays, buckets."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_adam.arrays import Occupied, probe
from gpu_adam.device import Device
from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, format_named
from gpu_adam.kernels.abi import VECTOR_BYTES
from gpu_adam.plan.layout import ALIGNMENT, Extent, pack, phase_of
from gpu_adam.strides import overlaps_itself, visiting_order, walk
from tests.support.reference import DTYPES
from tests.support.strategies import PROVE, formats, laid_out, layouts, shapes

GPU = Device("cuda", 0)


# Formats and walks.


def test_formats_know_their_dtypes_and_working_formats() -> None:
    for format in (FLOAT64, FLOAT32, FLOAT16, BFLOAT16):
        assert format.dtype == DTYPES[format.name]
        assert format.dtype.itemsize == format.itemsize
        assert format_named(format.name) is format
    assert [f.working for f in (FLOAT64, FLOAT32, FLOAT16, BFLOAT16)] == [FLOAT64, FLOAT32, FLOAT32, FLOAT32]


@given(shapes(), st.data())
@PROVE
def test_a_walk_visits_every_element_once_and_gradients_alongside(shape: tuple[int, ...], data: st.DataObject) -> None:
    p = laid_out(np.zeros(shape), data.draw(layouts(len(shape))))
    g = laid_out(np.zeros(shape), data.draw(layouts(len(shape))))
    journey = walk(shape, *(tuple(s // 8 for s in a.strides) for a in (p, g)))
    visited = [
        tuple(sum(i * s for i, s in zip(index, strides, strict=True)) for strides in (journey.param, journey.grad))
        for index in itertools.product(*map(range, journey.shape))
    ]
    expected = [
        tuple(sum(i * s // 8 for i, s in zip(index, a.strides, strict=True)) for a in (p, g))
        for index in np.ndindex(shape)
    ]
    assert Counter(visited) == Counter(expected)


@given(shapes(), st.data())
@PROVE
def test_a_parameter_that_is_dense_in_any_order_is_walked_as_one_stretch(
    shape: tuple[int, ...], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    strides, step = [0] * len(shape), 1
    for d in reversed(order):
        strides[d] = step
        step *= shape[d]
    assert walk(shape, strides, strides).contiguous


@pytest.mark.parametrize(
    ("shape", "param", "grad", "expected"),
    [
        ((), (), (), True),
        ((1, 1), (77, 99), (3, 5), True),  # strides of dimensions of size 1 mean nothing
        ((4,), (1,), (1,), True),
        ((4,), (2,), (1,), False),
        ((4,), (1,), (0,), False),
        ((4,), (-1,), (-1,), False),
        ((0, 5), (1, 1), (9, 9), True),
        ((2, 3, 4, 5), (60, 1, 15, 3), (60, 1, 15, 3), True),  # channels-last
        ((2, 3, 4, 5), (60, 1, 15, 3), (60, 20, 5, 1), False),
    ],
)
def test_contiguous_walks_are_recognised(shape: Any, param: Any, grad: Any, expected: bool) -> None:
    assert walk(shape, param, grad).contiguous is expected


def test_neighbouring_dimensions_are_merged() -> None:
    assert walk((2, 3, 4), (24, 8, 2), (12, 4, 1)).shape == (24,)
    assert walk((2, 3, 4), (32, 8, 2), (12, 4, 1)).shape == (2, 12)
    assert visiting_order((2, 1, 3), (1, 50, 2)) == (2, 0)


@given(shapes(), st.data())
@PROVE
def test_views_with_gaps_do_not_overlap_themselves(shape: tuple[int, ...], data: st.DataObject) -> None:
    p = laid_out(np.zeros(shape), data.draw(layouts(len(shape))))
    assert not overlaps_itself(shape, tuple(s // 8 for s in p.strides))


@pytest.mark.parametrize(("shape", "strides"), [((3,), (0,)), ((3, 3), (1, 1)), ((2, 4), (3, 1)), ((2, 2), (-1, 1))])
def test_views_that_overlap_themselves_are_found(shape: Any, strides: Any) -> None:
    assert overlaps_itself(shape, strides)


# Overlap of arrays.


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12), st.integers(1, 4)), min_size=2, max_size=6))
@PROVE
def test_arrays_that_share_an_element_are_found_and_no_others(places: list[tuple[int, int, int]]) -> None:
    memory = np.zeros(128, np.float32)
    views = [memory[start : start + size * step : step] for start, size, step in places]
    touched = [set(range(128)[start : start + size * step : step]) for start, size, step in places]
    refs = [probe(view) for view in views]
    clashes = {(j, k) for j, k in itertools.combinations(range(len(views)), 2) if touched[j] & touched[k]}
    conflict = Occupied(refs).conflict()
    assert conflict is None if not clashes else tuple(sorted(conflict or ())) in clashes
    first = Occupied(refs[1:])
    assert {k + 1 for k in first.overlapping(refs[0])} == {k for j, k in clashes if j == 0}


def test_the_overlap_test_follows_no_address() -> None:
    ref = probe(np.zeros(1, np.float32))
    big = type(ref)(ref.library, ref.device, ref.format, (1 << 33,), (1,), 1 << 40, None)
    last = type(ref)(ref.library, ref.device, ref.format, (1,), (1,), (1 << 40) + 4 * ((1 << 33) - 1), None)
    after = type(ref)(ref.library, ref.device, ref.format, (1,), (1,), (1 << 40) + 4 * (1 << 33), None)
    assert Occupied([big, last]).conflict()
    assert Occupied([big, after]).conflict() is None


# Buckets.

extents = st.builds(
    lambda format, size, offset, master, gpu: (format_named(format), size, offset, master, gpu),
    formats,
    st.one_of(st.integers(0, 5), st.sampled_from([255, 256, 257, 65_537, (1 << 31) + 5])),
    st.integers(0, 9),
    st.booleans(),
    st.integers(0, 1),
)


def extents_of(drawn: list[Any]) -> list[Extent]:
    return [
        Extent(
            k,
            Device("cuda", gpu),
            format,
            (size,),
            (1,),
            4096 + offset * format.itemsize,
            master and format.itemsize == 2,
        )
        for k, (format, size, offset, master, gpu) in enumerate(drawn)
    ]


@given(st.lists(extents, max_size=40), st.booleans())
@PROVE
def test_segments_start_on_the_alignment_and_do_not_overlap(drawn: list[Any], aligned: bool) -> None:
    members = extents_of(drawn)
    buckets = pack(members, aligned=aligned)
    assert sorted(s.index for bucket in buckets for s in bucket.segments) == list(range(len(members)))
    assert len({(b.device, b.format, b.master) for b in buckets}) == len(buckets)
    for bucket in buckets:
        end = 0
        for segment in bucket.segments:
            extent = members[segment.index]
            assert (extent.device, extent.format, extent.master) == (bucket.device, bucket.format, bucket.master)
            assert segment.offset % ALIGNMENT == 0
            assert segment.offset >= end
            assert segment.size == extent.size
            assert segment.phase == (0 if aligned else phase_of(extent))
            end = segment.start + segment.size
        assert end <= bucket.size < end + 2 * ALIGNMENT


@given(formats, st.integers(0, 20))
@PROVE
def test_the_phase_makes_parameter_and_state_reach_a_vector_together(name: str, offset: int) -> None:
    format = format_named(name)
    extent = Extent(0, GPU, format, (5,), (1,), 4096 + offset * format.itemsize, False)
    lanes = VECTOR_BYTES // format.itemsize
    assert 0 <= phase_of(extent) < lanes
    assert (extent.address - phase_of(extent) * format.itemsize) % VECTOR_BYTES == 0
