"""The loops in README run, and train; what it names is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.shipped import CLASSES

ROOT = Path(__file__).parents[2]

if not (ROOT / "README.md").is_file():
    pytest.skip("needs a checkout", allow_module_level=True)

README = (ROOT / "README.md").read_text(encoding="utf-8")
LOOPS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_torch_loop_trains() -> None:
    pytest.importorskip("torch")
    (loop,) = (loop for loop in LOOPS if "import torch" in loop)
    names: dict[str, Any] = {}
    exec(loop, names)
    assert names["loss"].item() < 2.0  # a constant leaves the variance of a sum of 20, 20


def test_the_cupy_loop_trains_in_numpy() -> None:
    (loop,) = (loop for loop in LOOPS if "import cupy" in loop)
    names: dict[str, object] = {}
    np.random.seed(0)  # noqa: NPY002 - whose numbers the loop draws: the same in every run, or one in some hundreds fails
    exec(loop.replace("import cupy as cp", "import numpy as cp"), names)
    error = names["error"]
    assert (error**2).mean() < 1.1  # of noise with variance 1 that has no pattern to be learnt  # type: ignore[operator]


def test_the_loop_of_a_training_run_trains() -> None:
    (loop,) = (loop for loop in LOOPS if "LossScaler" in loop)
    names: dict[str, Any] = {}
    exec(loop, names)
    assert abs(names["w"] - 0.5).mean() < 0.05
    assert names["opt"].steps_skipped == 0


def test_every_optimizer_is_in_the_table() -> None:
    for optimizer in CLASSES:
        assert f"| `{optimizer}` |" in README


PATHS = re.findall(r"`((?:gpu_adam|kernels|tests|benchmarks|examples|docs|docker|\.github)/[\w./]*)`", README)
LINKS = re.findall(r"\]\((?!\w+:|#)([^)#]+)", README)


@pytest.mark.parametrize("path", sorted({*PATHS, *LINKS}))
def test_every_path_is_there(path: str) -> None:
    assert (ROOT / path).exists()
