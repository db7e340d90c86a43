"""However much is wrong, an error says it in a few hundred letters; and what finds it looks at each thing a few times only."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam, LossScaler
from gpu_adam.messages import listed, shown
from gpu_adam.plan.cohorts import Mode
from gpu_adam.plan.presence import Presence

MANY = 5_000
LONG = "w" * MANY


def ones(count: int) -> list[Any]:
    return [np.ones(1, np.float32) for _ in range(count)]


def grouped(count: int = 50, **options: Any) -> Any:
    return GpuAdam([{"params": [p]} for p in ones(count)], **options)


def named(count: int = 50) -> Any:
    return GpuAdam({f"layers.{k}.weight": p for k, p in enumerate(ones(count))})


def loaded(opt: Any, **changed: Any) -> None:
    opt.load_state_dict({**opt.state_dict(), **changed})


def with_group(opt: Any, **changed: Any) -> None:
    loaded(opt, param_groups=[{**group, **changed} for group in opt.state_dict()["param_groups"]])


def with_step(step: Any) -> None:
    opt = grouped(1)
    opt.step(ones(1))
    loaded(opt, state={0: {**opt.state_dict()["state"][0], "step": step}})


def regrouped(change: Callable[[Any], Any]) -> None:
    opt = grouped()
    opt.param_groups = change(opt.param_groups)
    opt.step(ones(50))


WRONG: dict[str, Callable[[], Any]] = {
    "names that come twice": lambda: GpuAdam([(f"w{k // 2}", p) for k, p in enumerate(ones(MANY))]),
    "one name": lambda: GpuAdam([("w", p) for p in ones(MANY)]),
    "a long name": lambda: GpuAdam({LONG: np.ones(3, np.int32)}),
    "one array": lambda: GpuAdam(ones(1) * MANY),
    "one array in groups": lambda: GpuAdam([{"params": ones(1)[:1]}] * 2000),
    "keys": lambda: GpuAdam([{"params": ones(1), **{f"lr{k}": 1 for k in range(MANY)}}]),
    "keywords": lambda: GpuAdam(ones(1), **{f"key{k}": 1 for k in range(MANY)}),
    "a keyword": lambda: GpuAdam(ones(1), **{LONG: 1}),
    "a keyword of a step": lambda: grouped().step(**{LONG: 1}),
    "an engine": lambda: GpuAdam(ones(1), engine=LONG),
    "a text as lr": lambda: GpuAdam(ones(1), lr=LONG),  # type: ignore[arg-type]
    "many betas": lambda: GpuAdam(ones(1), betas=[0.9] * MANY),  # type: ignore[arg-type]
    "nested betas": lambda: GpuAdam(ones(1), betas=[[[[0.9] * 50] * 50] * 50] * 50),  # type: ignore[arg-type]
    "a structured dtype": lambda: GpuAdam([np.zeros(1, [(f"field{k}", np.float32) for k in range(MANY)])]),
    "an unknown class": lambda: GpuAdam([type(LONG, (), {})()]),
    "an interval": lambda: LossScaler(GpuAdam(ones(1)), growth_interval=LONG),  # type: ignore[arg-type]
    "a scale": lambda: grouped().step(ones(50), grad_scale=LONG),
    "gradients": lambda: grouped().step(ones(MANY)),
    "groups of gradients": lambda: grouped().step([ones(1)] * MANY),
    "names of gradients": lambda: named().step({f"{LONG}{k}": None for k in range(2 * 10)}),
    "missing gradients": lambda: named(5000).step({f"x{k}": None for k in range(MANY)}),
    "groups loaded": lambda: loaded(grouped(), param_groups=[{"params": [k]} for k in range(MANY)]),
    "parameters loaded": lambda: with_group(grouped(1), params=list(range(MANY))),
    "keys loaded": lambda: with_group(grouped(1), **{f"lr{k}": 1 for k in range(MANY)}),
    "names loaded": lambda: with_group(named(5000), param_names=[f"{k}{LONG}" for k in range(5000)]),
    "no list of names": lambda: with_group(named(), param_names=LONG),
    "no list of parameters": lambda: with_group(named(), params=LONG),
    "parameters that come twice": lambda: with_group(grouped(1), params=[0] * MANY),
    "states of no parameter": lambda: loaded(grouped(), state={k: {} for k in range(MANY)}),
    "a state of no parameter": lambda: loaded(grouped(), state={LONG: {}}),
    "a step": lambda: with_step(LONG),
    "a step of many": lambda: with_step(np.ones(MANY)),
    "a step of many digits": lambda: with_step(10**MANY),
    "betas loaded": lambda: with_group(grouped(1), betas=[0.9] * MANY),
    "groups added by hand": lambda: regrouped(lambda groups: [dict(group) for group in groups] * 400),
    "groups taken away": lambda: regrouped(lambda groups: groups[:1]),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
def test_an_error_is_bounded(wrong: Callable[[], Any]) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        wrong()
    assert len(str(caught.value)) < 1500, str(caught.value)[:3000]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_shown_is_bounded(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def drawn(depth: int) -> Any:
        kind = rng.integers(9) if depth else rng.integers(4, 9)
        count = int(rng.integers(30))
        if kind < 2:
            return [drawn(depth - 1) for _ in range(count)]
        if kind == 2:
            return {f"{k}" * count: drawn(depth - 1) for k in range(count)}
        if kind == 3:
            return tuple(drawn(depth - 1) for _ in range(count))
        return [LONG, -(7 ** int(rng.integers(10_000))), np.ones(count), range(count), LONG.encode()][kind - 4]

    value = drawn(3)
    assert len(shown(value)) <= 240
    assert len(listed([value] * 100)) < 600


def test_the_groups_of_a_norm_are_found_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [0]

    class Counted:
        operand = SimpleNamespace(size=1)

        def __init__(self, index: int, group: int) -> None:
            self.index, self.number = index, group

        @property
        def group(self) -> int:
            asked[0] += 1
            return self.number

    active: Any = [Counted(k, k // 2 * 2) for k in range(4000)]
    ranges = Presence(active, len(active), Mode(True, True, True), 4001).ranges
    assert asked[0] <= 2 * len(active)
    assert ranges[:4] == ((0, 4000), (0, 2), (2, 2), (2, 4))
    assert len(ranges) == 4002
