"""The public interface: which paths the documentation names, and what they lead to."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import gpu_adam

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


DOCUMENTED_MEMBERS = {
    "Algorithm": (),
    "Flag": (),
    "Number": ("pair",),
    "Rule": ("is_shipped",),
    "StepGraph": ("replay",),
}
"""Of the classes that are not documented whole."""

FOR_PYTORCH = "gpu_adam.torch"
"""The package whose import is PyTorch's."""


def interface() -> str:
    """Every documented path that needs no PyTorch: signatures, and what is neither function nor class by its type."""
    paths = [path for path in promised_imports() if not path.startswith(FOR_PYTORCH)]
    return _listed(gpu_adam, paths)


def interface_for_pytorch() -> str:
    """The same of the paths that do."""
    paths = [path for path in promised_imports() if path.startswith(FOR_PYTORCH)]
    return _listed(import_module(FOR_PYTORCH), paths)


def _listed(package: ModuleType, paths: Iterable[str]) -> str:
    listed = [f"{package.__name__}.__all__: {', '.join(package.__all__)}"]
    for path in paths:
        listed += _described(path, imported(path))
    return "".join(f"{line}\n" for line in listed)


def _described(path: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        # A graph is made by its optimizer only.
        yield f"class {path}{'' if value.__name__ == 'StepGraph' else inspect.signature(value)}"
        # Every optimizer has them, and they are listed of the base.
        bases = [one for one in value.__mro__[1:] if one.__name__ in ("GpuOptimizer", "TorchOptimizer")]
        inherited = _members_of(bases[0]) if bases else {}
        own = _members_of(value)
        for name, member in sorted(own.items()):
            chosen = DOCUMENTED_MEMBERS.get(value.__name__, own)
            if not name.startswith("_") and name in chosen and not _is_same(inherited.get(name), member):
                yield from _member(f"{path}.{name}", member)
    elif callable(value):
        yield f"def {path}{inspect.signature(value)}"
    else:
        yield f"{'module' if isinstance(value, ModuleType) else type(value).__name__} {path}"


def _is_same(one: Any, other: Any) -> bool:
    # PyTorch wraps the `step` of a class when the first optimizer of it is made.
    return inspect.unwrap(one) is inspect.unwrap(other) if callable(one) and callable(other) else one is other


def _members_of(kind: type) -> dict[str, Any]:
    """What a class has of this package."""
    ours = [one for one in reversed(kind.__mro__) if one.__module__.partition(".")[0] == "gpu_adam"]
    return {name: member for one in ours for name, member in vars(one).items()}


def _member(path: str, member: Any) -> Iterator[str]:
    if type(member).__name__ in ("property", "cached_property"):
        yield f"    property {path}{', settable' if getattr(member, 'fset', None) else ''}"
    elif isinstance(member, (classmethod, staticmethod)):
        yield f"    {type(member).__name__} {path}{inspect.signature(member.__func__)}"
    elif inspect.isfunction(member):
        yield f"    def {path}{inspect.signature(member)}"


# ---- Documented imports -------------------------------------------------------------------------------------------------------------

IMPORTS = HERE / "imports.txt"


def promised_imports() -> list[str]:
    """All that a version has documented."""
    return IMPORTS.read_text(encoding="utf-8").split() if IMPORTS.exists() else []


def documented_imports() -> set[str]:
    """What the documentation and the docstrings of what is public import or name."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    found = {f"gpu_adam.{name}" for name in gpu_adam.__all__}
    for module in re.findall(r"automodule:: ([\w.]+)\n +:members:", "\n".join(texts)):
        found |= {f"{module}.{name}" for name in _documented_names(module)}
    for value in (getattr(gpu_adam, name) for name in gpu_adam.__all__):
        whole = inspect.isclass(value) and value.__name__ not in DOCUMENTED_MEMBERS
        members = [one for name, one in _members_of(value).items() if not name.startswith("_")] if whole else []
        texts += [inspect.getdoc(one) or "" for one in (value, *members)]
    for text in texts:
        for module, names in re.findall(r"^[>. ]*from (gpu_adam[\w.]*) import ([\w, ]+)", text, re.MULTILINE):
            found |= {f"{module}.{name.strip()}" for name in names.split(",")}
        found |= set(re.findall(r"(?<![\w/.-])gpu_adam(?:\.\w+)+", text))
    return found


def _documented_names(module: str) -> Iterator[str]:
    """The public functions, classes and constants that a module defines."""
    found = import_module(module)
    for statement in ast.parse(inspect.getsource(found)).body:
        if isinstance(statement, ast.Assign):
            names = [node.id for node in ast.walk(ast.Tuple(statement.targets)) if isinstance(node, ast.Name)]
        else:
            names = [getattr(statement, "name", "_")]
        yield from (name for name in names if not name.startswith("_"))


def imported(path: str) -> Any:
    """What a path leads to: a module, or an attribute of one.

    Raises:
        ImportError: If there is nothing.
    """
    try:
        return import_module(path)
    except ImportError:
        module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except AttributeError as error:
        raise ImportError(str(error)) from None
