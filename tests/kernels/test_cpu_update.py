"""What the CPU engine's update kernels do besides Adam: averages, steps that are skipped, rows of a matrix; and sums of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_adam.device import Device
from gpu_adam.dtypes import FLOAT32, FLOAT64, format_of
from gpu_adam.engines import SumArguments, cpu
from gpu_adam.engines.threads import ThreadPool
from gpu_adam.kernels import abi as row
from gpu_adam.kernels.rules import adam
from gpu_adam.plan.launches import Task
from gpu_adam.plan.policy import CPU_POLICY
from gpu_adam.plan.scheduling import launches_of
from gpu_adam.strides import Walk, walk
from tests.support.reference import DTYPES, Options, Reference, assert_same_bits, average_weight, coefficients
from tests.support.shipped import ADAM
from tests.support.strategies import PROVE, formats, values

Array = np.ndarray[Any, Any]

HOME = Device("cpu")
FILLER = -7.0
"""What memory holds that nothing may write to."""


# ---- Steps --------------------------------------------------------------------------------------------------------------------------


class Case:
    """One parameter with its gradient and its state, and the task that updates it."""

    def __init__(self, family: str, param: str, grad: str, size: int) -> None:
        p, g = values(DTYPES[param], size, 1, 0.05), values(DTYPES[grad], size, 2, 0.05)
        if family == "strided":
            p, g = (np.repeat(one, 2)[::2] for one in (p, g))
        self.p, self.g = p, g
        self.reference = Reference(p)
        working = self.reference.working
        self.states = [np.zeros(size, working) for _ in range(2)]
        self.master = p.astype(np.float32) if p.itemsize == 2 else None
        self.average, self.reference.average = np.zeros(size, working), np.zeros(size, working)
        pointers = [one.ctypes.data for one in (p, g, *self.states)]
        pointers += [0, 0 if self.master is None else self.master.ctypes.data, self.average.ctypes.data]
        journey = walk(p.shape, *((one.strides[0] // one.itemsize,) for one in (p, g)))
        own = {"flat": family == "flat", "master": self.master is not None, "average": True}
        self.task = task_of(p, g, pointers, journey, **own)

    @property
    def arrays(self) -> dict[str, Array]:
        found = {"p": self.p, "m": self.states[0], "v": self.states[1], "average": self.average}
        return found if self.master is None else {**found, "master": self.master}


def task_of(p: Array, g: Array, pointers: Sequence[int], journey: Walk, **more: Any) -> Task:
    formats = {"param": format_of(p.dtype), "grad": format_of(g.dtype)}
    about = {"index": 0, "label": "p", "size": g.size, "phase": 0, "row": 1, "rule": ADAM}
    return Task(**{**about, **formats, "walk": journey, "pointers": tuple(pointers), **more})


def run(tasks: Sequence[Task], rows: Array) -> None:
    launches = launches_of(tasks, HOME, 4, CPU_POLICY)
    cpu.engine().load(launches, HOME).run({rows.dtype.name: rows})


def rows_of(t: int, name: str, averages: bool = True) -> Array:
    """Two rows, of which the second is that of a step of Adam."""
    c = coefficients(Options(), t, DTYPES[name].type)
    rows = np.full((2, row.ROW_WORDS), FILLER, name)
    rows[1, : row.FIRST_OWN] = 0
    rows[1, row.SCALE] = 1
    rows[1, row.AVERAGE] = average_weight(t, DTYPES[name].type, None) if averages else 0
    rows[1, [adam.W1, adam.W2, adam.R2, adam.EPS, adam.A]] = c.w1, c.w2, c.r2, c.eps, c.a
    return rows


@pytest.fixture(params=[1, 3])
def several_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread or three, which share any work."""
    monkeypatch.setattr(cpu, "SERIAL", 100)
    monkeypatch.setattr(cpu.engine(), "pool", ThreadPool(request.param))


FAMILIES = ("flat", "multi_tensor", "strided")
FORMAT_PAIRS = [("float64", "float32"), ("float32", "bfloat16"), ("float16", "float16"), ("bfloat16", "float32")]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("param", "grad"), FORMAT_PAIRS)
@pytest.mark.parametrize("size", [1, 5000])
@pytest.mark.usefixtures("several_threads")
def test_an_average_is_kept_in_the_same_pass(family: str, param: str, grad: str, size: int) -> None:
    case = Case(family, param, grad, size if param != "float64" else min(size, 300))
    for t in (1, 2, 3):
        run([case.task], rows_of(t, case.reference.working.name))
        case.reference.step(case.g, Options())
    expected = case.reference
    for name, array in case.arrays.items():
        assert_same_bits(array, getattr(expected, name), name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("param", "grad"), FORMAT_PAIRS)
@pytest.mark.usefixtures("several_threads")
def test_a_step_that_is_skipped_writes_nothing(family: str, param: str, grad: str) -> None:
    case = Case(family, param, grad, 3000)
    rows = rows_of(1, case.reference.working.name)
    rows[1, row.SKIP] = 1
    before = {name: array.copy() for name, array in case.arrays.items()}
    run([case.task], rows)
    for name, array in case.arrays.items():
        assert array.tobytes() == before[name].tobytes(), name


def test_of_several_tensors_those_are_skipped_whose_row_says_so() -> None:
    cases = [Case("multi_tensor", "float32", "float32", 5000) for _ in range(2)]
    other = Task(**{**vars(cases[1].task), "index": 1, "row": 0})
    rows = rows_of(1, "float32")
    rows[0] = rows[1]
    rows[0, row.SKIP] = 1
    run([cases[0].task, other], rows)
    cases[0].reference.step(cases[0].g, Options())
    for name, array in cases[0].arrays.items():
        assert_same_bits(array, getattr(cases[0].reference, name), name)
    assert_same_bits(cases[1].p, cases[1].reference.p)


# ---- Rows of a matrix ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("param", sorted(DTYPES))
@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.usefixtures("several_threads")
def test_only_the_named_rows_are_updated(param: str, skips: bool) -> None:
    width, numbers = 37, np.array([4, -1, 0, 2, -1, 7], np.int64)
    p = values(DTYPES[param], 8 * width, 1, 0.05).reshape(8, width)
    expected = Reference(p)
    working = expected.working
    g = values(working, numbers.size * width, 2, 0.05).reshape(-1, width)
    m, v = (values(working, p.size, seed, 0.0).reshape(p.shape) ** 2 for seed in (3, 4))
    master = p.astype(np.float32) if p.itemsize == 2 else None
    before, m_before, v_before = p.copy(), m.copy(), v.copy()
    master_before = None if master is None else master.copy()
    pointers = [one.ctypes.data for one in (p, g, m, v)] + [0, 0 if master is None else master.ctypes.data, 0]
    journey = Walk((g.size,), (1,), (1,))
    own = {"master": master is not None, "flat": False, "width": width, "indices": numbers.ctypes.data}
    rows = rows_of(2, working.name, averages=False)
    rows[1, row.SKIP] = skips
    run([task_of(p, g, pointers, journey, **own)], rows)
    for q, number in enumerate(numbers):
        if number < 0 or skips:
            continue
        one = Reference(before[number])
        one.t, one.m, one.v = 1, m_before[number], v_before[number]
        one.step(g[q], Options())
        before[number], m_before[number], v_before[number] = one.p, one.m, one.v
        if master_before is not None:
            master_before[number] = one.unrounded
    if master is not None:
        assert_same_bits(master, master_before, "master")
    for found, wanted in ((p, before), (m, m_before), (v, v_before)):
        assert_same_bits(found, wanted)


# ---- Rows that have the same number -------------------------------------------------------------------------------------------------


def coalesced(given: Array, numbers: Array, working: str, capacity: int, limit: int) -> tuple[Array, Array]:
    """The sums and their numbers, written out."""
    order = np.argsort(numbers, kind="stable")
    ranked = numbers[order]
    sums, indices = np.zeros((capacity, given.shape[1]), working), np.full(capacity, -1, np.int64)
    head = -1
    with np.errstate(all="ignore"):
        for q, (place, number) in enumerate(zip(order, ranked, strict=True)):
            value = given[place].astype(working)
            if q and ranked[q - 1] == number:
                sums[head] += value
            else:
                head, sums[q], indices[q] = q, value, number
    outside = (indices < 0) | (indices >= limit)
    sums[outside], indices[outside] = 0, -1
    return sums, indices


@PROVE
@given(
    formats,
    st.sampled_from([1, 3, 16, 65]),
    st.lists(st.integers(-2, 6), max_size=40),
    st.integers(0, 5),
    st.integers(1, 4),
    st.booleans(),
)
def test_rows_of_the_same_number_are_summed_in_their_order(name, width, numbers, spare, threads, wide):
    numbers = np.array(numbers, np.int64)
    capacity, limit = numbers.size + spare, 5
    working = FLOAT64 if wide or name == "float64" else FLOAT32
    given = values(DTYPES[name], numbers.size * width, 1, 0.05).reshape(-1, width)
    sums, indices = np.full((capacity, width), FILLER, working.dtype), np.full(capacity, 77, np.int64)
    order = np.argsort(numbers, kind="stable")
    ranked = numbers[order]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "SERIAL", 16)
        patch.setattr(cpu.engine(), "pool", ThreadPool(threads))
        cpu.engine().coalesce(
            SumArguments(
                given.ctypes.data, format_of(given.dtype), working, sums.ctypes.data, indices.ctypes.data, width, numbers.size,
                capacity, order.ctypes.data, ranked.ctypes.data, limit,
            )
        )  # fmt: skip
    expected = coalesced(given, numbers, working.name, capacity, limit)
    assert_same_bits(sums, expected[0], "sums")
    assert indices.tolist() == expected[1].tolist()
