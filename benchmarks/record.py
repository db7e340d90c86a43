"""Files that are whole at any moment: what a part has found so far, and the results of all parts."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from time import monotonic
from typing import Any


def write(path: Path, content: Any) -> None:
    """Write JSON so that whoever looks finds the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(_finite(content), file, indent=1, allow_nan=False)
            file.write("\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _finite(content: Any) -> Any:
    """The same with ``None`` for what is no number, or infinite: JSON has neither."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not isfinite(content) else content


def read(path: Path) -> Any:
    """What a file holds; ``None`` where there is none, or it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


class LeftOut(Exception):
    """Something cannot be done here; the message says what is missing."""


class Report:
    """What a part has found so far, in a file that its runner reads also after the part was killed.

    Attributes:
        result: The figures; to be changed in place, and saved after each change that should not be lost.
        dry_run: Whether nothing of it comes from a GPU.
    """

    def __init__(self, path: Path, seconds: float, *, dry_run: bool) -> None:
        self.result: dict[str, Any] = {}
        self.dry_run = dry_run
        self._path = path
        self._end = monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """Until the part is stopped, never below 0."""
        return max(0.0, self._end - monotonic())

    def save(self, status: str = "running", why: str = "") -> None:
        """Write it down."""
        found: dict[str, Any] = {"status": status, "dry_run": self.dry_run, "result": self.result}
        write(self._path, {**found, "why": why} if why else found)


def results_in(folder: Path) -> Iterator[tuple[Path, Any]]:
    """Every file of results in a folder, those of dry runs too."""
    for path in sorted(folder.glob("gpu-proof-*.json"), key=lambda path: (len(path.name), path.name)):
        found = read(path)
        if isinstance(found, dict) and "parts" in found:
            yield path, found
