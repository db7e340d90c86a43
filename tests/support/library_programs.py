"""Programs on arrays of any library and on any engine that leave the same bits: what the tests of `GpuAdam` on a GPU share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_adam import GpuAdam
from tests.support.libraries import Array, Layout, host
from tests.support.library_cases import HOST, Case
from tests.support.reference import DTYPES, assert_same_bits
from tests.support.strategies import values


@dataclass(frozen=True)
class Tensor:
    """A parameter and its gradients."""

    param: str
    at: Layout
    grad: str = ""
    """The gradient's format; by default the parameter's."""
    grad_at: Layout | None = None
    group: int = 0
    without: tuple[int, ...] = ()
    """The steps in which the gradient is None."""

    def gradient(self, case: Case, step: int, seed: int) -> Any:
        if step in self.without:
            return None
        layout = self.grad_at or self.at
        return case.array(values(DTYPES[self.grad or self.param], layout.extent, 1000 * (step + 1) + seed), layout)


GROUPS: tuple[dict[str, Any], ...] = (
    {"lr": 0.01, "weight_decay": 0.1},
    {"lr": 0.5, "betas": (0.5, 0.75), "eps": 1e-3, "maximize": True},
)


class Training:
    """An optimizer over some tensors, whose numbers are a function of their place in the list and of the step alone."""

    def __init__(
        self, case: Case, tensors: Sequence[Tensor], memories: Sequence[Array] | None = None, **options: Any
    ) -> None:
        self.case, self.tensors, self.options = case, tensors, options
        if memories is None:
            memories = [values(DTYPES[one.param], one.at.extent, k) for k, one in enumerate(tensors)]
        self.memories = [case.library.memory(numbers) for numbers in memories]
        pairs = zip(self.memories, tensors, strict=True)
        self.params = [case.library.view(memory, DTYPES[one.param], one.at) for memory, one in pairs]
        groups = [{"params": own, **hyper} for own, hyper in zip(self.grouped(self.params), GROUPS, strict=False)]
        self.optimizer = GpuAdam(groups, engine=case.engine, **options)

    def grouped(self, leaves: Sequence[Any]) -> list[list[Any]]:
        count = 1 + max(one.group for one in self.tensors)
        pairs = list(zip(leaves, self.tensors, strict=True))
        return [[leaf for leaf, one in pairs if one.group == group] for group in range(count)]

    def gradients(self, step: int) -> list[list[Any]]:
        return self.grouped([one.gradient(self.case, step, k) for k, one in enumerate(self.tensors)])

    def step(self, *steps: int) -> Training:
        for step in steps:
            self.optimizer.step(self.gradients(step))
        return self

    def numbers(self) -> list[Array]:
        """The memory of each parameter, what lies around it included."""
        pairs = zip(self.memories, self.tensors, strict=True)
        return [host(memory, DTYPES[one.param]) for memory, one in pairs]

    def left(self) -> dict[str, Array]:
        """Everything that the program has left behind, by name."""
        if self.options.get("pack"):
            leaves = [leaf for group in self.optimizer.params for leaf in group]
            out = {f"parameter {k}": host(leaf) for k, leaf in enumerate(leaves)}
        else:
            out = {f"memory {k}": numbers for k, numbers in enumerate(self.numbers())}
        for k, entry in self.optimizer.state_dict()["state"].items():
            out[f"step {k}"] = np.array(float(entry["step"]))
            out.update({f"{name} {k}": host(array) for name, array in entry.items() if name != "step"})
        return out

    def handed_over(self, case: Case) -> Training:
        """The same training, taken up elsewhere by way of the state dict."""
        saved = self.optimizer.state_dict()
        entries = {k: dict(entry) for k, entry in saved["state"].items()}
        other = Training(case, self.tensors, self.numbers(), **self.options)
        other.optimizer.load_state_dict(saved)
        assert all(saved["state"][k][name] is array for k, entry in entries.items() for name, array in entry.items())
        agree(other.left(), self.left())
        return other


def agree(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert_same_bits(found[name], array, name)


def compare(case: Case, tensors: Sequence[Tensor], steps: int = 4, **options: Any) -> Training:
    """Run the same program here and on the host."""
    training = Training(case, tensors, **options).step(*range(steps))
    agree(training.left(), Training(HOST, tensors, **options).step(*range(steps)).left())
    return training


def of_every_format(case: Case, *layouts: Layout, **about: Any) -> list[Tensor]:
    return [Tensor(name, layout, **about) for name in case.library.formats for layout in layouts]
