"""What the paper's experiments compare: runs of one start, the settings that are chosen, and the orders of curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

from examples.paper import data, training
from examples.paper.experiments import EXPERIMENTS, vae_label
from examples.paper.published import CURVES
from examples.paper.results import best, corrections, rankings
from examples.paper.settings import OPTIMIZERS, decades, grid
from tests.examples.paper_runs import CPU, command, mlp_run

# The same start for all.


def test_all_optimizers_see_the_same_start_batches_and_noise(folder: Path, tmp_path: Path) -> None:
    examples = data.load("mnist", folder)
    seen: dict[str, list[Any]] = {}

    class Watched:
        def __init__(self, model: Any, log: list[Any]) -> None:
            self.model, self.log = model, log

        def __len__(self) -> int:
            return len(self.model)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.model, name)

        def backward(self, params: Any, grads: Any, chosen: Any, random: np.random.Generator) -> Any:
            start = {name: array.tobytes() for name, array in params.items()} if not self.log else None
            self.log.append((chosen.tolist(), random.bit_generator.state, start))
            return self.model.backward(params, grads, chosen, random)

    build = training.build
    with pytest.MonkeyPatch.context() as patch:
        for optimizer, (name, fixed) in OPTIMIZERS.items():
            log = seen.setdefault(optimizer, [])
            patch.setattr(training, "build", lambda *rest, log=log: Watched(build(*rest), log))
            training.train(mlp_run(optimizer=name, arguments={**fixed, "lr": 0.01}), examples, CPU, tmp_path)
    first, *others = seen.values()
    assert len(first) == 4 * 2  # 256 examples in batches of 128
    assert all(other == first for other in others)


# Choosing and comparing.


def outcome(label: str, costs: Sequence[float], diverged: int | None = None, **chosen: Any) -> dict[str, Any]:
    return {"label": label, "costs": list(costs), "diverged": diverged, "chosen": chosen, "seconds": 1.0}


def test_a_divergent_setting_is_not_chosen(folder: Path, tmp_path: Path) -> None:
    assert command(folder, tmp_path, "logistic-mnist") == 0
    found = json.loads((tmp_path / "results" / "tiny-logistic-mnist.json").read_text(encoding="utf-8"))
    adam = [run for run in found["runs"] if run["label"] == "Adam"]
    assert [run["diverged"] is None for run in adam] == [True, False]
    assert best(found["runs"])["Adam"]["chosen"] == {"lr": 0.01}
    assert "1 of them diverged" in (tmp_path / "RESULTS.md").read_text(encoding="utf-8")


def test_the_lowest_last_cost_is_chosen() -> None:
    runs = [outcome("Adam", [1, 5], lr=1), outcome("Adam", [2, 4], lr=2), outcome("Adam", [0], diverged=2, lr=3)]
    assert best(runs)["Adam"]["chosen"] == {"lr": 2}
    assert best(runs, 1)["Adam"]["chosen"] == {"lr": 1}
    assert best([runs[2]]) == {}


def test_orders_are_compared_with_the_papers() -> None:
    runs = [outcome("Adam", [0.2]), outcome("SGDNesterov", [0.5]), outcome("AdaGrad", [0.4])]
    (found,) = rankings("logistic-mnist", runs)
    assert found.ours == ["Adam", "AdaGrad", "SGDNesterov"]
    assert found.paper == ["Adam", "SGDNesterov", "AdaGrad"]
    assert (found.agreeing, found.pairs) == (2, 3)
    assert found.adam_lowest


def test_variants_are_ranked_apart() -> None:
    runs = [
        outcome(label, [value])
        for label, value in (("Adam", 2), ("AdaGrad", 1), ("Adam, dropout", 3), ("AdaGrad, dropout", 4))
    ]
    plain, dropped = rankings("cnn", runs)
    assert (plain.variant, plain.adam_lowest) == ("", False)
    assert (dropped.variant, dropped.adam_lowest) == ("dropout", True)


def test_bias_correction_is_compared_in_each_panel() -> None:
    runs = [
        outcome(vae_label(0.9, 0.999, True), [110, 100], lr=0.001),
        outcome(vae_label(0.9, 0.999, False), [105, 101], lr=0.01),
        outcome(vae_label(0.9, 0.9999, True), [110, 100], lr=0.001),
        outcome(vae_label(0.9, 0.9999, False), [], diverged=1, lr=0.01),
    ]
    found = {(one.beta1, one.beta2): one for one in corrections(runs)}
    assert found[0.9, 0.999].helps
    assert found[0.9, 0.999].without == (101, 0.01)
    assert found[0.9, 0.9999].helps
    assert found[0.9, 0.9999].without is None
    assert not {(one.beta1, one.beta2): one for one in corrections(runs, 1)}[0.9, 0.999].helps


def test_the_paper_told_a_value_for_every_curve() -> None:
    for name, experiment in EXPERIMENTS.items():
        if name == "vae":
            continue
        for scale in ("quick", "long", "full"):
            labels = {contender.label for contender in experiment.amount(scale).contenders}
            # In brackets: a curve that the paper does not have.
            assert {label for label in labels if "(" not in label} == set(CURVES[name]) - {"SFO"}


def test_grids() -> None:
    assert grid(lr=[1, 2], momentum=[3]) == [{"lr": 1, "momentum": 3}, {"lr": 2, "momentum": 3}]
    assert decades(-2, 0, 1) == [0.01, 0.1, 1.0]
