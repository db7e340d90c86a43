"""What Python files import."""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator, Sequence
from pathlib import Path


def imports(file: Path, package: Sequence[str], modules: Container[str]) -> Iterator[str]:
    """The modules, of these, that a file of a package imports anywhere in its text, also late or for types alone."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name in modules)
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            for one in node.names:
                whole = f"{base}.{one.name}"
                if whole in modules or base in modules:
                    yield whole if whole in modules else base
