"""Combinations of everything that a step can be asked for, drawn at random and compared with the written-out arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gpu_adam import GpuAdam, LossScaler
from tests.support.reference import DTYPES, Options, Reference, Scaler, assert_same_bits, clip_factor, is_beyond, norm
from tests.support.strategies import tame


@dataclass(frozen=True)
class Campaign:
    """One combination of everything that a step can be asked for."""

    formats: tuple[str, ...]
    sizes: tuple[int, ...]
    adam: Options
    max_grad_norm: float | None
    scale: float | str | None
    skip_nonfinite: bool
    capturable: bool
    average: dict[str, Any]
    pack: bool
    master_weights: bool
    group_norms: bool
    infinite: frozenset[int]
    missing: frozenset[tuple[int, int]]
    scheduled: bool
    seed: int


STEPS = 4

campaigns = st.builds(
    Campaign,
    formats=st.tuples(*[st.sampled_from(sorted(DTYPES))] * 3),
    sizes=st.tuples(*[st.sampled_from([0, 1, 3, 17, 255, 1024, 1500])] * 3),
    adam=st.builds(
        Options,
        lr=st.sampled_from([1e-3, 0.1, 0.0]),
        betas=st.sampled_from([(0.9, 0.999), (0.0, 0.5)]),
        weight_decay=st.sampled_from([0.0, 0.1]),
        decoupled_weight_decay=st.booleans(),
        amsgrad=st.booleans(),
        maximize=st.booleans(),
        bias_correction=st.booleans(),
        eps_hat=st.booleans(),
    ),
    max_grad_norm=st.sampled_from([None, 0.5, 1e6, math.inf]),
    scale=st.sampled_from([None, 8.0, 3.0, "scaler"]),
    skip_nonfinite=st.booleans(),
    capturable=st.booleans(),
    average=st.sampled_from([{}, {"ema_decay": 0.9}, {"polyak_average": True}]),
    pack=st.booleans(),
    master_weights=st.booleans(),
    group_norms=st.booleans(),
    infinite=st.frozensets(st.integers(0, STEPS - 1), max_size=2),
    missing=st.frozensets(st.tuples(st.integers(0, STEPS - 1), st.integers(0, 2)), max_size=3),
    scheduled=st.booleans(),
    seed=st.integers(0, 1000),
)


def run(c: Campaign, finish: Callable[[], None] = lambda: None) -> None:
    """Step with all that is chosen, and compare everything after each step; ``finish`` waits for an engine."""
    params = [tame(DTYPES[f], n, c.seed + k, 3) for k, (f, n) in enumerate(zip(c.formats, c.sizes, strict=True))]
    references = [Reference(p, c.master_weights, ema_decay=c.average.get("ema_decay")) for p in params]
    chosen = replace(c.adam, lr=lambda t: c.adam.lr / t) if c.scheduled else c.adam  # type: ignore[operator]
    optimizer = GpuAdam(
        [{"params": params[:1]}, {"params": params[1:]}], **vars(chosen), max_grad_norm=c.max_grad_norm,
        skip_nonfinite=c.skip_nonfinite, capturable=c.capturable, pack=c.pack, master_weights=c.master_weights,
        group_norms=c.group_norms, **c.average,
    )  # fmt: skip
    scaler = LossScaler(optimizer, init_scale=16.0, growth_interval=2) if c.scale == "scaler" else None
    expected, skipped = Scaler(np.float32(16.0), interval=2), 0
    for step in range(STEPS):
        grads: list[Any] = [tame(p.dtype, p.size, 31 * c.seed + 3 * step + k, 3) for k, p in enumerate(params)]
        if step in c.infinite and c.sizes[1]:
            grads[1][-1] = math.inf
        for k in range(3):
            if (step, k) in c.missing:
                grads[k] = None
        optimizer.step(grads, grad_scale=scaler or c.scale)
        finish()
        scale = float(expected.scale) if scaler else c.scale or 1.0
        measured = norm([g for g in grads if g is not None], scale)
        if scaler or c.skip_nonfinite or c.max_grad_norm is not None:
            assert_same_bits(np.array(optimizer.grad_norm), np.array(measured), "norm")
        found = (scaler is not None or c.skip_nonfinite) and is_beyond(
            measured, c.max_grad_norm, [p.dtype for p in params]
        )
        factor = (1.0 if c.max_grad_norm is None else clip_factor(measured, c.max_grad_norm)) / scale
        for reference, g in zip(references, grads, strict=True):
            if g is not None and not found:
                reference.step(g, chosen, factor)
        skipped += found
        expected.update(found)
        compare(optimizer, references, bool(c.average), f"step {step}")
        assert optimizer.steps_skipped == skipped
        assert scaler is None or scaler.get_scale() == float(expected.scale)


def compare(optimizer: GpuAdam, references: list[Reference], averages: bool, what: str) -> None:
    params = [p for group in optimizer.params for p in group]
    for k, (p, reference) in enumerate(zip(params, references, strict=True)):
        assert_same_bits(p, reference.p, f"{what}, parameter {k}")
    states = optimizer.state_dict()["state"]
    for k, reference in enumerate(references):
        assert int(states[k]["step"] if k in states else 0) == reference.t, f"{what}, count of parameter {k}"
        if k in states:
            assert_same_bits(states[k]["exp_avg"], reference.m, f"{what}, exp_avg of parameter {k}")
            assert_same_bits(states[k]["exp_avg_sq"], reference.v, f"{what}, exp_avg_sq of parameter {k}")
            if averages:
                assert_same_bits(states[k]["average"], reference.average, f"{what}, average of parameter {k}")
