"""What a step begins with where the host does not know its coefficients: measure the gradients, decide, compute the rows.

The kernel that every engine has for it runs in three stages:

1. *Measure*: the sum of squares of each leaf, ``LEAF`` elements of one gradient, goes to its slot of the partial sums.
2. *Decide*, once: from the sum over all slots the norm; from that the clip factor and whether the step is skipped; the loss scale.
3. *Advance*, once for each cohort (parameters that share a row): count the step, and compute its row of coefficients. Where the step is
   skipped, and of a cohort that rests because its parameters have no gradient, the row says instead to change nothing.

This file has the scalar text of the second and third stage, which the CPU engine and the Numba CUDA kernels compile; `prologue.cuh` is
the same in CUDA C++. Memory is reached by address. Everything is float64.

The order of the sums is fixed, whatever the launch. Within a leaf, element ``i`` is added to accumulator ``i % LEAF_LANES`` as
``fma(g, g, sum)``, in the order of ``i``; the accumulators are then added as neighbours: 2k and 2k+1, and so on up to one. Over a range
of slots, its ``j``-th is added to accumulator ``j % SUM_LANES`` in the order of ``j``, and these again as neighbours. An element counts
by its place in the order in which its parameter lies in memory, a leaf begins at every multiple of ``LEAF``, and leaves follow
each other in the order of the parameters. Elements past the end of a tensor count as 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .abi import (
    CLIP,
    CLIP_EPS,
    COHORT_WORDS,
    FACTOR,
    FOUND_ADDRESS,
    FOUND_FORMAT,
    HEADER_WORDS,
    LARGEST_DOUBLE,
    LARGEST_SINGLE,
    LOSS_SCALE,
    LR,
    LR_ADDRESS,
    LR_FORMAT,
    MAX_NORM,
    NARROW,
    NORMS,
    RANGES,
    RECORD_AT,
    RECORD_WORDS,
    RESTS,
    ROW,
    ROW_WORDS,
    SCALE_ADDRESS,
    SCALE_FORMAT,
    SCALER_ADDRESS,
    SCALER_BACKOFF,
    SCALER_GROWTH,
    SCALER_INTERVAL,
    SCALER_SCALE,
    SCALER_TRACKER,
    SCHEDULED_WORDS,
    SKIP,
    SKIP_NONFINITE,
    SKIPPED,
    SKIPS,
    WIDE,
    WINDOW,
    WINDOW_FIRST,
    WINDOW_LENGTH,
    WORD,
)


def decide(on: Any) -> Callable[..., Any]:
    """``(control, settings)``: the norms, the clip factor, whether to skip, and the loss scale, after the sums are in ``control``.

    Args:
        on: The target's functions, each by address: ``load_word``, ``store_word``, ``load_number`` and ``store_number`` of one word;
            ``load_single`` and ``store_single`` of a float32, as a float64; ``load_format(address, format)`` of a number in any
            format, as a float64. And ``sqrt``, ``mul``.
    """
    load_word, store_word, load_number, store_number = on.load_word, on.store_word, on.load_number, on.store_number
    load_single, store_single, load_format, sqrt, mul = (
        on.load_single,
        on.store_single,
        on.load_format,
        on.sqrt,
        on.mul,
    )

    def decided(control, settings):
        scaler = load_word(settings + SCALER_ADDRESS * WORD)
        scale = load_number(settings + LOSS_SCALE * WORD)
        at = load_word(settings + SCALE_ADDRESS * WORD)
        if at != 0:
            scale = load_format(at, load_word(settings + SCALE_FORMAT * WORD))
        if scaler != 0:
            scale = load_single(scaler + SCALER_SCALE * WORD)
        found = False
        at = load_word(settings + FOUND_ADDRESS * WORD)
        if at != 0:
            found = load_format(at, load_word(settings + FOUND_FORMAT * WORD)) != 0.0
        clip = 1.0
        ranges = load_word(settings + RANGES * WORD)
        for r in range(ranges):
            at = control + (NORMS + r) * WORD
            store_number(at, sqrt(load_number(at)) / scale)
        if ranges > 0:
            norm = load_number(control + NORMS * WORD)
            most = load_number(settings + MAX_NORM * WORD)
            # Neither infinity less itself nor a NaN is 0.
            if most - most == 0.0:
                clip = most / (norm + CLIP_EPS)
                # A NaN stays one: without skipping, a step on NaN gives NaN.
                if clip > 1.0:
                    clip = 1.0
            store_number(control + CLIP * WORD, clip)
            if load_number(settings + SKIP_NONFINITE * WORD) != 0.0:
                largest = LARGEST_SINGLE if load_number(settings + NARROW * WORD) != 0.0 else LARGEST_DOUBLE
                clipped = mul(norm, clip)
                # Nor is it smaller where the norm is infinite, which may be clipped to a NaN, or NaN.
                if not mul(clipped, clipped) <= largest:
                    found = True
        store_number(control + FACTOR * WORD, clip / scale)
        store_number(control + SKIPS * WORD, 1.0 if found else 0.0)
        if found:
            at = control + SKIPPED * WORD
            store_word(at, load_word(at) + 1)
        if scaler != 0:
            tracker = load_word(scaler + SCALER_TRACKER * WORD) + 1
            before = scale
            if found:
                tracker = 0
                store_single(scaler, mul(scale, load_number(scaler + SCALER_BACKOFF * WORD)))
                # Its inverse must be finite in float32.
                if mul(load_single(scaler), LARGEST_SINGLE) < 1.0:
                    store_single(scaler, before)
            elif tracker == load_word(scaler + SCALER_INTERVAL * WORD):
                tracker = 0
                store_single(scaler, mul(scale, load_number(scaler + SCALER_GROWTH * WORD)))
                after = load_single(scaler)
                if after - after != 0.0:
                    store_single(scaler, before)
            store_word(scaler + SCALER_TRACKER * WORD, tracker)

    return decided


def advance(on: Any, fill: Callable[..., Any]) -> Callable[..., Any]:
    """``(control, settings, counts, cohort, singles, doubles, h, row)``: count the step of a cohort and compute its row.

    Args:
        on: As for `decide`.
        fill: The coefficients, made by `gpu_adam.kernels.rules.rule.coefficients`.

    The arguments of the function: the addresses of the control words, the settings, the cohorts' step counts, and the rows in float32 and
    in float64; room for a record and a row in float64.
    """
    load_word, store_word, load_number, store_number = on.load_word, on.store_word, on.load_number, on.store_number
    store_single, load_format = on.store_single, on.load_format

    def advanced(control, settings, counts, cohort, singles, doubles, h, row):
        own = settings + (HEADER_WORDS + cohort * COHORT_WORDS) * WORD
        record = settings + load_word(own + RECORD_AT * WORD) * WORD
        wide = load_number(record + WIDE * WORD) != 0.0
        place = load_word(own + ROW * WORD) * ROW_WORDS
        if load_number(control + SKIPS * WORD) != 0.0 or load_word(own + RESTS * WORD) != 0:
            if wide:
                store_number(doubles + (place + SKIP) * WORD, 1.0)
            else:
                store_single(singles + (place + SKIP) * 4, 1.0)
        else:
            t = load_word(counts + cohort * WORD) + 1
            store_word(counts + cohort * WORD, t)
            for k in range(RECORD_WORDS):
                h[k] = load_number(record + k * WORD)
            window = load_word(own + WINDOW * WORD)
            if window != 0:
                # Outside the window its nearest entry counts.
                entry = t - load_word(own + WINDOW_FIRST * WORD)
                entry = max(min(entry, load_word(own + WINDOW_LENGTH * WORD) - 1), 0)
                for k in range(SCHEDULED_WORDS):
                    h[k] = load_number(settings + (window + entry * SCHEDULED_WORDS + k) * WORD)
            at = load_word(record + LR_ADDRESS * WORD)
            if at != 0:
                h[LR] = load_format(at, load_word(record + LR_FORMAT * WORD))
            for k in range(ROW_WORDS):
                row[k] = 0.0
            fill(h, t, load_number(control + FACTOR * WORD), wide, row)
            largest = LARGEST_DOUBLE if wide else LARGEST_SINGLE
            for k in range(ROW_WORDS):
                # What the host knows it refuses; infinity times 0 would be NaN.
                value = row[k]
                if value > largest:
                    value = largest
                if value < -largest:
                    value = -largest
                if wide:
                    store_number(doubles + (place + k) * WORD, value)
                else:
                    store_single(singles + (place + k) * 4, value)

    return advanced
