"""What the tests of rules share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture
def strict() -> Iterator[None]:
    """Warnings, and what NumPy would be silent about, are errors."""
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield
