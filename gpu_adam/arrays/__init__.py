"""Arrays of every library behind one small description, without copies and without importing a library that is not there."""

from __future__ import annotations

from .overlap import Occupied, reach
from .probe import ArrayRef, Family, probe
from .views import assign, copy_of, to_host, view, zero

__all__ = ["ArrayRef", "Family", "Occupied", "assign", "copy_of", "probe", "reach", "to_host", "view", "zero"]
