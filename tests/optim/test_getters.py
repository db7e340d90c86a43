"""Whoever looks changes nothing: drawn orders of calls leave the same bits with and without getters in between."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam, LossScaler
from tests.support.reference import DTYPES
from tests.support.rule_cases import SETTINGS
from tests.support.shipped import OPTIMIZERS
from tests.support.torch_tensors import as_torch

torch = pytest.importorskip("torch")

SHAPES = [(3, 2), (4,), (), (0,)]
FLAGS = ("pack", "skip_nonfinite", "capturable", "group_norms", "maximize")


def bits(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach()
        value = value.view(torch.int16).numpy() if value.dtype == torch.bfloat16 else value.numpy()
    return value.tobytes() if hasattr(value, "tobytes") else value


class Program:
    """An optimizer of parameters that hold NaN until weights are loaded, and what is done with it."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        name = str(rng.choice(list(OPTIMIZERS)))
        table = list(SETTINGS[name].values())
        options: dict[str, Any] = {key: True for key in FLAGS if rng.random() < 0.3}
        options |= [{}, {"ema_decay": 0.9}, {"polyak_average": True}][rng.integers(3)]
        options |= [{}, {"max_grad_norm": 0.5}][rng.integers(2)]
        options |= [{}, {}, {"master_weights": False}][rng.integers(3)]
        self.torch = bool(rng.integers(2))
        self.formats = [DTYPES[str(rng.choice(sorted(DTYPES)))] for _ in SHAPES]
        empty = [np.full(shape, np.nan, f) for shape, f in zip(SHAPES, self.formats, strict=True)]
        self.given = [torch.nn.Parameter(as_torch(one)) for one in empty] if self.torch else empty
        groups = [{"params": self.given[:2]}, {"params": self.given[2:]}]
        self.opt: Any = OPTIMIZERS[name](groups, **table[rng.integers(len(table))], **options)  # type: ignore[call-arg]
        self.scaler = LossScaler(self.opt) if rng.random() < 0.3 else None
        self.packed = "pack" in options
        self.saved: Any = None
        self.draws = 0
        self.left: list[Any] = []

    def drawn(self) -> list[Any]:
        # Each time in a binade of their own: what is written twice between two looks is told from a master weight by its value.
        self.draws += 1
        scale = 2.0 ** (self.draws % 18 - 8)
        arrays = [
            np.asarray(scale * self.rng.choice([-1, 1], shape) * self.rng.uniform(1, 2, shape)).astype(f).reshape(shape)
            for shape, f in zip(SHAPES, self.formats, strict=True)
        ]
        return [as_torch(one) for one in arrays] if self.torch else arrays

    def params(self) -> list[Any]:
        return [param for group in self.opt.params for param in group]

    def load_weights(self) -> None:
        for param, value in zip(self.params(), self.drawn(), strict=True):
            if self.torch:
                with torch.no_grad():
                    param.copy_(value)
            else:
                param[...] = value

    def step(self) -> None:
        grads = [None if self.rng.random() < 0.25 else grad for grad in self.drawn()]
        self.opt.step([grads[:2], grads[2:]], grad_scale=self.scaler)

    def save(self) -> None:
        self.saved = self.opt.state_dict()

    def load(self) -> None:
        if self.saved is not None:
            self.opt.load_state_dict(self.saved)

    def load_a_part(self) -> None:
        saved = self.opt.state_dict()
        for entry in saved["state"].values():
            entry.pop(str(self.rng.choice(["average", "master"])), None)
        self.opt.load_state_dict(saved)

    def freeze_or_thaw(self) -> None:
        k, trains = int(self.rng.integers(len(SHAPES))), bool(self.rng.integers(2))
        if self.torch:
            self.given[k].requires_grad_(trains)

    def swap_memory(self) -> None:
        k, values = int(self.rng.integers(len(SHAPES))), self.drawn()
        if self.torch and not self.packed:
            self.given[k].data = values[k]

    def edit(self) -> None:
        self.opt.param_groups[1]["lr"] = float(self.rng.random() / 10)

    def reread(self) -> None:
        self.opt.reread_params()

    def clip(self) -> None:
        self.opt.max_grad_norm = 0.7

    def look(self, rng: np.random.Generator) -> None:
        def averaged() -> None:
            with self.opt.averaged():
                pass

        getters: list[Callable[[], Any]] = [
            self.opt.state_dict,
            lambda: self.opt.averaged_params,
            averaged,
            lambda: str(self.opt.plan),
            lambda: (self.opt.grads, self.opt.params, self.opt.param_groups),
            lambda: repr(self.opt),
            lambda: (self.opt.grad_norm, self.opt.group_grad_norms),
            lambda: (self.opt.steps_skipped, self.opt.max_grad_norm),
            lambda: copy.deepcopy(self.opt),
            lambda: pickle.dumps(self.opt),
            lambda: self.scaler and (self.scaler.state_dict(), self.scaler.get_scale(), repr(self.scaler)),
        ]
        for _ in range(rng.integers(1, 6)):
            with suppress(RuntimeError):
                getters[rng.integers(len(getters))]()

    def run(self, looks: bool) -> list[Any]:
        looking = np.random.default_rng(99)
        calls = [
            self.load_weights, self.step, self.step, self.step, self.save, self.load, self.load_a_part, self.freeze_or_thaw,
            self.swap_memory, self.edit, self.reread, self.clip,
        ]  # fmt: skip
        for k in self.rng.integers(0, len(calls), 14):
            if looks:
                self.look(looking)
            calls[k]()
            self.left.append([calls[k].__name__, *map(bits, self.params())])
        state = self.opt.state_dict()["state"]
        self.left.append({k: {key: bits(value) for key, value in entry.items()} for k, entry in state.items()})
        return self.left


@pytest.mark.parametrize("seed", range(16))
def test_getters_change_no_later_bit(seed: int) -> None:
    with np.errstate(all="ignore"):
        assert Program(seed).run(looks=True) == Program(seed).run(looks=False)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 2500))
def test_getters_change_no_later_bit_of_many_programs(seed: int) -> None:
    test_getters_change_no_later_bit(seed)


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("kind", [{"ema_decay": 0.9}, {"polyak_average": True}], ids=["exponential", "plain"])
@pytest.mark.parametrize("options", [{}, {"pack": True}, {"capturable": True}, {"skip_nonfinite": True}], ids=str)
@pytest.mark.parametrize("format", sorted(DTYPES))
def test_an_average_does_not_know_what_was_there_before_the_first_step(
    format: str, options: dict[str, Any], kind: dict[str, Any], looks: bool
) -> None:
    p = np.full(5, np.nan, DTYPES[format])
    opt = GpuAdam([p], **options, **kind)
    if looks:
        opt.state_dict(), opt.averaged_params, str(opt.plan), repr(opt), copy.deepcopy(opt), pickle.dumps(opt)
        with opt.averaged():
            pass
    opt.params[0][...] = 1.0
    opt.step([np.ones(5, DTYPES[format])])
    (average,) = opt.averaged_params
    assert np.isfinite(average.astype(np.float64)).all()
    expected = np.ones(5, DTYPES[format])
    other = GpuAdam([expected], **options, **kind)
    other.step([np.ones(5, DTYPES[format])])
    assert average.tobytes() == other.averaged_params[0].tobytes()
