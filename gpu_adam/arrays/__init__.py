"""Arrays of every library behind one small description, without copies and without importing a library that is not there."""

from __future__ import annotations

from .overlap import Occupied, reach
from .probe import ArrayRef, Family, probe, probe_named
from .streams import copying_stream, current_stream
from .views import assign, copy_of, snapshot, to_host, view, zero

__all__ = [
    "ArrayRef",
    "Family",
    "Occupied",
    "assign",
    "copy_of",
    "copying_stream",
    "current_stream",
    "probe",
    "probe_named",
    "reach",
    "snapshot",
    "to_host",
    "view",
    "zero",
]
