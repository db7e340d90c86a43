"""The numba engine where it cannot run: what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")


def refusal(before: str, **environment: str) -> str:
    """What the engine says in a process of its own, after some preparation."""
    script = f"""
import json, sys
{before}
from gpu_adam.engines import EngineUnavailable, engine_named
try:
    engine_named("numba")
except EngineUnavailable as error:
    print(json.dumps(str(error)))
"""
    child = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    message: str = json.loads(child.stdout)
    return message


def test_without_a_gpu_the_reason_is_given() -> None:
    message = refusal("", CUDA_VISIBLE_DEVICES="-1")
    assert re.search("needs an NVIDIA GPU and its driver", message)


def test_without_numba_cuda_the_package_is_named() -> None:
    before = "import importlib.util as u; find = u.find_spec; u.find_spec = lambda n, *a: None if n == 'numba_cuda' else find(n, *a)"
    message = refusal(before)
    assert "numba-cuda is not installed" in message
    assert "gpu_adam[cuda12]" in message


def test_a_numpy_without_row_stack_is_lent_it_and_keeps_nothing() -> None:
    message = refusal("import numpy; vars(numpy).pop('row_stack', None)", CUDA_VISIBLE_DEVICES="-1")
    assert "needs an NVIDIA GPU and its driver" in message


def test_versions_that_do_not_fit_together_are_named() -> None:
    message = refusal("import numba.cuda, numpy; del numpy.vstack")
    assert "vstack" in message
    assert re.search(r"numba-cuda \S+, NumPy \S+ and cuda-core", message)
    assert "gpu_adam[cuda12]" in message
