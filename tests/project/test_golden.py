"""What is promised to stay: plans, kernels' names, bits, state dicts and the public interface, against `golden`'s files byte for byte."""

from __future__ import annotations

from difflib import unified_diff
from itertools import islice

import pytest

from tests.golden import interface, record
from tests.golden.stand_in import ENGINES


def assert_golden(name: str, found: str) -> None:
    wanted = (record.HERE / name).read_text(encoding="utf-8")
    if found != wanted:
        lines = unified_diff(wanted.splitlines(), found.splitlines(), name, "now", n=1, lineterm="")
        pytest.fail("\n".join(islice(lines, 60)), pytrace=False)


@pytest.mark.parametrize("name", record.FILES)
def test_it_is_as_it_was(name: str) -> None:
    assert_golden(name, record.FILES[name]())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", record.GPU_FILES)
def test_it_is_as_it_was_on_gpus(name: str, engine: str) -> None:
    assert_golden(name, record.GPU_FILES[name](engine))


@pytest.mark.parametrize("name", record.TORCH_FILES)
def test_it_is_as_it_was_of_torch(name: str) -> None:
    pytest.importorskip("torch")
    assert_golden(name, record.TORCH_FILES[name]())


@pytest.mark.parametrize("whole", [False, True], ids=["state dict", "optimizer"])
@pytest.mark.parametrize("name", record.SAVED)
def test_what_an_earlier_version_saved_goes_on_with_the_same_bits(name: str, whole: bool) -> None:
    found = record.loaded(name, record.saved_file(name).read_bytes(), whole)
    assert f"== {name}\n{found}\n" in (record.HERE / "bits_saved.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", interface.promised_imports())
def test_a_documented_import(path: str) -> None:
    if path.startswith(interface.FOR_PYTORCH):
        pytest.importorskip("torch")
    interface.imported(path)


def test_every_documented_import_is_listed() -> None:
    if not (interface.ROOT / "docs").is_dir():
        pytest.skip("needs a checkout")
    assert interface.documented_imports() <= set(interface.promised_imports())
