"""Warnings, and what NumPy would be silent about, as errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest


@contextmanager
def strict() -> Iterator[None]:
    """A block in which they are."""
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


@pytest.fixture(name="strict")
def strict_test() -> Iterator[None]:
    """A test in which they are."""
    with strict():
        yield
