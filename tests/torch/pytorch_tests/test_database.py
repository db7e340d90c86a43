"""PyTorch's database of its optimizers is what these tests take it for, and to import it costs the other tests nothing."""

from __future__ import annotations

import os

import hypothesis
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.torch.pytorch_tests.cases import FUSED, NAMES, information, inputs, refusals  # noqa: E402


def test_the_process_is_as_it_was() -> None:
    before = hypothesis.settings.get_current_profile_name(), dict(os.environ)
    assert information("Adam").optim_cls is torch.optim.Adam
    assert (hypothesis.settings.get_current_profile_name(), dict(os.environ)) == before
    assert hypothesis.settings.get_current_profile_name() not in ("dev", "pytorch_ci")
    assert not torch.backends.flags_frozen()


def test_it_has_something_to_try_of_every_optimizer() -> None:
    for name in NAMES:
        assert len(inputs(name, flags=False)) >= 4
        assert len(refusals(name)) >= 6
        assert all(not {"foreach", "fused", "differentiable"} & kwargs.keys() for kwargs in inputs(name, flags=False))
    assert {name for name in NAMES if any(kwargs.get("fused") for kwargs in inputs(name))} == set(FUSED)
