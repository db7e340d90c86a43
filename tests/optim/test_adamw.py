"""`GpuAdamW` is `GpuAdam` with decoupled decay: the same bits, other defaults, and nothing else."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam, GpuAdamW
from tests.support.reference import DTYPES, assert_same_bits
from tests.support.strategies import tame

DECOUPLED = {"weight_decay": 1e-2, "decoupled_weight_decay": True}


def made(name: str, size: int = 300) -> np.ndarray:
    return tame(DTYPES[name], size, 0, 3)


def stepped(optimizer: Any, steps: range) -> None:
    for step in steps:
        optimizer.step([tame(np.dtype(np.float32), p.size, 1 + step, 3) for p in optimizer.params])


@pytest.mark.parametrize(
    "options", [{}, {"amsgrad": True, "pack": True}, {"eps_hat": True, "max_grad_norm": 1.0, "lr": 0.1}]
)
def test_the_bits_are_those_of_adam_with_decoupled_decay(options: dict[str, Any]) -> None:
    one, other = (
        GpuAdamW([made(name) for name in DTYPES], **options),
        GpuAdam([made(name) for name in DTYPES], **DECOUPLED, **options),
    )
    stepped(one, range(5))
    stepped(other, range(5))
    for p, q in zip(one.params, other.params, strict=True):
        assert_same_bits(p, q)
    assert repr(one).replace("GpuAdamW", "GpuAdam") == repr(other)
    assert str(one.plan) == str(other.plan)


def test_the_signature_is_adams_but_for_the_decay() -> None:
    own, adams = (dict(inspect.signature(kind).parameters) for kind in (GpuAdamW, GpuAdam))
    assert own.pop("weight_decay").default == 1e-2
    assert adams.pop("weight_decay").default == 0.0
    assert list(own.values()) == list(adams.values())


def test_it_follows_torchs() -> None:
    torch = pytest.importorskip("torch")
    start = torch.from_numpy(made("float64"))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    one, other = GpuAdamW([ours]), torch.optim.AdamW([theirs])
    for step in range(5):
        ours.grad = torch.from_numpy(tame(DTYPES["float64"], 300, 1 + step, 3))
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    saved = other.state_dict()
    assert {key: saved["param_groups"][0][key] for key in ("lr", "betas", "eps", "weight_decay", "decoupled_weight_decay")} == {
        key: one.defaults[key] for key in ("lr", "betas", "eps", "weight_decay", "decoupled_weight_decay")
    }  # fmt: skip
    for key in (None, "decoupled_weight_decay"):  # which torch did not save once
        saved["param_groups"][0].pop(key, None)
        one.load_state_dict(saved)
        assert one.param_groups[0]["decoupled_weight_decay"] is True


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "state_dict"])
@pytest.mark.parametrize("pack", [False, True])
def test_a_copy_goes_on_with_the_same_bits(how: str, pack: bool) -> None:
    one = GpuAdamW(
        [{"params": [made("bfloat16")], "lr": 0.1}, {"params": [made("float32")]}], pack=pack, weight_decay=0.5
    )
    grads = [tame(DTYPES["float32"], 300, k, 3) for k in range(2)]
    one.step([[grads[0]], [grads[1]]])
    if how == "pickle":
        other = pickle.loads(pickle.dumps(one))
    elif how == "deepcopy":
        other = copy.deepcopy(one)
    else:
        other = GpuAdamW([{"params": [p.copy()]} for (p,) in one.params], pack=pack)
        other.load_state_dict(one.state_dict())
    assert type(other) is GpuAdamW
    if how != "state_dict":
        assert (repr(other), other.defaults) == (repr(one), one.defaults)
    for optimizer in (one, other):
        optimizer.step([[grads[1]], [grads[0]]])
    for (p,), (q,) in zip(one.params, other.params, strict=True):
        assert_same_bits(p, q)


@pytest.mark.parametrize("given", [True, False])
def test_the_decay_is_decoupled_always(given: bool) -> None:
    p = np.ones(3, np.float32)
    with pytest.raises(
        TypeError, match="unexpected keyword argument 'decoupled_weight_decay': its weight decay is always decoupled"
    ):
        GpuAdamW([p], decoupled_weight_decay=given)
    refused = pytest.raises(
        ValueError, match=r"group 0 .*has decoupled_weight_decay=False: GpuAdamW decouples it; use GpuAdam"
    )
    with refused:
        GpuAdamW([{"params": [p], "decoupled_weight_decay": False}])
    optimizer = GpuAdamW([{"params": [p], "decoupled_weight_decay": True}])
    saved = GpuAdam([np.ones(3, np.float32)]).state_dict()
    with refused:
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["weight_decay"] == 1e-2
    optimizer.param_groups[0]["decoupled_weight_decay"] = False
    with refused:
        optimizer.step([np.ones(3, np.float32)])
    assert (p == 1).all()


def test_a_misspelt_keyword_is_refused_as_everywhere() -> None:
    with pytest.raises(
        TypeError, match=r"GpuAdamW\(\) got an unexpected keyword argument 'amsgrd': did you mean 'amsgrad'"
    ):
        GpuAdamW([np.ones(3)], amsgrd=True)  # type: ignore[call-arg]
