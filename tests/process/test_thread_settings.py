"""Drawn programs with numbers at the edges: what is set for the calling thread changes no bit of them, and nothing is reported."""

from __future__ import annotations

import copy
import inspect
import pickle
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
import pytest

from gpu_adam import Algorithm, GpuOptimizer, LossScaler, Number, Rule, schedules
from gpu_adam.kernels.abi import LR, OWN_0, own
from tests.support.reference import DTYPES
from tests.support.rule_cases import SETTINGS
from tests.support.shipped import OPTIMIZERS
from tests.support.strategies import values
from tests.support.strict import strict
from tests.support.torch_tensors import as_torch

torch = pytest.importorskip("torch")

NUMBERS = [0.0, 5e-324, 1e-310, 1e-46, 1.4e-45, 1e-40, 1e-38, 1e-8, 0.1, 1e30, 3e38, 1e39, 1e300, 1.7e308]
SHARES = [0.0, 5e-324, 1e-310, 1e-46, 1e-17, 0.5, 0.9, 0.999, 1 - 2.0**-53]
OPTIONS: dict[str, list[Any]] = {
    "pack": [True],
    "max_grad_norm": [0.0, 1e-310, 1.0, 1e300, float("inf")],
    "skip_nonfinite": [True],
    "capturable": [True],
    "ema_decay": SHARES,
    "polyak_average": [True],
    "group_norms": [True],
    "master_weights": [False],
    "maximize": [True],
    "decoupled_weight_decay": [True],
}
SCALES = [None, None, 1e-310, 1e-38, 1e30, 65536.0, "scaler"]
SHAPES = [(3,), (2, 2), (), (0,)]


@contextmanager
def flushing() -> Iterator[None]:
    assert torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def scheduled(rng: np.random.Generator) -> Any:
    number = float(rng.choice(NUMBERS))
    return [
        lambda: schedules.constant(number, warmup_steps=3),
        lambda: schedules.linear(number, 5, end=float(rng.choice(NUMBERS))),
        lambda: schedules.cosine(number, 4, warmup_steps=2),
        lambda: schedules.inverse_sqrt(number),
        lambda: schedules.exponential_decay(float(rng.choice(SHARES)), 1e-3),
    ][rng.integers(5)]()


def drawn(seed: int) -> tuple[type[GpuOptimizer], dict[str, Any], Any]:
    """A class, its keywords, and a loss scale."""
    rng = np.random.default_rng(seed)
    name = str(rng.choice(list(OPTIMIZERS)))
    table = list(SETTINGS[name].values())
    keywords = dict(table[rng.integers(len(table))])
    for key in inspect.signature(OPTIMIZERS[name].__init__).parameters:  # type: ignore[misc]
        if rng.random() < 0.6:
            continue
        if key in ("lr", "weight_decay", "eps", "lr_decay", "initial_accumulator_value", "momentum_decay"):
            keywords[key] = float(rng.choice(NUMBERS))
            if key in ("lr", "weight_decay") and rng.random() < 0.3:
                keywords[key] = scheduled(rng)
        elif key in ("alpha", "rho", "momentum", "dampening"):
            keywords[key] = float(rng.choice(SHARES))
        elif key == "betas":
            keywords[key] = (float(rng.choice(SHARES)), float(rng.choice(SHARES)))
    for key, choices in OPTIONS.items():
        if rng.random() < 0.2 and not (key == "polyak_average" and "ema_decay" in keywords):
            keywords[key] = choices[rng.integers(len(choices))]
    return OPTIMIZERS[name], keywords, SCALES[rng.integers(len(SCALES))]


def arrays(seed: int, torches: bool) -> tuple[list[Any], list[list[Any]]]:
    """Parameters, and the gradients of some steps; made in the usual mode."""
    rng = np.random.default_rng(seed)
    formats = rng.choice(sorted(DTYPES), len(SHAPES) if rng.random() < 0.5 else 1).tolist() * len(SHAPES)
    made = [
        [
            values(np.dtype(DTYPES[f]), int(np.prod(shape)), 100 * seed + 10 * k + n).reshape(shape)
            for n, (shape, f) in enumerate(zip(SHAPES, formats, strict=False))
        ]
        for k in range(4)
    ]
    if torches:
        made = [[as_torch(array) for array in each] for each in made]
    return made[0], made[1:]


def bits(value: Any) -> Any:
    """Everything in a value as it lies in memory, but for which NaN a NaN is."""
    if isinstance(value, dict):
        return {key: bits(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(one) for one in value]
    if isinstance(value, torch.Tensor):
        value = value.detach()
        is_narrow = value.dtype == torch.bfloat16
        value = value.view(torch.int16).numpy().view(DTYPES["bfloat16"]) if is_narrow else value.numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        return np.where(np.isnan(value), np.zeros((), value.dtype), value).tobytes(), np.isnan(value).tobytes()
    return value.hex() if isinstance(value, float) else repr(value)


def ran(seed: int, surroundings: Callable[[], Any]) -> list[Any]:
    """What a program leaves in these surroundings: all states, or the kinds of the errors that it was refused with."""
    cls, keywords, scale = drawn(seed)
    params, steps = arrays(seed, torches=seed % 3 == 0)
    left: list[Any] = []

    def tried(call: Callable[[], Any]) -> Any:
        try:
            result = call()
        except (TypeError, ValueError, RuntimeError) as error:
            left.append(str(error).replace("0x", ""))
            return None
        left.append(copy.deepcopy(result) if not isinstance(result, (GpuOptimizer, LossScaler)) else None)
        return result

    with surroundings():
        opt = tried(lambda: cls(params, **keywords))
        if opt is None:
            return left
        given = scale
        if scale == "scaler":
            given = tried(lambda: LossScaler(opt, init_scale=2.0**100, growth_interval=1))
        tried(lambda: str(opt.plan))
        tried(lambda: repr(opt))
        for grads in steps:
            tried(lambda grads=grads: opt.step(grads, grad_scale=given))
            left.append(copy.deepcopy(params))
            tried(opt.state_dict)
            tried(lambda: opt.grad_norm)
            tried(lambda: opt.averaged_params)
            if scale == "scaler" and given is not None:
                left.append(given.state_dict())
        with suppress(RuntimeError), opt.averaged():
            left.append(copy.deepcopy(params))
        saved = tried(opt.state_dict)
        if saved is not None:
            tried(lambda: opt.load_state_dict(saved))
        tried(opt.reread_params)
        twin = tried(lambda: pickle.loads(pickle.dumps(opt)))
        for one in (opt, twin):
            if one is not None:
                tried(lambda one=one: one.step(steps[0]))
                tried(one.state_dict)
    return left


x86 = platform.machine().lower() in ("x86_64", "amd64")


@pytest.mark.parametrize("seed", range(16))
def test_a_program_in_any_surroundings(seed: int) -> None:
    expected = bits(ran(seed, nullcontext))
    for surroundings in (strict, *((flushing,) if x86 else ())):
        assert bits(ran(seed, surroundings)) == expected, surroundings.__name__


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1600))
def test_many_programs_in_any_surroundings(seed: int) -> None:
    test_a_program_in_any_surroundings(seed)


def growing(mul: Any, sqrt: Any, narrow: Any, power: Any) -> Callable[..., Any]:
    def coefficients(h, t, wide, row):  # type: ignore[no-untyped-def]
        row[A] = mul(narrow(h[LR], wide), 10.0**t) if t < 100 else narrow(h[OWN_0], wide)

    return coefficients


(A,) = own(1)


def plain(fma: Callable[..., Any], sqrt: Callable[..., Any]) -> Callable[..., Any]:
    def update(p, g, s0, s1, s2, c):  # type: ignore[no-untyped-def]
        return fma(-c[A], g, p), s0, s1, s2

    return update


class Growing(GpuOptimizer):
    """Its step is ten times the last one."""

    algorithm = Algorithm([Rule("growing", (), plain, growing)], [Number("last", OWN_0)])

    def __init__(self, params: Any, lr: Any, last: Any = 0.0) -> None:
        super().__init__(params, {"lr": lr, "last": last, "weight_decay": 0.0})


def test_a_rule_of_ones_own_whose_coefficients_grow_beyond_the_format_is_refused() -> None:
    p = np.zeros(3, np.float32)
    opt = Growing([p], lr=1e30)
    with strict():
        for _ in range(8):
            opt.step([np.full(3, 1e-30, np.float32)])
        before = p.copy(), opt.state_dict()["state"][0]["step"]
        for _ in range(2):
            with pytest.raises(ValueError, match="coefficient of step 9 infinite in float32"):
                opt.step([np.full(3, 1e-30, np.float32)])
    assert (p == before[0]).all()
    assert opt.state_dict()["state"][0]["step"] == before[1] == 8


@pytest.mark.skipif(not x86, reason="the mode is MXCSR's, of x86-64")
def test_schedules_by_themselves() -> None:
    def asked() -> list[float]:
        halved = schedules.exponential_decay(0.5, 0.5)
        tiny = schedules.constant(1e-310, warmup_steps=4)
        falling = schedules.linear(5e-324, 9, end=1e-315)
        root = schedules.inverse_sqrt(1e-307)
        return [halved(1070), tiny(1), falling(5), root(10**6)]

    expected = asked()
    with flushing():
        found = asked()
    assert [one.hex() for one in found] == [one.hex() for one in expected]
    assert all(one > 0.0 for one in found)
