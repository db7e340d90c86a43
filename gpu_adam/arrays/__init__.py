"""Arrays of every library behind one small description, without copies and without importing a library that is not there."""

from __future__ import annotations

from .kinds import name_of
from .ordinary import counts_versions, ordinary_tensors
from .overlap import Occupied
from .probe import ArrayRef, Family, probe, probe_named, reach
from .raised import raise_if_foreign
from .streams import copying_stream, current_stream
from .traits import Lifetime, Seen, plainly, seen, traits_of
from .views import assign, copy_of, snapshot, to_host, view, zero

__all__ = [
    "ArrayRef",
    "Family",
    "Lifetime",
    "Occupied",
    "Seen",
    "assign",
    "copy_of",
    "copying_stream",
    "counts_versions",
    "current_stream",
    "name_of",
    "ordinary_tensors",
    "plainly",
    "probe",
    "probe_named",
    "raise_if_foreign",
    "reach",
    "seen",
    "snapshot",
    "to_host",
    "traits_of",
    "view",
    "zero",
]
