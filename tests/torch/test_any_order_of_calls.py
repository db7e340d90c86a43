"""Whatever is done to an optimizer, in any order: its state dict is whole, and one that loads it makes the same bits from there."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.support.torch_classes import RICH, ours, parameters, same_bits, state_bits  # noqa: E402

SHAPES: tuple[tuple[int, ...], ...] = ((3, 4), (5,), (), (0,), (2, 1, 3))
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"max_grad_norm": 0.5},
    {"ema_decay": 0.5},
    {"capturable": True},
    {"skip_nonfinite": True, "polyak_average": True},
    {"pack": True, "max_grad_norm": 1.0},
)


class Run:
    """An optimizer under random calls.

    Args:
        name: Its class.
        options: What it is made with.
        seed: Of the calls.
    """

    def __init__(self, name: str, options: dict[str, Any], seed: int) -> None:
        self.name, self.options = name, {"lr": 0.01, **RICH.get(name, {}), **options}
        self.random = random.Random(seed)
        self.opt = ours(
            name, [{"params": parameters(SHAPES)}, {"params": parameters(((4,),)), "lr": 0.1}], **self.options
        )

    @property
    def params(self) -> list[Any]:
        return [p for group in self.opt.param_groups for p in group["params"]]

    def any_entry(self) -> Any:
        entries = [entry for entry in self.opt.state.values() if entry]
        return self.random.choice(entries) if entries else {}

    def step(self) -> None:
        """A step, some of whose gradients are absent, beside one of an optimizer that loads the state dict of before."""
        groups = [
            {**group, "params": [torch.nn.Parameter(p.detach().clone()) for p in group["params"]]}
            for group in self.opt.param_groups
        ]
        # Of the same strides, by which norms are summed.
        other = ours(self.name, groups, **{**self.options, "max_grad_norm": self.opt.max_grad_norm})
        other.load_state_dict(deepcopy(self.opt.state_dict()))
        twins = [p for group in other.param_groups for p in group["params"]]
        for p, twin in zip(self.params, twins, strict=True):
            # Packed, an absent gradient is the zeros of a bucket, or stays absent, as it was before.
            is_there = self.options.get("pack") or self.random.random() < 0.7
            value = torch.randn(p.shape, generator=torch.Generator().manual_seed(self.random.randrange(1 << 30)))
            p.grad, twin.grad = (value.to(p.dtype).clone() if is_there else None for _ in range(2))
        self.opt.step()
        other.step()
        assert same_bits(self.params, twins)
        assert state_bits(self.opt) == state_bits(other)
        assert self.opt.steps_skipped == other.steps_skipped

    def edit(self) -> None:
        for key, value in self.any_entry().items():
            if key != "master":  # where it does not round to its parameter, a load goes by the parameter
                value.add_(1)

    def assign(self) -> None:
        entry = self.any_entry()
        for key in list(entry):
            entry[key] = entry[key].clone() * 2

    def delete(self) -> None:
        self.opt.state.pop(self.random.choice(self.params), None)

    def convert(self) -> None:
        model = torch.nn.ParameterList(self.params)
        getattr(model, self.random.choice(("float", "double", "bfloat16")))()

    def give_memory(self) -> None:
        for p in self.params:
            p.data = p.data.clone()

    def tune(self) -> None:
        group = self.random.choice(self.opt.param_groups)
        group.update(lr=self.random.random() / 10, weight_decay=self.random.choice((0.0, 0.1)), maximize=False)

    def clip(self) -> None:
        self.opt.max_grad_norm = self.random.choice((None, 0.3, float("inf")))

    def add(self) -> None:
        self.opt.add_param_group({"params": parameters(((2,), (3, 2)), dtype=self.params[0].dtype), "lr": 0.05})

    def drop(self) -> None:
        if len(self.opt.param_groups) > 1:
            gone = self.opt.param_groups.pop(self.random.randrange(len(self.opt.param_groups)))
            for p in gone["params"]:
                self.opt.state.pop(p, None)

    def rearrange(self) -> None:
        for group in self.opt.param_groups:
            self.random.shuffle(group["params"])

    def copy(self) -> None:
        self.opt = deepcopy(self.opt) if self.random.random() < 0.5 else pickle.loads(pickle.dumps(self.opt))

    def average(self) -> None:
        before = [p.detach().clone() for p in self.params]
        if any("average" in entry for entry in self.opt.state.values()):
            with self.opt.averaged():
                pass
        assert same_bits(self.params, before)

    def reload(self) -> None:
        self.opt.load_state_dict(self.opt.state_dict())

    def clear(self) -> None:
        self.opt.zero_grad(self.random.random() < 0.5)


CALLS: tuple[Callable[[Run], None], ...] = (
    Run.edit, Run.assign, Run.delete, Run.convert, Run.give_memory, Run.tune, Run.clip, Run.add, Run.drop, Run.rearrange, Run.copy,
    Run.average, Run.reload, Run.clear,
)  # fmt: skip


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 30))])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["Adam", "SGD", "NAdam", "RMSprop"])
def test_calls_in_any_order(name: str, options: dict[str, Any], seed: int) -> None:
    run = Run(name, options, seed)
    called: list[str] = []
    try:
        for _ in range(20):
            for call in run.random.choices(CALLS, k=run.random.randrange(3)):
                called.append(call.__name__)
                call(run)
            called.append("step")
            run.step()
    except Exception as error:
        raise AssertionError(f"after {' '.join(called)}") from error
