"""The pages of the documentation: their examples run, their links lead somewhere, and nothing public is left out."""

from __future__ import annotations

import doctest
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu_adam
from gpu_adam import cli, schedules
from tests.support.documentation import (
    DOCS,
    PAGES,
    gpu_blocks,
    plain_blocks,
    program_of_ranks,
    run,
    text_of,
)
from tests.support.found_gpu import why_no_gpu

if not DOCS.is_dir():
    pytest.skip("needs a checkout", allow_module_level=True)


def show(code: str, names: dict[str, Any], page: str) -> None:
    """Type what stands after the prompts, and compare what comes out."""
    test = doctest.DocTestParser().get_doctest(code, {}, page, page, 0)
    test.globs = names
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    runner.run(test, out=said.append, clear_globs=False)
    assert not runner.failures, "".join(said)


WITH_EXAMPLES = [page for page in PAGES if plain_blocks(page)]
WITH_RANKS = [page for page in PAGES if program_of_ranks(page)]
FOR_GPUS = [pytest.param(code, id=f"{page}-{number}") for page in PAGES for number, code in enumerate(gpu_blocks(page))]

TRAINED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "index.md": lambda names: bool(abs(names["w"] - 1).max() < 0.01),
    "start.md": lambda names: bool(abs(names["params"]["w"] - np.arange(20)).max() < 0.01),
    "cupy.md": lambda names: float(names["loss"]) < 0.15,  # a constant leaves half the variance of a sine, 0.25
    "numba.md": lambda names: bool(abs(names["w"] - np.arange(20)).max() < 0.01),
    "pytorch.md": lambda names: names["loss"].item() < 1.0,  # a constant leaves the variance of a sum of 20, 20
    "own_rule.md": lambda names: bool(abs(names["w"] - 1).max() < 0.02),
}
"""Of pages that train something: whether it has learnt."""


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_the_examples_of_a_page_run(page: str) -> None:
    """One after the other, each with the names of those before it; on a CPU with NumPy in CuPy's place."""
    names: dict[str, Any] = {"__name__": "__main__"}
    np.random.seed(0)  # noqa: NPY002 - what the loops of CuPy draw from
    for language, code in plain_blocks(page):
        if "import torch" in code:
            pytest.importorskip("torch")
        if why_no_gpu():
            code = code.replace("import cupy as cp", "import numpy as cp")
        if language == "python":
            exec(compile(code, page, "exec"), names)
        else:
            show(code, names, page)
    assert TRAINED.get(page, lambda names: True)(names), "ran, and did not train"


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_RANKS)
def test_the_program_of_two_processes_on_a_page_trains(page: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert run(program_of_ranks(page), tmp_path, *launcher) < 1.0


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


def test_every_optimizer_for_pytorch_is_in_the_reference() -> None:
    pytest.importorskip("torch")
    names = importlib.import_module("gpu_adam.torch").__all__
    described = set(re.findall(r"^\.\. autoclass:: ([\w.]+)", text_of("reference/torch.md"), re.MULTILINE))
    assert {f"gpu_adam.torch.{name}" for name in names} <= described


def test_every_command_has_a_section(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    commands = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert "doctor" in commands
    for command in commands:
        assert f"## {command}\n" in text_of("reference/command_line.md")
