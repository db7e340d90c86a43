"""The rooms of the tests: what several of them share lies in tests/support, and nobody imports from a file of tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "tests").rglob("*.py"))
}
SHARED = ("support", "golden")
"""The rooms that others use."""


def imports(name: str) -> Iterator[str]:
    """The modules of the tests that one of them imports anywhere in its text."""
    path = MODULES[name]
    parts = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name in MODULES)
        if isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            for one in node.names:
                whole = f"{base}.{one.name}"
                if whole in MODULES or base in MODULES:
                    yield whole if whole in MODULES else base


USED = [(name, used) for name in MODULES for used in imports(name)]


def room_of(name: str) -> str:
    return MODULES[name].relative_to(ROOT / "tests").parts[0]


def test_nobody_imports_from_a_file_of_tests() -> None:
    assert len(USED) > 100
    wrong = [f"{name} -> {used}" for name, used in USED if MODULES[used].name.startswith(("test_", "conftest."))]
    assert wrong == []


def test_what_is_shared_by_all_uses_no_room() -> None:
    wrong = [f"{name} -> {used}" for name, used in USED if room_of(name) == "support" != room_of(used)]
    assert wrong == []


def test_a_room_uses_itself_and_what_is_shared() -> None:
    wrong = [f"{name} -> {used}" for name, used in USED if room_of(used) not in (room_of(name), *SHARED)]
    assert wrong == []
