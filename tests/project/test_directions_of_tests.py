"""The rooms of the tests: what several of them share lies in tests/support, and nobody imports from a file of tests."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.imports import imports

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "tests").rglob("*.py"))
}
SHARED = ("support", "golden")
"""The rooms that others use."""

USED = [
    (name, used) for name, path in MODULES.items() for used in imports(path, path.relative_to(ROOT).parts[:-1], MODULES)
]


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


def test_the_benchmarks_start_without_the_tests() -> None:
    # As in the image for GPUs, which has none.
    for file in sorted((ROOT / "benchmarks").rglob("*.py")):
        first = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
        assert not [node for node in first if (node.module or "").startswith("tests")], file
