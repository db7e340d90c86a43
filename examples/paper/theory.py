"""Theorem 4.1 measured: the regret of online convex runs beside the theorem's bound, and the published runs that break it.

The theorem bounds R(T) = Σ f_t(θ_t) - min_θ Σ f_t(θ) for convex losses, with α_t = α/√t and β1,t = β1·λ^(t-1). Here every quantity in
the bound comes from the run itself: G∞ is the largest gradient element that was met, D and D∞ are the largest distances of the points
from the comparator (the theorem speaks of any two points, its proof uses these), v̂ is read from the optimizer's state. That is the
smallest bound that the theorem gives.

The theorem supposes that all points stay within D∞ of each other, and has no projection that would see to it. Where a problem has a box,
as in Zinkevich's setting (2003), the caller projects after each step by clipping. A box is what suits Adam: its projection is
element by element, so it is the nearest point in the norm scaled by √v̂ as well, no distance to a comparator in the box grows, and
nothing in the proof changes. The moments are left alone.

The proof has a gap: it sums √(t·v̂_t) - √((t-1)·v̂_(t-1)) as if none were negative. `fell` counts how often one is. Reddi, Kale and
Kumar (2018) found the gap, and convex losses on which Adam's regret grows like T; AMSGrad, which divides by the largest v so far, is
their repair. Their Adam corrects no bias, as `GpuAdam` does not with ``bias_correction=False``; Adam is run with and without.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from .online import PAPERS_DECAY, Floats, Linear, Logistic, Online, Quadratics, Run, Setting, Zinkevich, play, regret

STEPS = {True: 10_000, False: 100_000}
"""Of a run, quick and full."""

FIRST = 100
"""The first number of steps with a comparator: enough losses for one to be the best."""

TAIL = 30
"""The slope is fitted over the steps from the last one's this part on, where starting up no longer counts."""

SETTINGS = (Setting(0.3, 0.5, 0.99, 0.9), Setting(0.3, 0.9, 0.999, PAPERS_DECAY))
"""One in which the bound says something after some thousand steps, and the paper's, in which λ alone makes it 10^16 and more."""

PERIODS = {3: (3.0, 1.0, Setting(0.2, 0.0, 0.1, 0.5)), 101: (1010.0, 10.0, Setting(0.5, 0.9, 0.99, 1.0))}
"""The published counterexamples on [-1, 1]: the loss c·x in the first of so many steps and -d·x in the others, where c, d and the
setting are these. -1 is the best point and 1 the worst.

The first is that of Reddi, Kale and Kumar's Theorem 1, for C = 3 with β2 = 1/(1 + C²) and α < √(1-β2); where β1 is 0 any λ does, so
the bound holds as it stands. The second is that of their section 5, where the momentum stays; they do not tell α.
"""

STARTS = (-1.0, 0.0, 1.0)

FAMILIES = {"quadratics": Quadratics, "logistic losses": Logistic, "Zinkevich's setting": Zinkevich}

RULES: dict[str, dict[str, Any]] = {
    "Adam, as published": {"bias_correction": False},
    "Adam, Algorithm 1": {},
    "AMSGrad": {"bias_correction": False, "amsgrad": True},
}


def bound(run: Run, steps: int, best: Floats) -> Floats:
    """The three terms of Theorem 4.1 after a checkpoint's number of steps, of shape (3, problems)."""
    alpha, beta1, beta2, decay = run.setting.alpha, run.setting.beta1, run.setting.beta2, run.setting.decay
    gradients, away = run.gradients[:steps], run.points[:steps] - best
    largest = abs(gradients).max(axis=(0, 2))
    furthest = (away**2).sum(axis=-1).max(axis=0), (away**2).max(axis=(0, 2))
    gamma, dims = beta1**2 / sqrt(beta2), best.shape[-1]
    return np.stack(
        [
            furthest[0] / (2 * alpha * (1 - beta1)) * np.sqrt(steps * run.seconds[steps]).sum(axis=-1),
            alpha * (1 + beta1) * largest / ((1 - beta1) * sqrt(1 - beta2) * (1 - gamma) ** 2)
            * np.sqrt((gradients**2).sum(axis=0)).sum(axis=-1),
            dims * furthest[1] * largest * sqrt(1 - beta2) / (2 * alpha * (1 - beta1) * (1 - decay) ** 2),
        ]
    )  # fmt: skip


def trivial(run: Run, steps: int, best: Floats) -> Floats:
    """T·G·D, which bounds the regret of any points whatever: a bound above it says nothing."""
    size = np.sqrt((run.gradients[:steps] ** 2).sum(axis=-1)).max(axis=0)
    return steps * size * np.sqrt(((run.points[:steps] - best) ** 2).sum(axis=-1)).max(axis=0)


def fell(run: Run) -> float:
    """The share of steps and elements in which √(t·v̂_t) became smaller, which the proof takes never to happen."""
    beta2, before, count = run.setting.beta2, np.zeros(run.points.shape[1:]), 0
    second = before
    for t, gradient in enumerate(run.gradients, start=1):
        second = beta2 * second + (1 - beta2) * gradient**2
        now = t * second / (1 - beta2**t)
        count += int((now < before).sum())
        before = now
    return count / run.gradients.size


def slope(steps: Sequence[int], averages: Sequence[float]) -> float:
    """The exponent of R(T)/T as a power of T, by least squares over the tail; where the average is at most 0, -∞."""
    tail = [k for k, count in enumerate(steps) if count * TAIL >= steps[-1]]
    values = np.array([averages[k] for k in tail])
    if (values <= 0).any():
        return -np.inf
    return float(np.polyfit(np.log([steps[k] for k in tail]), np.log(values), 1)[0])


def checkpoints(steps: int) -> list[int]:
    """Numbers of steps, ten to a decade, from the first to all."""
    return sorted({round(FIRST * 10 ** (k / 10)) for k in range(round(10 * np.log10(steps / FIRST)))} | {steps})


def measure_family(name: str, setting: Setting, steps: int) -> dict[str, Any]:
    """One family under one setting: means over its problems, and the worst of them."""
    problem: Online = FAMILIES[name](steps)
    at = checkpoints(steps)
    run = play(problem, steps, setting, at)
    bests = [problem.best(count) for count in at]
    regrets = np.stack([regret(problem, run, count, best) for count, best in zip(at, bests, strict=True)])
    terms = np.stack([bound(run, count, best) for count, best in zip(at, bests, strict=True)])
    averages = (regrets.mean(axis=-1) / at).tolist()
    return {
        "family": name,
        "setting": str(setting),
        "problems": run.points.shape[1],
        "dims": run.points.shape[2],
        "steps": at,
        "average_regret": averages,
        "average_bound": (terms.sum(axis=1).mean(axis=-1) / at).tolist(),
        "average_trivial": [
            float(trivial(run, count, best).mean() / count) for count, best in zip(at, bests, strict=True)
        ],
        "last_terms": terms[-1].mean(axis=-1).tolist(),
        "largest_share_of_bound": float((regrets / terms.sum(axis=1)).max()),
        "slope": slope(at, averages),
        "fell": fell(run),
    }


def measure_period(period: int, rule: str, steps: int) -> dict[str, Any]:
    """One counterexample under one rule: means over the starts, and the points of each."""
    up, down, setting = PERIODS[period]
    gradients = np.where(np.arange(steps) % period == 0, up, -down)[:, None, None]
    problem = Linear(np.broadcast_to(gradients, (steps, len(STARTS), 1)), np.array(STARTS)[:, None])
    # After whole periods, or -1 need not be the best point.
    at = [count // period * period for count in checkpoints(steps)][1:]
    run = play(problem, at[-1], setting, at, **RULES[rule])
    bests = [problem.best(count) for count in at]
    regrets = np.stack([regret(problem, run, count, best) for count, best in zip(at, bests, strict=True)])
    bounds = None
    if setting.beta1 == 0.0 and rule != "AMSGrad":
        bounds = np.stack([bound(run, count, best).sum(axis=0) for count, best in zip(at, bests, strict=True)])
    return {
        "period": period,
        "rule": rule,
        "setting": str(setting),
        "steps": at,
        "average_regret": (regrets.mean(axis=-1) / at).tolist(),
        "average_bound": None if bounds is None else (bounds.mean(axis=-1) / at).tolist(),
        "last_share_of_bound": None if bounds is None else float((regrets / bounds)[-1].min()),
        "worst_average_regret": 2 * (up - (period - 1) * down) / period,
        "points": run.points[np.array(at) - 1, :, 0].tolist(),
    }


def measure(quick: bool) -> dict[str, Any]:
    """All runs, as values for JSON.

    Args:
        quick: Whether to take a tenth of the steps.
    """
    steps = STEPS[quick]
    families = [(name, setting) for name in FAMILIES for setting in SETTINGS]
    periods = [(period, rule) for period in PERIODS for rule in RULES]
    with tqdm(total=len(families) + len(periods), desc="theory", disable=None, unit="run") as bar:

        def told(row: dict[str, Any]) -> dict[str, Any]:
            bar.update()
            return row

        return {
            "quick": quick,
            "steps": steps,
            "families": [told(measure_family(*which, steps)) for which in families],
            "periods": [told(measure_period(*which, steps)) for which in periods],
        }


def table(results: dict[str, Any]) -> str:
    """The last checkpoints' figures as two Markdown tables."""
    lines = [
        "| losses | setting | T | R(T)/T | slope | bound/T | G·D | largest R/bound | √(t·v̂) fell in |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["families"]:
        lines.append(
            f"| {row['family']} | {row['setting']} | {row['steps'][-1]:,} | {row['average_regret'][-1]:.2g} | {row['slope']:.2f} | "
            f"{row['average_bound'][-1]:.2g} | {row['average_trivial'][-1]:.2g} | {row['largest_share_of_bound']:.1g} | {row['fell']:.0%} |"
        )
    lines += [
        "",
        "| counterexample | rule | setting | T | R(T)/T | of x = 1 | bound/T | x from -1, 0, 1 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["periods"]:
        told = "-" if row["average_bound"] is None else f"{row['average_bound'][-1]:.2g}"
        points = ", ".join(f"{point:.2f}" for point in row["points"][-1])
        lines.append(
            f"| period {row['period']} | {row['rule']} | {row['setting']} | {row['steps'][-1]:,} | {row['average_regret'][-1]:.2g} | "
            f"{row['worst_average_regret']:.2g} | {told} | {points} |"
        )
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Any], path: Path) -> None:
    """Average regrets beside bounds and 1/√T, and where the counterexamples' points go, as a PNG file."""
    figure = Figure(figsize=(15, 9), layout="constrained")
    upper, lower = figure.subplots(2, 3)
    for axes, name in zip(upper, FAMILIES, strict=True):
        _draw_family(axes, [row for row in results["families"] if row["family"] == name])
    first, second = ([row for row in results["periods"] if row["period"] == period] for period in PERIODS)
    _draw_regrets(lower[0], first)
    _draw_points(lower[1], first)
    _draw_points(lower[2], second)
    for axes in (*upper, *lower):
        axes.set_xlabel("T")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="best" if axes in lower else "lower left")
    scale = "quick: a tenth of the full steps" if results["quick"] else "full"
    figure.suptitle(f"Theorem 4.1 and its counterexample, {results['steps']:,} steps ({scale})")
    figure.savefig(path, format="png", dpi=120)


def _draw_family(axes: Any, rows: list[dict[str, Any]]) -> None:
    for colour, row in zip(("tab:blue", "tab:orange"), rows, strict=True):
        axes.loglog(row["steps"], row["average_regret"], ".-", color=colour, label=f"R(T)/T, {row['setting']}")
    row = rows[0]
    axes.loglog(row["steps"], row["average_bound"], "--", color="tab:blue", label="the theorem's bound")
    axes.loglog(row["steps"], row["average_trivial"], ":", color="tab:gray", label="G·D, which needs no theorem")
    _draw_root(axes, row["steps"], row["average_regret"][0])
    axes.set_ylim(bottom=row["average_regret"][-1] / 100)  # room for the legend
    axes.set_title(
        f"{row['family']}\n(the bound at λ = 1 − 1e-8 ends at {rows[1]['average_bound'][-1]:.0e})", fontsize="medium"
    )


def _draw_root(axes: Any, steps: Sequence[int], start: float) -> None:
    axes.loglog(steps, [start * sqrt(steps[0] / count) for count in steps], color="black", linewidth=0.8, label="1/√T")


_STYLES = dict(zip(RULES, (("tab:red", "-"), ("tab:purple", "--"), ("tab:green", "-")), strict=True))


def _draw_regrets(axes: Any, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        colour, style = _STYLES[row["rule"]]
        axes.loglog(row["steps"], row["average_regret"], style, color=colour, label=f"R(T)/T, {row['rule']}")
        if row["rule"] == "Adam, Algorithm 1":
            axes.loglog(row["steps"], row["average_bound"], ":", color=colour, label="the theorem's bound for it")
    _draw_root(axes, rows[-1]["steps"], rows[-1]["average_regret"][0])
    axes.set_title(f"counterexample of period {rows[0]['period']}\n{rows[0]['setting']}", fontsize="medium")


def _draw_points(axes: Any, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        colour, style = _STYLES[row["rule"]]
        axes.semilogx(row["steps"], row["points"], style, color=colour, label=[row["rule"], None, None])
    axes.set_ylabel("x from three starts; -1 is the best, 1 the worst")
    axes.set_title(f"counterexample of period {rows[0]['period']}\n{rows[0]['setting']}", fontsize="medium")
