"""One optimizer's settings on one engine: every program's bits against the cpu engine's."""

from __future__ import annotations

from typing import Any

from ..libraries import Host
from ..place import Place
from ..record import Report
from .cells import Cell, cells_of, difference, left


def run(report: Report, arguments: dict[str, Any]) -> None:
    """Compare all programs, as far as the time goes.

    Args:
        report: Gets how many are the same, of how many there are, and the differences by program; the rest was not come to.
        arguments: ``"engine"``, ``"optimizer"``, ``"settings"``.
    """
    place = Place.gpu(report.dry_run)
    host = Host()
    result = report.result
    cells = programs(place, arguments["optimizer"], arguments["settings"])
    result |= {"same": 0, "of": len(cells), "different": {}}
    for cell in cells:
        if report.seconds_left < 1.0:
            break
        expected = left(cell, "cpu", host)
        try:
            found = difference(left(cell, arguments["engine"], place.library), expected)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"[:500]
        if found is None:
            result["same"] += 1
        else:
            result["different"][str(cell)] = found
        report.save()


def programs(place: Place, optimizer: str, settings: str) -> list[Cell]:
    """Those of an optimizer's settings that can run here."""
    return [cell for cell in cells_of(optimizer, settings) if place.has_format(cell.format)]
