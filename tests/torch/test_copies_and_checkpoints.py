"""Copies and checkpoints: a run that goes on from one has the bits of the run that never stopped."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
import torch.distributed.checkpoint as dcp  # noqa: E402
from torch.distributed.checkpoint.state_dict import (  # noqa: E402
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

from gpu_adam.torch import Adam, NAdam  # noqa: E402
from tests.support.torch_training import assert_close, assert_same, network, train  # noqa: E402

FORMATS = [torch.float32, torch.bfloat16, torch.float64]


def started(dtype: Any = torch.float32) -> tuple[Any, Any]:
    """A model and its optimizer after three steps."""
    model = network(dtype=dtype)
    optimizer = Adam(model.parameters(), lr=0.01)
    return train(model, optimizer, 3), optimizer


def by_pickle(pair: Any) -> Any:
    return pickle.loads(pickle.dumps(pair))


@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_a_copy_goes_on_by_itself(copied: Callable[[Any], Any], dtype: Any) -> None:
    model, optimizer = started(dtype)
    other, its_optimizer = copied((model, optimizer))
    assert its_optimizer.param_groups[0]["params"][0] is other[0].weight
    train(model, optimizer, 20)
    train(other, its_optimizer, 20)
    assert_same(other, model)


def test_a_copy_of_the_optimizer_alone_has_parameters_of_its_own() -> None:
    model, optimizer = started()
    before = copy.deepcopy(model)
    other = copy.deepcopy(optimizer)
    params = other.param_groups[0]["params"]
    assert not {id(p) for p in params} & {id(p) for p in model.parameters()}
    for p in params:
        p.grad = torch.ones_like(p)
    other.step()
    assert_same(model, before)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_a_checkpoint_by_torch_save_of_nothing_but_weights(dtype: Any) -> None:
    model, optimizer = started(dtype)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = network(seed=1, dtype=dtype)
    its_optimizer = Adam(other.parameters(), lr=0.5)
    other.load_state_dict(saved["model"])
    its_optimizer.load_state_dict(saved["optimizer"])
    train(model, optimizer, 20)
    train(other, its_optimizer, 20)
    assert_same(other, model)


def test_a_checkpoint_takes_no_more_than_its_tensors() -> None:
    # A view saves the whole of its storage: one that many parameters share would be saved as often as there are parameters.
    _, optimizer = started()
    for state in optimizer.state_dict()["state"].values():
        for name in ("exp_avg", "exp_avg_sq"):
            assert state[name].untyped_storage().nbytes() == state[name].nbytes


@pytest.mark.parametrize("dtypes", [(torch.complex64, torch.float32), (torch.float64, torch.complex128)], ids=str)
def test_an_empty_parameter_shares_no_place_with_another_of_another_dtype(dtypes: tuple[Any, Any]) -> None:
    # What torch.save finds at one place must be of one dtype.
    params = [torch.nn.Parameter(torch.ones(size, dtype=dtype)) for size, dtype in zip((0, 3), dtypes, strict=True)]
    optimizer = Adam(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    optimizer.step()
    assert [optimizer.state[p]["exp_avg"].shape for p in params] == [p.shape for p in params]


def test_a_state_dict_is_not_changed_by_loading_it() -> None:
    # torch.optim's optimizers take tensors of the right format as they are, and step in the caller's checkpoint.
    model, optimizer = started()
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved)
    other = copy.deepcopy(model)
    its_optimizer = Adam(other.parameters())
    its_optimizer.load_state_dict(saved)
    train(other, its_optimizer, 2)
    torch.testing.assert_close(saved, before, rtol=0, atol=0)


@pytest.mark.parametrize("foreach", [None, True])
@pytest.mark.parametrize("first", [Adam, torch.optim.Adam], ids=["from ours", "from torch.optim"])
def test_a_run_goes_on_with_the_other_optimizer(first: Any, foreach: bool | None) -> None:
    second = torch.optim.Adam if first is Adam else Adam
    model, expected = network(), network()
    optimizer, peer = (
        cls(model.parameters(), lr=0.01, foreach=foreach) for model, cls in ((model, first), (expected, first))
    )
    train(model, optimizer, 3)
    train(expected, peer, 3)
    other = copy.deepcopy(model)
    its_optimizer = second(other.parameters(), lr=0.5, foreach=foreach)
    its_optimizer.load_state_dict(optimizer.state_dict())
    assert its_optimizer.param_groups[0]["lr"] == 0.01
    assert_close(train(other, its_optimizer, 3), train(expected, peer, 3))


def test_a_frozen_layer_has_no_state_in_the_checkpoint() -> None:
    model = network()
    model[0].requires_grad_(False)
    optimizer = Adam(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    assert sorted(saved["state"]) == [2, 3]
    other = copy.deepcopy(model)
    its_optimizer = Adam(other.parameters(), lr=0.01)
    its_optimizer.load_state_dict(saved)
    assert_same(train(other, its_optimizer, 2), train(model, optimizer, 2))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_a_state_dict_by_the_parameters_names(dtype: Any) -> None:
    model, optimizer = started(dtype)
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    assert set(saved["state"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    other = copy.deepcopy(model)
    its_optimizer = Adam(other.parameters(), lr=0.5)
    set_optimizer_state_dict(other, its_optimizer, saved)
    assert_same(train(other, its_optimizer, 20), train(model, optimizer, 20))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_a_distributed_checkpoint_in_one_process(dtype: Any, tmp_path: Path) -> None:
    model, optimizer = started(dtype)
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=tmp_path, no_dist=True)
    other = network(seed=1, dtype=dtype)
    its_optimizer = Adam(other.parameters(), lr=0.5)
    weights, state = get_state_dict(other, its_optimizer)
    saved = {"model": weights, "optimizer": state}
    dcp.load(saved, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(other, its_optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])
    assert its_optimizer.param_groups[0]["lr"] == 0.01
    assert_same(train(other, its_optimizer, 20), train(model, optimizer, 20))


def test_asking_for_a_state_dict_by_names_changes_no_weight() -> None:
    # PyTorch makes the state by a step with lr = 0 and gradients of zero where there is none yet.
    model, before = network(), network()
    optimizer = Adam(model.parameters(), lr=0.01)
    state = get_optimizer_state_dict(model, optimizer)["state"]
    assert all(not one["exp_avg"].any() for one in state.values())
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert_same(model, before)


def test_what_pytorch_keeps_of_nadam_is_in_every_state_dict() -> None:
    model = network()
    optimizer = NAdam(model.parameters())
    train(model, optimizer, 3)
    expected = [one["mu_product"] for one in optimizer.state_dict()["state"].values()]
    other = NAdam(network().parameters())
    other.load_state_dict(optimizer.state_dict())  # and no step since
    for saved in (copy.deepcopy(optimizer).state_dict(), other.state_dict()):
        assert [one["mu_product"] for one in saved["state"].values()] == expected
        its_optimizer = torch.optim.NAdam(network().parameters())
        its_optimizer.load_state_dict(saved)
        its_optimizer.step()


def test_nadam_is_saved_after_a_first_step_that_was_skipped() -> None:
    model = network()
    optimizer = NAdam(model.parameters(), skip_nonfinite=True)
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.inf)
    optimizer.step()
    other = NAdam(model.parameters(), skip_nonfinite=True)
    other.load_state_dict(optimizer.state_dict())
    assert other.steps_skipped == 1
    theirs = torch.optim.NAdam(model.parameters())
    theirs.load_state_dict(optimizer.state_dict())  # a state of theirs has a product of momenta
    train(model, theirs, 1)
    train(model, other, 1)
