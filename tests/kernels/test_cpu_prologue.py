"""The CPU engine's prologue, kernel by kernel, against the same written out: the bits of every sum, decision and row of coefficients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_adam.device import Device
from gpu_adam.dtypes import FORMATS, format_of
from gpu_adam.engines import cpu
from gpu_adam.engines.threads import ThreadPool
from gpu_adam.kernels import abi
from gpu_adam.kernels.rules import adam
from gpu_adam.plan.prologue import Prologue
from gpu_adam.plan.tables import Gradient, MeasureTable, leaves_of
from gpu_adam.strides import walk
from tests.support.reference import (
    DTYPES,
    Options,
    Scaler,
    assert_same_bits,
    average_weight,
    clip_factor,
    coefficients,
    in_memory_order,
    leaf_sums,
    norm,
    sum_over_slots,
)
from tests.support.shipped import ADAM
from tests.support.strategies import FEW, PROVE, formats, laid_out, layouts, options, shapes, values

Array = np.ndarray[Any, Any]

FILLER = -7.0
"""What memory holds that nothing may write to."""


# ---- The first stage ----------------------------------------------------------------------------------------------------------------


def table_of(gradients: Sequence[Array], params: Sequence[Array], first: int = 0) -> MeasureTable:
    entries = []
    for gradient, param in zip(gradients, params, strict=True):
        strides = [tuple(step // one.itemsize for step in one.strides) for one in (param, gradient)]
        journey = walk(gradient.shape, *strides)
        entries.append(Gradient(gradient.ctypes.data, gradient.size, format_of(gradient.dtype), journey, first))
        first += leaves_of(gradient.size)
    return MeasureTable([one for one in entries if one.size])


def measured(gradients: Sequence[Array], params: Sequence[Array], cuts: Sequence[int] = ()) -> Array:
    """The sums of all leaves, between two fillers, computed in the parts that the cuts make."""
    table = table_of(gradients, params, first=1)
    partials = np.full(table.leaves + 2, FILLER)
    places = sorted({0, *(cut % (table.leaves + 1) for cut in cuts), table.leaves})
    for begin, end in pairwise(places):
        cpu.measuring()(table.words, table.segments, table.leaves, partials.ctypes.data, begin, end)
    assert partials[0] == partials[-1] == FILLER
    return partials[1:-1]


@pytest.mark.parametrize("name", sorted(DTYPES))
@pytest.mark.parametrize("special", [0.0, 0.02])
def test_the_sum_of_a_leaf_of_any_size_at_any_place(name: str, special: float) -> None:
    sizes = [1, 7, 127, 128, 129, 1000, 1023, 1024, 1025, 2049]
    gradients = [values(DTYPES[name], n + k % 4, n, special)[k % 4 :] for k, n in enumerate(sizes)]
    expected = [total for gradient in gradients for total in leaf_sums(gradient)]
    assert_same_bits(measured(gradients, gradients), np.array(expected), name)


@FEW
@given(formats, formats, shapes(), st.data())
def test_strided_gradients_are_summed_in_the_order_of_their_parameters_memory(grad, param, shape, data):
    p = laid_out(np.zeros(shape, DTYPES[param]), data.draw(layouts(len(shape))))
    size = math.prod(shape)
    g = laid_out(values(DTYPES[grad], size, 1, 0.05).reshape(shape), data.draw(layouts(len(shape))))
    expected = leaf_sums(in_memory_order(g, p)) if size else []
    assert_same_bits(measured([g], [p]), np.array(expected, np.float64), "sums")


def test_strided_gradients_of_several_leaves() -> None:
    for name, dtype in DTYPES.items():
        p = np.zeros((7, 30, 20), dtype)
        g = laid_out(values(dtype, p.size, 3, 0.0).reshape(p.shape), ((2, 0, 1), (1, 2, 1), (False, True, False), 1))
        assert_same_bits(measured([g], [p], [2, 3]), np.array(leaf_sums(in_memory_order(g, p))), name)


@PROVE
@given(st.lists(st.tuples(formats, st.sampled_from([0, 1, 500, 1024, 3000])), max_size=6), st.lists(st.integers(0, 20)))
def test_work_may_be_cut_anywhere(tensors, cuts):
    # Small whole numbers, whose sums are exact, so that thousands need no long arithmetic here.
    rng = np.random.default_rng(0)
    gradients = [rng.integers(-9, 9, size).astype(DTYPES[name]) for name, size in tensors]
    leaves = [
        gradient[k : k + 1024].astype(np.float64) for gradient in gradients for k in range(0, gradient.size, 1024)
    ]
    expected = np.array([(leaf * leaf).sum() for leaf in leaves], np.float64)
    assert_same_bits(measured(gradients, gradients, cuts), expected, "sums")


# ---- The second and the third -------------------------------------------------------------------------------------------------------


class Words:
    """What the kernel works on: the settings, what is remembered from step to step, and the rows."""

    def __init__(self, cohorts: int = 1, ranges: Sequence[tuple[int, int]] = (), windows: int = 0) -> None:
        self.records_at = abi.HEADER_WORDS + cohorts * abi.COHORT_WORDS
        at = self.records_at + cohorts * abi.RECORD_WORDS
        self.settings = np.zeros(at + 2 * len(ranges) + windows, np.int64)
        self.numbers = self.settings.view(np.float64)
        self.window_at = at + 2 * len(ranges)
        self.settings[abi.COHORTS] = cohorts
        self.settings[abi.RANGES], self.settings[abi.RANGES_AT] = len(ranges), at
        self.settings[at : self.window_at] = np.array(ranges, np.int64).reshape(-1)
        self.numbers[abi.LOSS_SCALE] = 1.0
        self.numbers[abi.MAX_NORM] = math.inf
        self.control = np.zeros(abi.NORMS + len(ranges), np.int64)
        self.counts = np.zeros(cohorts, np.int64)
        self.rows = {name: np.full((cohorts, abi.ROW_WORDS), FILLER, name) for name in ("float32", "float64")}

    def record(self, number: int, hyper: Options, name: str, average: tuple[float, float] = (0.0, 0.0)) -> None:
        """The settings of a cohort; ``average`` is the kind and the decay."""
        at = self.records_at + number * abi.RECORD_WORDS
        record = self.numbers[at : at + abi.RECORD_WORDS]
        record[abi.LR], record[abi.DECAY] = hyper.lr, hyper.weight_decay
        record[adam.BETA1], record[adam.BETA2] = hyper.betas
        record[abi.IS_DECOUPLED], record[abi.MAXIMIZE] = hyper.decoupled_weight_decay, hyper.maximize
        record[abi.AVERAGING], record[abi.AVERAGE_DECAY] = average
        record[abi.WIDE], record[adam.EPSILON] = name == "float64", hyper.eps
        record[adam.BIAS_CORRECTION], record[adam.EPS_HAT] = hyper.bias_correction, hyper.eps_hat
        own = abi.HEADER_WORDS + number * abi.COHORT_WORDS
        self.settings[[own + abi.RECORD_AT, own + abi.ROW]] = at, number

    def run(self, partials: Sequence[float] = (), sources: int = 1) -> None:
        sums = np.array([*partials, FILLER], np.float64)
        addresses = [one.ctypes.data for one in (self.control, self.settings, self.counts, *self.rows.values())]
        finish = cpu.finishing(ADAM)
        finish(sums.ctypes.data, len(partials) // sources, sources, *addresses)

    def number(self, word: int) -> float:
        return float(self.control.view(np.float64)[word])


def words_of(hyper: Options, t: int, name: str, factor: float = 1.0, average: float = 0.0) -> Array:
    """The row of a step, written out."""
    c = coefficients(hyper, t, DTYPES[name].type, factor)
    out = np.zeros(abi.ROW_WORDS, name)
    out[abi.SCALE], out[abi.WEIGHT_DECAY], out[abi.SHRINK] = c.scale, c.decay, c.k
    decays = hyper.weight_decay != 0
    out[abi.L2] = decays and not hyper.decoupled_weight_decay
    out[abi.DECOUPLED] = decays and hyper.decoupled_weight_decay
    out[abi.AVERAGE] = average
    out[adam.W1], out[adam.W2], out[adam.R2], out[adam.EPS], out[adam.A] = c.w1, c.w2, c.r2, c.eps, c.a
    return out


@PROVE
@given(
    options,
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([0, 1, 7, 999, 10**6]),
    st.sampled_from([1.0, 3.0, 65536.0]),
    st.sampled_from([None, 0.0, 0.9, 0.9999]),
)
def test_the_coefficients_are_those_written_out(hyper, name, before, scale, ema_decay):
    words = Words(cohorts=3)
    other = {"float32": "float64", "float64": "float32"}[name]
    words.record(0, Options(), other)
    words.record(1, hyper, name, (2.0, 0.0) if ema_decay is None else (1.0, ema_decay))
    words.record(2, replace(hyper, maximize=not hyper.maximize), name)
    words.numbers[abi.LOSS_SCALE] = scale
    words.counts[:] = 0, before, 2 * before
    words.run()
    assert words.counts.tolist() == [1, before + 1, 2 * before + 1]
    weight = average_weight(before + 1, DTYPES[name].type, ema_decay)
    rows = words.rows[name]
    with np.errstate(all="ignore"):
        assert_same_bits(rows[1], words_of(hyper, before + 1, name, 1 / scale, weight))
        other_way = replace(hyper, maximize=not hyper.maximize)
        assert_same_bits(rows[2], words_of(other_way, 2 * before + 1, name, 1 / scale))
    assert_same_bits(words.rows[other][0], words_of(Options(), 1, other, 1 / scale))
    assert (rows[0] == FILLER).all()
    assert (words.rows[other][1:] == FILLER).all()


@FEW
@given(st.integers(0, 1500), st.integers(1, 3), st.data())
def test_ranges_of_slots_are_summed_in_the_written_order(slots, sources, data):
    rng = np.random.default_rng(slots)
    partials = 10 ** rng.uniform(-9, 9, (sources, slots))
    cuts = st.integers(0, slots)
    ranges = [(0, slots), *(tuple(sorted((data.draw(cuts), data.draw(cuts)))) for _ in range(3))]
    words = Words(cohorts=0, ranges=ranges)
    words.numbers[abi.LOSS_SCALE] = 3.0
    words.run(partials.reshape(-1).tolist(), sources)
    totals = partials[0].copy()
    for more in partials[1:]:
        totals = totals + more
    expected = [math.sqrt(sum_over_slots(totals[begin:end])) / 3.0 for begin, end in ranges]
    assert_same_bits(words.control[abi.NORMS :].view(np.float64), np.array(expected), "norms")


@pytest.mark.parametrize("most", [0.0, 0.5, 5.0, 1e300, math.inf])
@pytest.mark.parametrize("total", [0.0, 1.0, 25.0, 1e300, math.inf, math.nan])
@pytest.mark.parametrize("skips", [False, True])
def test_clipping_and_skipping(most: float, total: float, skips: bool) -> None:
    words = Words(ranges=[(0, 1)])
    words.record(0, Options(), "float32")
    words.numbers[abi.MAX_NORM], words.numbers[abi.SKIP_NONFINITE] = most, skips
    words.numbers[abi.LOSS_SCALE] = 8.0
    words.run([total])
    norm = math.sqrt(total) / 8.0
    clip = clip_factor(norm, most)
    assert_same_bits(words.control.view(np.float64)[[abi.NORMS, abi.CLIP]], np.array([norm, clip]), "norm, clip")
    if skips and not math.isfinite(norm):
        assert words.counts[0] == 0
        assert words.control[abi.SKIPPED] == 1
        assert words.rows["float32"][0].tolist() == [1.0 if k == abi.SKIP else FILLER for k in range(abi.ROW_WORDS)]
        words.run([16.0])
        norm, clip = 0.5, clip_factor(0.5, most)
    assert words.counts[0] == 1
    assert words.control[abi.SKIPPED] == (skips and not math.isfinite(total))
    assert words.number(abi.SKIPS) == 0.0
    assert_same_bits(words.rows["float32"][0], words_of(Options(), 1, "float32", clip / 8.0))


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_numbers_on_the_device_in_any_format(name: str) -> None:
    scale, rate, found = (np.array(number, DTYPES[name]) for number in (12.0, 0.1, 0.0))
    place = next(k for k, format in enumerate(FORMATS) if format.name == name)
    words = Words()
    words.record(0, Options(lr=5.0), "float32")
    words.settings[[abi.SCALE_ADDRESS, abi.SCALE_FORMAT]] = scale.ctypes.data, place
    words.settings[[abi.FOUND_ADDRESS, abi.FOUND_FORMAT]] = found.ctypes.data, place
    record = words.records_at
    words.settings[[record + abi.LR_ADDRESS, record + abi.LR_FORMAT]] = rate.ctypes.data, place
    words.run()
    assert_same_bits(words.rows["float32"][0], words_of(Options(lr=float(rate)), 1, "float32", 1 / 12))
    for infinite in (1.0, math.inf, math.nan):
        found[...] = infinite
        words.run()
    assert (words.counts[0], words.control[abi.SKIPPED]) == (1, 3)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("scale", [1e-320, 2.0**-140, 1.0, 1e300])
@pytest.mark.parametrize("rate", [0.0, 1e-300, 1e39, 1e300, 1.7e308])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_what_only_the_device_knows_is_held_within_the_format(
    name: str, rate: float, scale: float, decoupled: bool
) -> None:
    scales, rates = np.array(scale), np.array(rate)
    words = Words()
    hyper = Options(lr=rate, weight_decay=1e30, decoupled_weight_decay=decoupled)
    words.record(0, hyper, name)
    words.settings[abi.SCALE_ADDRESS] = scales.ctypes.data
    words.settings[words.records_at + abi.LR_ADDRESS] = rates.ctypes.data
    words.run()
    largest = np.finfo(name).max
    with np.errstate(all="ignore"):
        expected = words_of(hyper, 1, name, float(np.float64(1.0) / scale)).clip(-largest, largest)
    assert_same_bits(words.rows[name][0], expected)
    assert np.isfinite(words.rows[name]).all()


def test_a_loss_scaler_goes_up_and_down_as_written() -> None:
    state = np.zeros(abi.SCALER_WORDS, np.int64)
    scaler = Scaler(np.float32(2.0**125), growth=3.0, backoff=0.3, interval=2)
    state.view(np.float32)[0] = scaler.scale
    state.view(np.float64)[[abi.SCALER_GROWTH, abi.SCALER_BACKOFF]] = scaler.growth, scaler.backoff
    state[abi.SCALER_INTERVAL] = scaler.interval
    words = Words(ranges=[(0, 1)])
    words.record(0, Options(), "float64")
    words.settings[abi.SCALER_ADDRESS] = state.ctypes.data
    words.numbers[abi.SKIP_NONFINITE] = 1.0
    steps = 0
    for step in range(30):
        bad = step in (5, 9, 10, 11, 20)
        words.run([math.nan if bad else 4.0])
        steps += not bad
        if not bad:
            expected = words_of(Options(), steps, "float64", 1.0 / float(scaler.scale))
            assert_same_bits(words.rows["float64"][0], expected, f"step {step}")
        scaler.update(bad)
        assert_same_bits(state.view(np.float32)[:1], np.array([scaler.scale]), f"scale after step {step}")
        assert state[abi.SCALER_TRACKER] == scaler.tracker
    assert words.control[abi.SKIPPED] == 5


def test_a_window_gives_the_schedules_values_and_its_nearest_one_outside() -> None:
    words = Words(windows=3 * abi.SCHEDULED_WORDS)
    words.record(0, Options(eps_hat=True), "float64")
    entries = [(0.1 * k, 0.5 + k / 100, 0.9 + k / 100, 0.01 * k) for k in (1, 2, 3)]
    words.numbers[words.window_at :] = np.array(entries).reshape(-1)
    own = abi.HEADER_WORDS
    words.settings[[own + abi.WINDOW, own + abi.WINDOW_FIRST, own + abi.WINDOW_LENGTH]] = words.window_at, 3, 3
    for t in range(1, 8):
        words.run()
        lr, beta1, beta2, decay = entries[min(max(t - 3, 0), 2)]
        hyper = Options(lr, (beta1, beta2), weight_decay=decay, eps_hat=True)
        assert_same_bits(words.rows["float64"][0], words_of(hyper, t, "float64"), f"step {t}")


# ---- The program --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_program_measures_decides_and_counts_with_any_number_of_threads(threads: int, monkeypatch) -> None:
    engine = cpu.engine()
    monkeypatch.setattr(engine, "pool", ThreadPool(threads))
    monkeypatch.setattr(cpu, "MEASURED_SERIAL", 1000)
    gradients = [values(DTYPES[name], 3000, k, 0.0) for k, name in enumerate(("float32", "float16", "bfloat16"))]
    table = table_of(gradients, gradients)
    words = Words(ranges=[(0, table.leaves)])
    words.record(0, Options(), "float32")
    home = Device("cpu")
    about = Prologue(ADAM, home, table, table.leaves, 1, 1, words.settings.size, 9000, 24_000)
    control = engine.allocate(home, (abi.NORMS + 1) * abi.WORD)
    program = engine.load((), home, about, control, np.array([41], np.int64))
    program.instruct(words.settings)
    for _ in range(2):
        program.run(None)
    found = engine.download(control, abi.NORMS * abi.WORD, abi.WORD).view(np.float64)
    assert_same_bits(found, np.array([norm(gradients)]), "norm")
    assert program.counts().tolist() == [43]
    assert program.recent_counts()[1] == 0
    with pytest.raises(RuntimeError, match="a CPU has no CUDA graphs"):
        program.graph()
