"""Arrays of every library behind one small description, without copies and without importing a library that is not there."""

from __future__ import annotations

from .copies import assign, snapshot, to_host
from .libraries import library_of
from .libraries.torch import Writes
from .library import ArrayRef, Library, name_of, reach
from .overlap import Occupied
from .probe import probe, probe_named
from .raised import raise_if_foreign
from .streams import copying_stream, current_stream
from .traits import Lifetime, Seen

__all__ = [
    "ArrayRef",
    "Library",
    "Lifetime",
    "Occupied",
    "Seen",
    "Writes",
    "assign",
    "copying_stream",
    "current_stream",
    "library_of",
    "name_of",
    "probe",
    "probe_named",
    "raise_if_foreign",
    "reach",
    "snapshot",
    "to_host",
]
