"""The paper's experiments at their tiniest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

from examples.paper import __main__ as program
from examples.paper.experiments import EXPERIMENTS
from examples.paper.settings import Run
from gpu_adam.train.backend import choose

CPU = choose("cpu")


def command(folder: Path, out: Path, *arguments: str) -> int:
    return program.main(
        [*arguments, "--tiny", "--data-dir", str(folder), "--out", str(out), "--jobs", "0", "--device", "cpu"]
    )


def mlp_run(**changes: Any) -> Run:
    run = next(EXPERIMENTS["mlp-dropout"].runs("mlp-dropout", "tiny", "300-00000000"))
    return replace(run, model={**run.model, "hidden": (9, 8)}, epochs=4, **changes)
