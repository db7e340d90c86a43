"""The terms in which experiments are described: runs, and the grids they come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

Arguments = Mapping[str, Any]

OPTIMIZERS: dict[str, tuple[str, Arguments]] = {
    "Adam": ("GpuAdam", {}),
    "SGDNesterov": ("GpuSgd", {"nesterov": True, "momentum": 0.9}),
    "AdaGrad": ("GpuAdaGrad", {}),
    "RMSProp": ("GpuRmsProp", {}),
    "AdaDelta": ("GpuAdaDelta", {}),
}
"""The paper's names: the class in `gpu_adam`, and the arguments that are not searched for."""

SCALES = {
    "tiny": "seconds, for tests: nothing is meant",
    "quick": "within 15 minutes on two cores (the default)",
    "long": "two hours on two cores: the paper's first 10 to 25 epochs where all are too many",
    "full": "the paper's epochs, all examples and a dense grid: many hours on a GPU",
}
"""From the smallest to the largest."""
BATCH = 128
REVISION = 1
"""To be raised where the same settings come to mean another computation, so that older results are not taken for new ones."""


def grid(**values: Sequence[Any]) -> list[Arguments]:
    """All combinations.

    >>> grid(lr=[0.1, 0.2], momentum=[0.9])
    [{'lr': 0.1, 'momentum': 0.9}, {'lr': 0.2, 'momentum': 0.9}]
    """
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


def decades(low: float, high: float, per_decade: int = 2) -> list[float]:
    """Powers of ten from ``10**low`` to ``10**high``, to three digits.

    >>> decades(-3, -2)
    [0.001, 0.00316, 0.01]
    """
    count = round((high - low) * per_decade)
    return [float(f"{10 ** (low + k / per_decade):.3g}") for k in range(count + 1)]


@dataclass(frozen=True)
class Contender:
    """A curve of a figure: an optimizer with all the settings that are tried.

    Attributes:
        label: The curve's name.
        optimizer: A key of `OPTIMIZERS`.
        settings: Arguments, of which the best are shown.
        model: What this curve's model has otherwise than the experiment's.
        decays: Whether its learning rate decays, if otherwise than the experiment's.
    """

    label: str
    optimizer: str
    settings: Sequence[Arguments]
    model: Arguments = field(default_factory=dict)
    decays: bool | None = None


@dataclass(frozen=True)
class Scale:
    """How much of an experiment is run.

    Attributes:
        epochs: Passes over the training examples.
        contenders: The curves and their grids.
        examples: How many training examples are used; ``None`` for all.
    """

    epochs: int
    contenders: Sequence[Contender]
    examples: int | None = None


@dataclass(frozen=True)
class Experiment:
    """An experiment of the paper.

    Attributes:
        title: What it is.
        figure: Where the paper shows it.
        data: A key of `data.SOURCES`.
        kind: Which model; see `training.build`.
        model: Its arguments.
        scales: How much of it is run, by scale; without a ``"long"`` one that is the full one.
        paper: The paper's epochs and examples.
        decays: Whether the learning rate of step t is α/√t.
        l2: The strength of the L2 penalty l2/2·‖w‖² on the weights, not on the biases. The costs shown do not include it.
        choices: What the paper does not state, and what was chosen.
        doubts: Why an order may differ from the paper's; shown where one does.
    """

    title: str
    figure: str
    data: str
    kind: str
    model: Arguments
    scales: Mapping[str, Scale]
    paper: tuple[int, int]
    decays: bool = False
    l2: float = 0.0
    choices: str = ""
    doubts: str = ""

    def amount(self, scale: str) -> Scale:
        """How much of it a scale takes."""
        return self.scales[scale] if scale in self.scales else self.scales["full"]

    def runs(self, name: str, scale: str, data: str) -> Iterator[Run]:
        """Every run of a scale, on data of that fingerprint."""
        amount = self.amount(scale)
        for contender in amount.contenders:
            optimizer, fixed = OPTIMIZERS[contender.optimizer]
            for arguments in contender.settings:
                yield Run(
                    experiment=name,
                    label=contender.label,
                    data=data,
                    examples=amount.examples,
                    kind=self.kind,
                    model={**self.model, **contender.model},
                    optimizer=optimizer,
                    arguments={**fixed, **arguments},
                    searched=tuple(arguments),
                    decays=self.decays if contender.decays is None else contender.decays,
                    l2=self.l2,
                    epochs=amount.epochs,
                )


@dataclass(frozen=True)
class Run:
    """One training run, by all that its result depends on but the device.

    Attributes:
        experiment: The experiment's name, which seeds all that is random.
        label: The curve it competes for.
        data: The fingerprint of the data.
        examples: How many examples of it; ``None`` for all.
        kind: Which model.
        model: The model's arguments.
        optimizer: A class in `gpu_adam`.
        arguments: Its arguments.
        searched: Which of them are searched over.
        decays: Whether the learning rate of step t is ``lr/√t``.
        l2: The strength of the L2 penalty on the weights.
        epochs: Passes over the examples.
        batch: Examples of a step.
        revision: See `REVISION`.
    """

    experiment: str
    label: str
    data: str
    examples: int | None
    kind: str
    model: Arguments
    optimizer: str
    arguments: Arguments
    searched: Sequence[str]
    decays: bool
    l2: float
    epochs: int
    batch: int = BATCH
    revision: int = REVISION

    @property
    def key(self) -> str:
        """Digits that are the same only where all settings are."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:20]

    @property
    def chosen(self) -> dict[str, Any]:
        """The arguments that were searched over."""
        return {name: self.arguments[name] for name in self.searched}
