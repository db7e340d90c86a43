"""GitHub's workflows call targets that the Makefile has, and test what the package says that it supports. `make lint` checks their form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

if not (ROOT / ".github").is_dir():
    pytest.skip("needs a checkout", allow_module_level=True)


def test_the_workflows_are_found() -> None:
    assert {path.name for path in WORKFLOWS} == {"ci.yml", "gpu.yml", "release.yml"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_target_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    called = set(re.findall(r"^\s*(?:- run: )?(?:sudo )?make (?:--silent )?([a-z-]+)", text, re.MULTILINE))
    assert called
    assert called <= targets


def test_every_python_that_is_supported_is_tested() -> None:
    said = re.findall(
        r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )
    tested = re.search(r"python: \[(.*)\]", (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert tested
    assert re.findall(r"\d\.\d+", tested[1]) == said
