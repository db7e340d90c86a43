"""The examples run, and everything that is public says what it is."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gpu_adam
import gpu_adam.kernels
from tests.support.shipped import CLASSES

PACKAGE = Path(gpu_adam.__file__).parent
KERNELS = Path(gpu_adam.kernels.__file__).parent


def module_names(folder: Path, name: str) -> list[str]:
    parts = [path.relative_to(folder).with_suffix("").parts for path in sorted(folder.rglob("*.py"))]
    return [".".join((name, *(part for part in each if part != "__init__"))) for each in parts if "kernels" not in each]


MODULES = [*module_names(PACKAGE, "gpu_adam"), *module_names(KERNELS, "gpu_adam.kernels")]


def imported(name: str) -> Any:
    if name.endswith("__main__"):
        pytest.skip("runs the program when it is imported")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"needs a package that is not installed: {error}")


def public(module: Any) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value) or inspect.isfunction(value):
            yield name, value
        if inspect.isclass(value):
            for attribute, member in vars(value).items():
                documented = inspect.isfunction(member) or isinstance(member, (property, staticmethod, classmethod))
                if documented and not attribute.startswith("_"):
                    yield f"{name}.{attribute}", member


def test_the_modules_are_found() -> None:
    assert {
        "gpu_adam",
        "gpu_adam.optim.base",
        "gpu_adam.engines.cpu",
        "gpu_adam.arrays.probe",
        "gpu_adam.kernels.rules.adam",
    } <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    results = doctest.testmod(imported(name), optionflags=flags)
    assert results.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name: str) -> None:
    module = imported(name)
    assert module.__doc__, name
    missing = [member for member, value in public(module) if not inspect.getdoc(value)]
    assert not missing


@pytest.mark.parametrize("name", CLASSES)
def test_an_optimizer_has_an_example_and_says_what_its_arguments_are(name: str) -> None:
    text, shared = CLASSES[name].__doc__ or "", gpu_adam.GpuOptimizer.__doc__ or ""
    assert f">>> from gpu_adam import {name}" in text
    assert re.search(r"\b(19|20)\d\d\b", text), "the year of its source"
    own, all_take = inspect.signature(CLASSES[name]), inspect.signature(gpu_adam.GpuOptimizer)
    for argument in own.parameters:
        assert argument == "options" or f"{argument}:" in text, argument
    for argument in all_take.parameters:
        assert f"{argument}:" in shared, argument


def test_an_optimizer_for_pytorch_has_an_example_and_says_what_its_arguments_are() -> None:
    pytest.importorskip("torch")
    rooms = importlib.import_module("gpu_adam.torch"), importlib.import_module("gpu_adam.torch.optimizer")
    shared = rooms[1].TorchOptimizer.__doc__
    for name in rooms[0].__all__:
        text = getattr(rooms[0], name).__doc__
        assert f">>> from gpu_adam.torch import {name}" in text
        for argument in inspect.signature(getattr(rooms[0], name)).parameters:
            assert re.search(rf"^ +([\w, ]+, )?{argument}(, [\w, ]+)?: ", text, re.MULTILINE), (name, argument)
    for option in rooms[1].Options.__annotations__:
        assert f" {option}: " in shared, option
