"""The documentation's examples of trainers run, and train."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.documentation import DOCS, PAGES, programs, run

if not DOCS.is_dir():
    pytest.skip("needs a checkout", allow_module_level=True)

PROGRAMS = [pytest.param(package, code, id=package) for page in PAGES for package, code in programs(page)]


@pytest.mark.slow
@pytest.mark.parametrize(("package", "code"), PROGRAMS)
def test_an_example_trains(package: str, code: str, tmp_path: Path) -> None:
    if find_spec(package) is None:
        pytest.skip("the extra `clients` is not installed")
    # The sum of 20 numbers of variance 1 is to be learnt; who knows nothing is wrong by 20.
    assert run(code, tmp_path) < 1.0


def test_there_is_one_of_each_trainer() -> None:
    assert sorted(package for page in PAGES for package, _ in programs(page)) == [
        "accelerate",
        "lightning",
        "transformers",
    ]
