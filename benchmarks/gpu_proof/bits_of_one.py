"""One optimizer's settings on one engine: every program's bits against the cpu engine's."""

from __future__ import annotations

from typing import Any

from ..libraries import Host, Numba
from .cells import cells_of, difference, left
from .place import Place
from .record import Report


def run(report: Report, arguments: dict[str, Any]) -> None:
    """Compare all programs, as far as the time goes.

    Args:
        report: Gets how many are the same, of how many, the differences by program, and programs that were not come to.
        arguments: ``"engine"``, ``"optimizer"``, ``"settings"``.
    """
    place = Place.of(report.dry_run)
    host = Host()
    result = report.result
    result |= {"same": 0, "of": 0, "different": {}, "missing": []}
    for cell in cells_of(arguments["optimizer"], arguments["settings"]):
        if isinstance(place.library, Numba) and cell.format == "bfloat16":
            continue  # Numba's device arrays know no bfloat16
        if report.seconds_left < 1.0:
            result["missing"].append(str(cell))
            continue
        expected = left(cell, "cpu", host)
        result["of"] += 1
        try:
            found = difference(left(cell, arguments["engine"], place.library), expected)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"[:500]
        if found is None:
            result["same"] += 1
        else:
            result["different"][str(cell)] = found
        report.save()
