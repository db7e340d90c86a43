"""The page of all results, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import markdown

from . import theory
from .experiments import BETAS1, EXPERIMENTS
from .figures import amount, settings
from .published import CURVES, VAE
from .results import Correction, best, corrections, rankings
from .settings import BATCH, SCALES

_BEGIN = """# The paper's experiments

Figures 1 to 4 of *Adam: A Method for Stochastic Optimization* (Kingma and Ba, arXiv 1412.6980v9) with the optimizers of this project.
`python -m examples.paper` wrote this page and everything in `results/`; do not edit it.

- All optimizers of an experiment begin with the same parameters and see the same mini-batches (of {batch}) and the same dropout masks.
  Models compute in float32.
- Each optimizer is run with every setting of its grid (`experiments.py`), and the one with the lowest training cost in the last epoch is
  shown. A run whose cost is not finite is counted as diverged and never shown. The grids of the quick scale are small, around what a
  coarser search found.
- The training cost of an epoch is the mean over its mini-batches, each at the parameters before its step: with the noise of dropout where
  there is dropout, and without the L2 term.
- Not stated in the paper: learning rates, momentum, the strength of L2, the MLP's and the CNN's dropout rates, initialisation. What was
  chosen is said below.
- The paper's values were read off its vector figures.
"""

_PACKAGES = ("python", "gpu_adam", "numpy", "numba", "cupy-cuda12x", "cupy-cuda13x", "torch")


def collect(folder: Path) -> dict[str, dict[str, Any]]:
    """The results in a folder, by experiment: of each at the largest scale that is there."""
    found = {}
    for scale in SCALES:
        for name in (*EXPERIMENTS, "theory"):
            path = folder / f"{scale}-{name}.json"
            if path.is_file():
                found[name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(folder: Path, path: Path) -> None:
    """Write the page of the results in ``folder``."""
    found = collect(folder)
    parts = [_BEGIN.format(batch=BATCH), "## At a glance\n", _summary(found)]
    for name, result in found.items():
        parts.append(_theory(result) if name not in EXPERIMENTS else _section(name, result))
    parts += ["## Scales\n", _scales()]
    path.write_text("\n".join(parts), encoding="utf-8")


def _summary(found: Mapping[str, Any]) -> str:
    lines = ["| | scale | lowest in the end | the paper's order |", "| --- | --- | --- | --- |"]
    for name, result in found.items():
        if name in EXPERIMENTS:
            lines.append(
                f"| [{name}](#{name}) | {result['scale']} | {_lowest(name, result)} | {_agreement(name, result)} |"
            )
    return "\n".join(lines) + "\n"


def _lowest(name: str, result: Mapping[str, Any]) -> str:
    """Who ends with the lowest cost, and by how much."""
    ends = {label: run["costs"][-1] for label, run in best(result["runs"]).items()}
    if name == "vae":
        panels = corrections(result["runs"])
        return f"with bias correction in {sum(panel.helps for panel in panels)} of {len(panels)} panels"
    if not (ranked := rankings(name, result["runs"])):
        return ", ".join(f"{label} at {end:.3g}" for label, end in ends.items()) + ", which was run alone"
    told = []
    for one in ranked:
        first, second, *_ = one.ours
        more = ends[second] / ends[first] - 1
        told.append(f"{first} ({second.partition(',')[0]} {more:{'.2%' if more < 0.1 else '.0%'}} higher)")
    return "; ".join(told)


def _agreement(name: str, result: Mapping[str, Any]) -> str:
    """How much of the paper's order came out."""
    if name == "vae":
        panels = corrections(result["runs"])
        by_beta1 = [[_gap(panel) for panel in panels if panel.beta1 == beta1] for beta1 in BETAS1]
        grows = all(gaps[-1] > gaps[0] for gaps in by_beta1)
        return ("yes: " if grows else "no: not so that ") + "the nearer β2 is to 1, the more is lost without it"
    told = []
    for one in rankings(name, result["runs"]):
        what = "all of it" if one.agreeing == one.pairs else f"{one.agreeing} of {one.pairs} pairs"
        adam = "" if one.adam_lowest else ", Adam not lowest"
        told.append((f"{one.variant}: " if one.variant else "") + what + adam)
    return "; ".join(told) or "-"


def _gap(panel: Correction) -> float:
    """By how much the best loss is higher without correction."""
    if panel.with_correction is None or panel.without is None:
        return float("inf") if panel.without is None else float("-inf")
    return panel.without[0] - panel.with_correction[0]


def _section(name: str, result: Mapping[str, Any]) -> str:
    experiment = EXPERIMENTS[name]
    diverged = sum(run["diverged"] is not None for run in result["runs"])
    machine, versions = result["machine"], result["versions"]
    unit = "core" if result["device"] == "cpu" else "GPU"
    packages = ", ".join(f"{key} {versions[key]}" for key in _PACKAGES if key in versions)
    where = f"{machine.get('gpu', machine['cpu'])}, {machine['cores']} cores, {machine['system']}; {packages}"
    lines = [
        f"## {name}",
        "",
        f"{result['title']} ({result['figure']}), {amount(result)}. {experiment.choices}",
        "",
        f"![{result['title']}](results/{result['scale']}-{name}.png)",
        "",
        table(name, result),
        "",
    ]
    lines += _remarks(name, result)
    lines += [
        f"{len(result['runs'])} runs, {diverged} of them diverged, each on one {unit}: {where}.",
        "",
    ]
    return "\n".join(lines)


_THEORY = """## theory

Section 4, {scale} scale: Adam on online convex problems with α/√t and β1·λ^(t−1), beside the bound of Theorem 4.1. R(T)/T should fall like
1/√T or faster and stay below the bound; where the bound is above G·D it says nothing that is not true of any points. The proof has a known
gap (Reddi, Kale and Kumar, 2018): on their counterexamples, which are convex, Adam goes to the worst point of all, and AMSGrad towards the
best.

![Theorem 4.1 and its counterexample](results/{scale}-theory.png)

{table}
"""


def _theory(result: Mapping[str, Any]) -> str:
    return _THEORY.format(scale=result["scale"], table=theory.table(result["results"]))


def _scales() -> str:
    """What each scale takes, in one table."""
    scales = [scale for scale in SCALES if scale != "tiny"]
    rows = []
    for name, experiment in EXPERIMENTS.items():
        told = ["{} epochs of {:,} examples".format(*experiment.paper)]
        for scale in scales:
            amount = experiment.amount(scale)
            runs = sum(len(contender.settings) for contender in amount.contenders)
            examples = "all" if amount.examples is None else f"{amount.examples:,}"
            told.append(f"{amount.epochs} epochs of {examples}; {runs} runs")
        rows.append([name, *told])
    return markdown.table(["", "the paper", *(f"--{scale}" for scale in scales)], rows) + "\n"


def _remarks(name: str, result: Mapping[str, Any]) -> list[str]:
    if name == "vae":
        panels = corrections(result["runs"])
        ours = [
            min((best[0] for best in bests if best is not None), default=float("nan"))
            for bests in ([one.with_correction for one in panels], [one.without for one in panels])
        ]
        gaps = ", ".join(f"{_gap(one):+.1f} (β1={one.beta1:g}, β2={one.beta2:g})" for one in panels)
        lowest = f"The lowest loss of all is {ours[0]:.1f} with bias correction and {ours[1]:.1f} without."
        return [f"{lowest} Without it the best of a panel changes by {gaps}.", ""]
    lowest, ranked = best(result["runs"]), rankings(name, result["runs"])
    lines = []
    last = max(CURVES[name].get("Adam", {0: 0.0}))
    if "Adam" in lowest and result["epochs"] >= last and result["examples"] == result["paper"][1]:
        ours, paper = lowest["Adam"]["costs"][last - 1], CURVES[name]["Adam"][last]
        lines += [
            f"After {last} epochs Adam is at {ours:.4g}, and in the paper at {paper:.4g} ({ours / paper - 1:+.1%}).",
            "",
        ]
    for one in ranked:
        ours, paper = (" < ".join(label.partition(",")[0] for label in labels) for labels in (one.ours, one.paper))
        told = f"With {one.variant} here" if one.variant else "Here"
        lines += [f"{told} {ours}; in the paper after {one.epoch} epochs {paper}.", ""]
    if EXPERIMENTS[name].doubts and any(one.agreeing < one.pairs for one in ranked):
        lines += [EXPERIMENTS[name].doubts, ""]
    return lines


def table(name: str, result: Mapping[str, Any]) -> str:
    """The best of each curve, beside the paper's values."""
    if name == "vae":
        return "\n\n".join(_vae_table(result, epoch) for epoch in _marks(result))
    lowest = best(result["runs"])
    paper = CURVES[name]
    epochs = sorted({epoch for curve in paper.values() for epoch in curve})
    shown = [epoch for epoch in epochs if 0 < epoch < result["epochs"]]
    head = ["", "best setting", *(f"epoch {epoch}" for epoch in shown), f"epoch {result['epochs']}", "the paper"]
    rows = []
    for label in dict.fromkeys([run["label"] for run in result["runs"]] + list(paper)):
        told = ", ".join(f"{epoch}: {value:g}" for epoch, value in paper.get(label, {}).items())
        if label in lowest:
            costs = lowest[label]["costs"]
            values = [f"{costs[epoch - 1]:.3g}" for epoch in shown] + [f"**{costs[-1]:.4g}**"]
            rows.append([label, settings(lowest[label]), *values, told])
        else:
            why = "not run" if all(run["label"] != label for run in result["runs"]) else "all diverged"
            rows.append([label, why, *[""] * (len(shown) + 1), told])
    return markdown.table(head, rows)


def _marks(result: Mapping[str, Any]) -> list[int]:
    return [epoch for epoch in VAE if epoch <= result["epochs"]] or [result["epochs"]]


def _vae_table(result: Mapping[str, Any], epoch: int) -> str:
    told = VAE[min(VAE, key=lambda known: abs(known - epoch))]

    def spoken(value: Any, exponent: bool = False) -> str:
        if value is None:
            return "none"
        return f"{value[0]:.1f} @ 1e{value[1]:g}" if exponent else f"{value[0]:.1f} @ {value[1]:g}"

    rows = []
    for panel in corrections(result["runs"], epoch):
        with_correction, without = told[panel.beta1, panel.beta2]
        rows.append(
            [
                f"{panel.beta1:g}",
                f"{panel.beta2:g}",
                spoken(panel.with_correction),
                spoken(panel.without),
                spoken(with_correction, True),
                spoken(without, True),
            ]
        )
    head = ["β1", "β2", f"with correction, {epoch} epochs", "without", "the paper with", "the paper without"]
    return markdown.table(head, rows)
