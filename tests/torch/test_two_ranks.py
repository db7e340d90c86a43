"""The two processes that other tests run in: what goes wrong in one of them fails its test, at once, and no other test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")
import torch.distributed as dist

from tests.support.two_ranks import TwoRanks, on_two_ranks


@on_two_ranks
def one_rank_raises() -> None:
    if dist.get_rank() == 0:
        raise ArithmeticError("only here")
    dist.barrier()


@on_two_ranks
def one_rank_ends() -> None:
    if dist.get_rank() == 1:
        os._exit(3)
    dist.barrier()


@on_two_ranks
def both_pass(size: int) -> None:
    assert dist.get_world_size() == size


@pytest.mark.slow
def test_what_goes_wrong_is_said_and_the_next_test_runs(tmp_path: Path) -> None:
    ranks = TwoRanks(tmp_path)
    try:
        with pytest.raises(pytest.fail.Exception, match=r"rank 0: Traceback(.|\n)*ArithmeticError: only here"):
            ranks.run(__name__, "one_rank_raises", {})
        with pytest.raises(pytest.fail.Exception, match="rank 1: the process has ended"):
            ranks.run(__name__, "one_rank_ends", {})
        ranks.run(__name__, "both_pass", {"size": 2})
    finally:
        ranks.end()
