"""FSDP1 (`FullyShardedDataParallel`) in two processes, with flat parameters and with views of them that keep the model's own names."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
import torch.distributed as dist  # noqa: E402
from torch.distributed.fsdp import (  # noqa: E402
    FullOptimStateDictConfig,
    FullyShardedDataParallel,
    ShardedOptimStateDictConfig,
    StateDictType,
)

from gpu_adam.torch import Adam  # noqa: E402
from tests.support.torch_training import assert_close, assert_same, network, shard, train  # noqa: E402
from tests.support.two_ranks import on_two_ranks  # noqa: E402

ORIGINAL = pytest.mark.parametrize("original", [False, True], ids=["flat", "original"])

# Not offloaded to the CPU, as whole tensors are by default: on the CPU PyTorch 2.13 then gives all states of a parameter the memory
# of the last one, whoever's optimizer it is.
KINDS = {
    "whole": (StateDictType.FULL_STATE_DICT, FullOptimStateDictConfig(offload_to_cpu=False)),
    "sharded": (StateDictType.SHARDED_STATE_DICT, ShardedOptimStateDictConfig(offload_to_cpu=False)),
}


def sharded(original: bool, seed: int = 0) -> Any:
    return FullyShardedDataParallel(network(seed), use_orig_params=original, device_id=torch.device("cpu"))


@ORIGINAL
@on_two_ranks
def test_it_trains_what_one_process_trains(original: bool) -> None:
    model, whole = sharded(original), network()
    train(model, Adam(model.parameters(), lr=0.01), 5, shard(dist.get_rank()))
    train(whole, torch.optim.Adam(whole.parameters(), lr=0.01), 5)
    with FullyShardedDataParallel.summon_full_params(model):
        assert_close(model, whole)


@pytest.mark.parametrize("kind", KINDS)
@ORIGINAL
@on_two_ranks
def test_a_run_is_resumed(original: bool, kind: str) -> None:
    model, other = sharded(original), sharded(original, seed=1)
    for one in (model, other):
        FullyShardedDataParallel.set_state_dict_type(one, KINDS[kind][0], optim_state_dict_config=KINDS[kind][1])
    optimizer, its_optimizer = Adam(model.parameters(), lr=0.01), Adam(other.parameters(), lr=0.5)
    train(model, optimizer, 3, shard(dist.get_rank()))
    saved = copy.deepcopy(FullyShardedDataParallel.optim_state_dict(model, optimizer))
    assert set(saved["state"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    with torch.no_grad():
        for p, q in zip(other.parameters(), model.parameters(), strict=True):
            p.copy_(q)
    its_optimizer.load_state_dict(FullyShardedDataParallel.optim_state_dict_to_load(other, its_optimizer, saved))
    assert its_optimizer.param_groups[0]["lr"] == 0.01
    for one, its in ((model, optimizer), (other, its_optimizer)):
        train(one, its, 5, shard(dist.get_rank()))
    assert_same(other, model)
