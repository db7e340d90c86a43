"""The table of PyTorch's tests is true: what it says to be ours is there, and every row that leaves something out gives a reason."""

from __future__ import annotations

from importlib import import_module

import pytest

pytest.importorskip("torch", reason="torch is not installed")
from tests.torch.pytorch_tests.left_out import DIFFERENCES, PYTORCHS_TESTS, REFUSED_OTHERWISE, LeftOut


@pytest.mark.parametrize("theirs", PYTORCHS_TESTS)
def test_every_test_of_pytorchs_is_here_or_left_out_for_a_reason(theirs: str) -> None:
    for each in PYTORCHS_TESTS[theirs]:
        if isinstance(each, LeftOut):
            assert len(each.reason.split()) > 3
        else:
            module, name = each.split("::")
            assert callable(getattr(import_module(f"tests.torch.pytorch_tests.{module}"), name))


def test_what_is_otherwise_has_a_reason() -> None:
    reasons = [*(row.reason for row in REFUSED_OTHERWISE.values()), *(row.reason for row in DIFFERENCES.values())]
    assert all(len(reason.split()) > 3 for reason in reasons)
