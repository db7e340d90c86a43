"""The pages of the documentation: their examples run, their links lead somewhere, and nothing public is left out."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu_adam
from gpu_adam import cli, schedules
from tests.support.found_gpu import why_no_gpu

DOCS = Path(__file__).parents[2] / "docs"

if not DOCS.is_dir():
    pytest.skip("needs a checkout", allow_module_level=True)

PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
GPU = "# needs a GPU\n"
"""The first line of a block that cannot run elsewhere."""


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[tuple[str, str]]:
    """The languages and texts of a page's Python blocks: programs, and what an interactive interpreter shows."""
    return re.findall(r"^```(python|pycon)\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)


def show(code: str, names: dict[str, Any], page: str) -> None:
    """Type what stands after the prompts, and compare what comes out."""
    test = doctest.DocTestParser().get_doctest(code, {}, page, page, 0)
    test.globs = names
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    runner.run(test, out=said.append, clear_globs=False)
    assert not runner.failures, "".join(said)


WITH_EXAMPLES = [page for page in PAGES if any(not code.startswith(GPU) for _, code in blocks(page))]
FOR_GPUS = [
    pytest.param(code, id=f"{page}-{number}")
    for page in PAGES
    for number, (_, code) in enumerate(blocks(page))
    if code.startswith(GPU)
]

TRAINED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "index.md": lambda names: bool(abs(names["w"] - 1).max() < 0.01),
    "start.md": lambda names: bool(abs(names["params"]["w"] - np.arange(20)).max() < 0.01),
    "cupy.md": lambda names: float(names["loss"]) < 0.15,  # a constant leaves half the variance of a sine, 0.25
    "numba.md": lambda names: bool(abs(names["w"] - np.arange(20)).max() < 0.01),
    "own_rule.md": lambda names: bool(abs(names["w"] - 1).max() < 0.02),
}
"""Of pages that train something: whether it has learnt."""


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_the_examples_of_a_page_run(page: str) -> None:
    """One after the other, each with the names of those before it; on a CPU with NumPy in CuPy's place."""
    names: dict[str, Any] = {"__name__": "__main__"}
    np.random.seed(0)  # noqa: NPY002 - what the loops of CuPy draw from
    for language, code in blocks(page):
        if code.startswith(GPU):
            continue
        if "import torch" in code:
            pytest.importorskip("torch")
        if why_no_gpu():
            code = code.replace("import cupy as cp", "import numpy as cp")
        if language == "python":
            exec(compile(code, page, "exec"), names)
        else:
            show(code, names, page)
    assert TRAINED.get(page, lambda names: True)(names), "ran, and did not train"


@pytest.mark.parametrize("code", FOR_GPUS)
def test_an_example_for_a_gpu_is_python(code: str) -> None:
    compile(code, "example", "exec")


@pytest.mark.gpu
@pytest.mark.parametrize("code", FOR_GPUS)
def test_an_example_for_a_gpu_runs(code: str) -> None:
    for library in re.findall(r"^import (cupy|torch)", code, re.MULTILINE):
        pytest.importorskip(library)
    exec(compile(code, "example", "exec"), {"__name__": "__main__"})


def test_every_page_is_in_a_table_of_contents() -> None:
    tables = re.findall(r"^```\{toctree\}\n(.*?)^```$", text_of("index.md"), re.DOTALL | re.MULTILINE)
    listed = [line for table in tables for line in table.split("\n") if line and not line.startswith(":")]
    assert sorted(f"{name}.md" for name in listed) == [page for page in PAGES if page != "index.md"]


def links(page: str) -> Iterator[str]:
    """What the links of a page lead to, images and inclusions too, but not the rest of the world."""
    prose = re.sub(r"^```(?!\{).*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"\]\((?!\w+:)([^)]+)\)", prose)
    yield from re.findall(r"^```\{include\} (.+)$", prose, re.MULTILINE)


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        path = DOCS / page if not name else (DOCS / page).parent / name
        assert path.is_file(), link
        assert not anchor or anchor in anchors(path), link


@pytest.mark.parametrize("page", PAGES)
def test_what_is_included_is_there(page: str) -> None:
    for name, options in re.findall(r"^```\{include\} ([^\n]+)\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE):
        included = ((DOCS / page).parent / name).read_text(encoding="utf-8")
        marks = re.findall(r'"(.+)"', options)
        places = [included.find(mark) for mark in marks]
        assert -1 not in places
        assert places == sorted(places)
        assert all(included.count(mark) == 1 for mark in marks)


def test_everything_public_is_in_the_reference() -> None:
    reference = "".join(text_of(page) for page in PAGES if page.startswith("reference/"))
    described = {name.rpartition(".")[2] for name in re.findall(r"^\.\. auto\w+:: ([\w.]+)", reference, re.MULTILINE)}
    assert set(gpu_adam.__all__) <= described
    assert f".. automodule:: {schedules.__name__}\n   :members:" in reference


def test_every_command_has_a_section(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    commands = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert "doctor" in commands
    for command in commands:
        assert f"## {command}\n" in text_of("reference/command_line.md")
