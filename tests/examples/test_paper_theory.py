"""Theorem 4.1 on convex losses that come one after another, and the counterexamples on which Adam does not converge.

The runs are the experiment's own at its quick scale (`examples/paper/theory.py`), so these tests hold what its figure shows.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.paper import theory
from examples.paper.online import Linear, Online, Setting, play, regret

# The exponent of R(T)/T is fitted over checkpoints from T/30 to T. In Zinkevich's setting, half of which is coins, it was -0.51 ± 0.035
# over twelve seeds, and -0.61 ± 0.011 and -0.73 ± 0.020 in the others, where starting up still shows: this is twice the largest.
SLOPE_ERROR = 0.07

FAMILIES = sorted(theory.FAMILIES)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return theory.measure(quick=True)


# The theorem.


def test_the_regret_stays_below_the_theorems_bound(results: dict[str, Any]) -> None:
    assert len(results["families"]) == len(FAMILIES) * len(theory.SETTINGS)
    for row in results["families"]:
        assert min(row["average_regret"]) > 0, "the best point in hindsight is better than the points that were played"
        assert 0 < row["largest_share_of_bound"] < 1, "in every problem, at every checkpoint"


def test_the_bound_says_something(results: dict[str, Any]) -> None:
    """With moderate betas it ends well below G·D, which bounds any points' average regret; with λ = 1 - 1e-8 it never gets there."""
    for row in results["families"]:
        if row["setting"] == str(theory.SETTINGS[0]):
            assert row["average_bound"][-1] < row["average_trivial"][-1] / 2
        else:
            assert row["average_bound"][-1] > 1e9 * row["average_trivial"][-1]


def test_the_average_regret_falls_like_one_over_the_root_of_t(results: dict[str, Any]) -> None:
    for row in results["families"]:
        assert row["slope"] <= -0.5 + SLOPE_ERROR, row["family"]


def test_what_the_proof_takes_for_granted_does_not_hold(results: dict[str, Any]) -> None:
    """√(t·v̂_t) falls in a good part of all steps, so that the bound holds in these runs for other reasons than the proof's."""
    for row in results["families"]:
        assert row["fell"] > 0.1


def test_the_bound_is_the_papers_formula() -> None:
    steps, setting = 3, Setting(alpha=0.25, beta1=0.5, beta2=0.75, decay=0.5)
    gradients = np.array([[[1.0, -2.0]], [[-1.0, 0.5]], [[3.0, 1.0]]])
    run = play(Linear(gradients, np.array([[0.5, -0.5]])), steps, setting, [steps])
    best = np.array([[-1.0, 1.0]])
    alpha, beta1, beta2, decay, gamma = 0.25, 0.5, 0.75, 0.5, 0.25 / math.sqrt(0.75)
    v = [sum((1 - beta2) * beta2 ** (2 - t) * gradients[t, 0, i] ** 2 for t in range(3)) for i in range(2)]
    v_hat = [one / (1 - beta2**3) for one in v]
    away = [[run.points[t, 0, i] - best[0, i] for i in range(2)] for t in range(3)]
    d, d_inf, g_inf = max(math.hypot(*a) for a in away), max(abs(x) for a in away for x in a), 3.0
    sizes = sum(math.sqrt(sum(gradients[t, 0, i] ** 2 for t in range(3))) for i in range(2))
    first = d**2 / (2 * alpha * (1 - beta1)) * sum(math.sqrt(3 * one) for one in v_hat)
    second = alpha * (1 + beta1) * g_inf / ((1 - beta1) * math.sqrt(1 - beta2) * (1 - gamma) ** 2) * sizes
    third = 2 * d_inf**2 * g_inf * math.sqrt(1 - beta2) / (2 * alpha * (1 - beta1) * (1 - decay) ** 2)
    np.testing.assert_allclose(theory.bound(run, steps, best)[:, 0], [first, second, third], rtol=1e-14)


# The losses.


@pytest.mark.parametrize("name", FAMILIES)
def test_no_other_point_is_better_in_hindsight(name: str) -> None:
    steps = 300
    problem: Online = theory.FAMILIES[name](steps)
    run, best = play(problem, steps, theory.SETTINGS[0]), problem.best(steps)
    rng = np.random.default_rng(0)
    for size in (1e-4, 1e-2, 1.0):
        other = best + size * rng.standard_normal(best.shape)
        if problem.box is not None:
            other = np.clip(other, -problem.box, problem.box)
        assert (regret(problem, run, steps, other) <= regret(problem, run, steps, best)).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_the_losses(name: str) -> None:
    problem: Online = theory.FAMILIES[name](4)
    run = play(problem, 4, theory.SETTINGS[0])
    for k in range(run.points.shape[-1]):
        aside = np.zeros(run.points.shape[-1])
        aside[k] = 1e-5
        slope = (problem.losses(run.points + aside) - problem.losses(run.points - aside)) / 2e-5
        np.testing.assert_allclose(run.gradients[..., k], slope, atol=1e-8)


def test_the_adversary_answers_the_point_and_the_box_holds_it() -> None:
    problem = theory.Zinkevich(400)
    run = play(problem, 400, theory.SETTINGS[0])
    assert (np.sign(run.gradients) == np.sign(run.points))[..., 3:].all()
    assert abs(run.points).max() == problem.box == 1.0, "the walls are met, and not passed"


# The counterexamples.


def test_adam_goes_to_the_worst_point_and_amsgrad_to_the_best(results: dict[str, Any]) -> None:
    """From the best point itself too. The example of period 101 is slower: AMSGrad is on its way after as many steps."""
    for row in results["periods"]:
        ends = row["points"][-1]
        if row["rule"] != "AMSGrad":
            assert min(ends) > 0.9, row
        else:
            assert max(ends) < (-0.99 if row["period"] == 3 else -0.7), row


def test_adams_average_regret_stays_and_amsgrads_vanishes(results: dict[str, Any]) -> None:
    """2(C - 2)/3 = 2/3 a step is the regret of staying at the worst point; the theorem's bound falls far below it."""
    rows = {row["rule"]: row for row in results["periods"] if row["period"] == 3}
    for rule in ("Adam, as published", "Adam, Algorithm 1"):
        assert rows[rule]["average_regret"][-1] == pytest.approx(2 / 3, rel=0.02)
        assert min(rows[rule]["average_regret"]) > 0.4
        assert rows[rule]["average_bound"][-1] < 0.2
        assert rows[rule]["last_share_of_bound"] > 1, "the theorem as it stands is refuted, from every start"
    amsgrad = rows["AMSGrad"]
    assert theory.slope(amsgrad["steps"], amsgrad["average_regret"]) < -0.5
    assert amsgrad["average_regret"][-1] < 0.03


# As files.


def test_results_are_drawn_tabled_and_saved(results: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "theory.png"
    saved = json.loads(json.dumps(results))
    theory.draw(saved, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    text = theory.table(saved)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 * 2 + len(saved["families"]) + len(saved["periods"])
    assert text == theory.table(results)
