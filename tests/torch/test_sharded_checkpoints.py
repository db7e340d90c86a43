"""Distributed checkpoints of FSDP2's shards in two processes: whoever goes on from one has the bits of the run that never stopped.

Both ranks train on the whole batch, so that a model in one process gets the same gradients as the shards.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
import torch.distributed as dist  # noqa: E402
import torch.distributed.checkpoint as dcp  # noqa: E402
from torch.distributed.checkpoint.state_dict import (  # noqa: E402
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

from gpu_adam.torch import Adam  # noqa: E402
from tests.support.torch_training import assert_close, assert_same, batch, network, train  # noqa: E402
from tests.support.two_ranks import on_two_ranks  # noqa: E402
from tests.torch.sharding import fully_sharded  # noqa: E402

FORMATS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def started(dtype: Any = torch.float32) -> tuple[Any, Any]:
    """A sharded model and its optimizer after five steps."""
    model = fully_sharded(network(dtype=dtype))
    optimizer = Adam(model.parameters(), lr=1e-3)
    return train(model, optimizer, 5, batch(dtype)), optimizer


def resharded(model: Any) -> tuple[Any, Any]:
    """A model with these weights, and an optimizer that has made no step."""
    other = fully_sharded(network(seed=1, dtype=next(model.parameters()).dtype))
    with torch.no_grad():
        for p, q in zip(other.parameters(), model.parameters(), strict=True):
            p.copy_(q)
    return other, Adam(other.parameters(), lr=1e-3)


def save(model: Any, optimizer: Any, folder: Path) -> None:
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder)


def load(model: Any, optimizer: Any, folder: Path) -> None:
    weights, state = get_state_dict(model, optimizer)
    saved = {"model": weights, "optimizer": state}
    dcp.load(saved, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])


def assert_they_go_on_alike(first: tuple[Any, Any], second: tuple[Any, Any]) -> None:
    for model, optimizer in (first, second):
        train(model, optimizer, 20, batch(next(model.parameters()).dtype))
    assert_same(first[0], second[0])


@FORMATS
@on_two_ranks
def test_a_run_is_resumed(dtype: Any, tmp_path: Path) -> None:
    first = started(dtype)
    save(*first, tmp_path)
    model = fully_sharded(network(seed=1, dtype=dtype))
    optimizer = Adam(model.parameters(), lr=0.5)
    load(model, optimizer, tmp_path)
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert_they_go_on_alike(first, (model, optimizer))


@on_two_ranks
def test_the_master_weights_of_bfloat16_parameters_are_in_the_checkpoint(tmp_path: Path) -> None:
    first = started(torch.bfloat16)
    state = get_optimizer_state_dict(*first)["state"]["0.weight"]
    [master] = [value for name, value in state.items() if name not in ("step", "exp_avg", "exp_avg_sq")]
    assert master.dtype == state["exp_avg"].dtype == torch.float32
    assert torch.equal(master.full_tensor().bfloat16(), first[0][0].weight.full_tensor())
    assert not torch.equal(master.full_tensor().bfloat16().float(), master.full_tensor())


@FORMATS
@on_two_ranks
def test_shards_go_on_in_one_process(dtype: Any, tmp_path: Path) -> None:
    first = started(dtype)
    save(*first, tmp_path)
    model = network(seed=1, dtype=dtype)
    optimizer = Adam(model.parameters(), lr=0.5)
    load(model, optimizer, tmp_path)
    assert_they_go_on_alike(first, (model, optimizer))


@FORMATS
@on_two_ranks
def test_one_process_goes_on_in_shards(dtype: Any, tmp_path: Path) -> None:
    model = network(dtype=dtype)
    first = model, Adam(model.parameters(), lr=1e-3)
    train(*first, 5)
    save(*first, tmp_path)
    model = fully_sharded(network(seed=1, dtype=dtype))
    optimizer = Adam(model.parameters(), lr=0.5)
    load(model, optimizer, tmp_path)
    assert_they_go_on_alike(first, (model, optimizer))


@FORMATS
@on_two_ranks
def test_a_state_dict_of_whole_tensors(dtype: Any) -> None:
    options = StateDictOptions(full_state_dict=True)
    first = started(dtype)
    saved = copy.deepcopy(get_optimizer_state_dict(*first, options=options))
    assert saved["state"]["0.weight"]["exp_avg"].shape == (16, 8)
    second = resharded(first[0])
    set_optimizer_state_dict(*second, saved, options=options)
    assert_they_go_on_alike(first, second)


@FORMATS
@on_two_ranks
def test_a_flattened_state_dict(dtype: Any) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    first = started(dtype)
    saved = copy.deepcopy(get_optimizer_state_dict(*first, options=options))
    assert saved["state.0.weight.exp_avg"].to_local().shape == (8, 8)
    second = resharded(first[0])
    set_optimizer_state_dict(*second, saved, options=options)
    assert_they_go_on_alike(first, second)


@on_two_ranks
def test_whole_tensors_that_only_the_first_rank_has() -> None:
    first = started()
    saved = copy.deepcopy(
        get_optimizer_state_dict(*first, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    )
    assert bool(saved) is (dist.get_rank() == 0)
    second = resharded(first[0])
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_optimizer_state_dict(*second, saved, options=options)
    assert_they_go_on_alike(first, second)


@on_two_ranks
def test_torch_optims_state_goes_on_in_our_shards() -> None:
    whole = network()
    peer = torch.optim.Adam(whole.parameters(), lr=1e-3)
    train(whole, peer, 5)
    saved = copy.deepcopy(get_optimizer_state_dict(whole, peer))
    model = fully_sharded(copy.deepcopy(whole))
    optimizer = Adam(model.parameters(), lr=1e-3)
    set_optimizer_state_dict(model, optimizer, saved, options=StateDictOptions(full_state_dict=True))
    assert_close(train(model, optimizer, 5), train(whole, peer, 5))


@on_two_ranks
def test_our_shards_go_on_with_torch_optim(tmp_path: Path) -> None:
    first = started()
    save(*first, tmp_path)
    model = network(seed=1)
    peer = torch.optim.Adam(model.parameters(), lr=0.5)
    load(model, peer, tmp_path)
    assert_close(train(model, peer, 5), train(*first, 5))
