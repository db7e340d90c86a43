"""Runs of any optimizer with anything that a step can be asked for, compared with the written-out arithmetic after each step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu_adam import LossScaler
from tests.rules.rule_references import Reference
from tests.support.reference import DTYPES, Scaler, assert_same_bits, clip_factor, is_beyond, norm
from tests.support.rule_cases import Settings
from tests.support.shipped import OPTIMIZERS
from tests.support.strategies import tame


@dataclass(frozen=True)
class Program:
    """What is run.

    Attributes:
        name: The optimizer's.
        groups: For each group its settings.
        tensors: For each parameter its group, its format, that of its gradients, and its size.
        options: Of the optimizer: clipping, skipping, averages, packing.
        scale: What `step` is given as ``grad_scale``; ``"scaler"`` for a `LossScaler`.
        edits: After a step, what is changed in the settings of a group: step, group and the change.
        infinite: Steps in which the first gradient that is not empty has an infinity.
        missing: Steps and parameters where the gradient is None.
        steps: How many there are.
        seed: Of all values.
        bound: Whether the gradients are written into those that ``pack=True`` binds, and not handed over.
    """

    name: str
    groups: tuple[Settings, ...] = ({},)
    tensors: tuple[tuple[int, str, str, int], ...] = ((0, "float32", "float32", 257), (0, "float32", "float32", 5))
    options: Settings = field(default_factory=dict)
    scale: float | str | None = None
    edits: tuple[tuple[int, int, Settings], ...] = ()
    infinite: frozenset[int] = frozenset()
    missing: frozenset[tuple[int, int]] = frozenset()
    steps: int = 4
    seed: int = 0
    bound: bool = False

    def numbers(self, format: str, size: int, seed: int) -> np.ndarray:
        return tame(DTYPES[format], size, 1000 * self.seed + seed, 3)

    def gradients(self, step: int) -> list[Any]:
        kinds = [(p if self.bound else g, n) for _, p, g, n in self.tensors]  # bound ones have the parameter's format
        grads: list[Any] = [self.numbers(kind, n, 31 * step + k + 7) for k, (kind, n) in enumerate(kinds)]
        sized = [g for g in grads if g.size]
        if step in self.infinite and sized:
            sized[0][-1] = math.inf
        return [None if (step, k) in self.missing else g for k, g in enumerate(grads)]

    def grouped(self, leaves: list[Any]) -> list[list[Any]]:
        places = [tensor[0] for tensor in self.tensors]
        return [
            [leaf for leaf, place in zip(leaves, places, strict=True) if place == group]
            for group in range(len(self.groups))
        ]


def run(program: Program, finish: Callable[[], None] = lambda: None) -> Any:
    """Step, and compare everything after each step; ``finish`` waits for an engine. Returns the optimizer."""
    options = program.options
    # In the order of the groups, in which an optimizer counts.
    assert list(program.tensors) == sorted(program.tensors, key=lambda tensor: tensor[0])
    params = [program.numbers(p, n, k) for k, (_, p, _, n) in enumerate(program.tensors)]
    references = [
        Reference(program.name, p, options.get("master_weights", True), options.get("ema_decay")) for p in params
    ]
    settings = [dict(one) for one in program.groups]
    groups = [{"params": own, **one} for own, one in zip(program.grouped(params), settings, strict=True)]
    optimizer = OPTIMIZERS[program.name](groups, **options)
    scaler = LossScaler(optimizer, init_scale=16.0, growth_interval=2) if program.scale == "scaler" else None
    expected, skipped = Scaler(np.float32(16.0), interval=2), 0
    measures = scaler or options.get("skip_nonfinite") or options.get("max_grad_norm") is not None
    for step in range(program.steps):
        grads = program.gradients(step)
        given: Any = program.grouped(grads)
        if program.bound:
            for view, g in zip([one for group in optimizer.grads for one in group], grads, strict=True):
                view[...] = g
            given = None
        optimizer.step(given, grad_scale=scaler or program.scale)
        finish()
        scale = float(expected.scale) if scaler else program.scale or 1.0
        assert isinstance(scale, float)
        measured = norm([g for g in grads if g is not None], scale)
        if measures:
            assert_same_bits(np.array(optimizer.grad_norm), np.array(measured), "norm")
        most = options.get("max_grad_norm")
        skips = bool(scaler or options.get("skip_nonfinite"))
        found = skips and is_beyond(measured, most, [p.dtype for p in params])
        factor = (1.0 if most is None else clip_factor(measured, most)) / scale
        for (group, *_), reference, g in zip(program.tensors, references, grads, strict=True):
            if g is not None and not found:
                reference.step(g, settings[group], factor)
        skipped += found
        expected.update(found)
        assert_as_written(optimizer, references, f"step {step},")
        assert optimizer.steps_skipped == skipped
        assert scaler is None or scaler.get_scale() == float(expected.scale)
        for at, group, change in program.edits:
            if at == step:
                settings[group].update(change)
                optimizer.param_groups[group].update(change)
    return optimizer


def assert_as_written(optimizer: Any, references: list[Reference], what: str = "") -> None:
    """Parameters, step counts, and whatever states, master weights and averages are kept."""
    states = optimizer.state_dict()["state"]
    params = [p for group in optimizer.params for p in (group if isinstance(group, list) else [group])]
    for k, (p, reference) in enumerate(zip(params, references, strict=True)):
        assert_same_bits(p, reference.p, f"{what} parameter {k}")
        found = dict(states.get(k, {"step": 0}))
        assert found.pop("step") == reference.t, f"{what} count of parameter {k}"
        found.pop("mu_product", None)
        expected = {**reference.states, "average": reference.average, "master": reference.master}
        for state, array in found.items():
            assert_same_bits(array, expected[state], f"{what} {state} of parameter {k}")
