"""The figures: our curves, and the paper's values in the same colours."""

from __future__ import annotations

from collections.abc import Mapping
from math import log10
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .experiments import BETAS1, BETAS2, vae_label
from .published import CURVES, VAE
from .results import best

COLOURS = {
    "Adam": "#d62728",
    "SGDNesterov": "#2ca02c",
    "AdaGrad": "#1f77b4",
    "RMSProp": "#9467bd",
    "AdaDelta": "#ff7f0e",
    "SFO": "#555555",
}
_VAE_LOSSES = (95, 230)
"""Of the axis: what the paper's figure shows, and what few steps come to."""
_LIMITS = {"logistic-mnist": (0.24, 0.7), "logistic-imdb": (0.225, 0.7), "cnn": (2e-4, 12)}
"""Of the axis of costs, where the first epochs of poor settings would push all else together."""


def draw(name: str, found: Mapping[str, Any], path: Path) -> None:
    """Draw an experiment's results, as a PNG file."""
    figure = _vae(found) if name == "vae" else _curves(name, found)
    figure.savefig(path, format="png", dpi=110)


def amount(found: Mapping[str, Any]) -> str:
    """How much was run, and how much in the paper."""
    epochs, examples = found["paper"]
    ours = f"{found['epochs']} epochs of {found['examples']:,} examples"
    same = (found["epochs"], found["examples"]) == (epochs, examples)
    return f"{found['scale']} scale: {ours}" + (
        ", as in the paper" if same else f" (the paper: {epochs} of {examples:,})"
    )


def _curves(name: str, found: Mapping[str, Any]) -> Figure:
    paper, chosen = CURVES[name], best(found["runs"])
    labels = list(dict.fromkeys([run["label"] for run in found["runs"]] + list(paper)))
    variants = list(dict.fromkeys(label.partition(", ")[2] for label in labels))
    figure = Figure(figsize=(7.5 * len(variants), 5.2), layout="constrained")
    for axes, variant in zip(figure.subplots(1, len(variants), squeeze=False)[0], variants, strict=True):
        for label in labels:
            spoken, _, of = label.partition(", ")
            if of != variant:
                continue
            optimizer = spoken.partition(" ")[0]
            if label in chosen:
                costs = chosen[label]["costs"]
                axes.plot(
                    range(1, len(costs) + 1),
                    costs,
                    color=COLOURS[optimizer],
                    linestyle="-" if spoken == optimizer else "--",
                    label=f"{spoken}: {settings(chosen[label])}",
                )
            if label in paper:
                told = "" if label in chosen else f"{optimizer}: the paper's values only"
                axes.plot(
                    *zip(*paper[label].items(), strict=True),
                    "o",
                    color=COLOURS[optimizer],
                    mfc="none",
                    label=told or None,
                )
        axes.plot([], [], "o", color="black", mfc="none", label="the paper's values")
        axes.set_yscale("log")
        if name in _LIMITS:
            axes.set_ylim(*_LIMITS[name])
        if name.startswith("logistic"):  # over less than a decade powers of ten are few
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        axes.set_xlabel("epoch")
        axes.set_ylabel(
            "training cost" + (", dropout noise included" if variant or "dropout" in found["noise"] else "")
        )
        axes.set_title(f"with {variant}" if variant else "without dropout" if len(variants) > 1 else "", fontsize=10)
        axes.grid(which="both", alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(f"{found['title']} ({found['figure']})\n{amount(found)}", fontsize=11)
    return figure


def settings(run: Mapping[str, Any]) -> str:
    """The arguments that were searched over, as text."""
    told = []
    for name, value in run["chosen"].items():
        values = value if isinstance(value, (list, tuple)) else [value]
        told.append(f"{name} {', '.join(f'{one:g}' for one in values)}")
    return ", ".join(told)


def _vae(found: Mapping[str, Any]) -> Figure:
    marks = [epoch for epoch in VAE if epoch <= found["epochs"]] or [found["epochs"]]
    figure = Figure(figsize=(12, 3.4 * len(BETAS1) * len(marks) + 0.8), layout="constrained")
    rows = [(epoch, beta1) for epoch in marks for beta1 in BETAS1]
    panels = figure.subplots(len(rows), len(BETAS2), sharex=True, sharey=True, squeeze=False)
    for (epoch, beta1), line in zip(rows, panels, strict=True):
        told = VAE[min(VAE, key=lambda known: abs(known - epoch))]
        for beta2, axes in zip(BETAS2, line, strict=True):
            for corrected, colour in ((True, COLOURS["Adam"]), (False, COLOURS["SGDNesterov"])):
                label = vae_label(beta1, beta2, corrected)
                runs = [run for run in found["runs"] if run["label"] == label]
                ended = {log10(run["chosen"]["lr"]): run["costs"] for run in runs if run["diverged"] is None}
                points = [(at, ended[at][epoch - 1]) for at in sorted(ended)]
                spoken = "with" if corrected else "without"
                axes.plot(
                    *(zip(*points, strict=True) if points else ((), ())),
                    ".-",
                    color=colour,
                    label=f"{spoken} bias correction",
                )
                mark = told[beta1, beta2][0 if corrected else 1]
                if mark is not None:
                    axes.plot(mark[1], mark[0], "o", color=colour, mfc="none", label=f"the paper's best {spoken}")
                gone = [log10(run["chosen"]["lr"]) for run in runs if run["diverged"] is not None]
                if gone:  # on the upper edge, whatever the scale
                    across = axes.get_xaxis_transform()
                    axes.plot(gone, [0.97] * len(gone), "x", color=colour, transform=across, label=f"diverged {spoken}")
            axes.set_ylim(*_VAE_LOSSES)
            axes.set_title(f"β1={beta1:g}, β2={beta2:g}, {epoch} epochs", fontsize=9)
            axes.grid(which="both", alpha=0.3)
    for axes in panels[-1]:
        axes.set_xlabel("log10 α")
    for line in panels:
        line[0].set_ylabel("loss")
    panels[0][0].legend(fontsize=7)
    figure.suptitle(f"{found['title']} ({found['figure']})\n{amount(found)}", fontsize=11)
    return figure
