"""The two ways in which the package reads arrays, as a fixture."""

from __future__ import annotations

import pytest

from gpu_adam.arrays import libraries


@pytest.fixture(params=["structures", "attributes"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How arrays are read: the second is for versions of NumPy and torch that lay them out or compare them otherwise."""
    if request.param == "attributes":
        monkeypatch.setattr(libraries.numpy, "trusted", lambda: False)
        monkeypatch.setattr(libraries.torch, "guard", lambda tensors: None)
