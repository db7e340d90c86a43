"""Copies and pickles of optimizers: they go on as the original does, with arrays of their own."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam, LossScaler
from tests.state.mixed_model import FORMATS, assert_same
from tests.support.reference import DTYPES, assert_same_bits

torch = pytest.importorskip("torch")


DUPLICATES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "torch.save": lambda one: _through_torch(one),
}


def _through_torch(one: Any) -> Any:
    file = io.BytesIO()
    torch.save(one, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def arrays_of(optimizer: Any) -> list[Any]:
    return [one.ref.array for one in optimizer._params]


@pytest.mark.parametrize("duplicate", DUPLICATES.values(), ids=DUPLICATES)
@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("form", ["list", "dict", "pairs", "groups"])
def test_a_copy_goes_on_with_arrays_of_its_own(
    form: str, library: str, pack: bool, duplicate: Callable[[Any], Any]
) -> None:
    def of(numbers: Any, name: str) -> Any:
        array = np.asarray(numbers).astype(DTYPES[name])
        return array if library == "numpy" else torch.from_numpy(np.asarray(numbers)).to(getattr(torch, name))

    leaves = [of(np.arange(1.0, 4.0) + k, name) for k, name in enumerate(FORMATS)]
    names = list("abcd")
    params: Any = {
        "list": leaves,
        "dict": dict(zip(names, leaves, strict=True)),
        "pairs": list(zip(names, leaves, strict=True)),
        "groups": [
            {"params": leaves[:1], "lr": 0.5},
            {"params": dict(zip(names[1:], leaves[1:], strict=True)), "name": "second"},
        ],
    }[form]
    optimizer = GpuAdam(params, pack=pack, ema_decay=0.5, amsgrad=True, skip_nonfinite=True)
    grads = [[of(np.full(3, k + 0.5), name) for name in FORMATS] for k in range(4)]
    for k in range(2):
        optimizer.step(grads[k])
    optimizer.param_groups[-1]["initial_lr"] = 0.75
    twin = duplicate(optimizer)
    assert_same(twin.state_dict(), optimizer.state_dict())
    before = [(p.clone() if library == "torch" else p.copy()) for p in arrays_of(optimizer)]
    for k in (2, 3):
        twin.step(grads[k])
    assert_same(arrays_of(optimizer), before)
    for k in (2, 3):
        optimizer.step(grads[k])
    assert_same(twin.state_dict(), optimizer.state_dict())
    assert_same(arrays_of(twin), arrays_of(optimizer))


@pytest.mark.parametrize("duplicate", DUPLICATES.values(), ids=DUPLICATES)
def test_a_copy_trains_the_arrays_whose_state_it_has(duplicate: Callable[[Any], Any]) -> None:
    p, other = np.ones(3, np.float32), np.full(3, 5.0, np.float32)
    optimizer = GpuAdam([p], lr=0.1)
    optimizer.step([p])
    optimizer.param_groups[0]["params"] = [other]
    try:
        twin = duplicate(optimizer)
    except ValueError:
        return
    (array,) = arrays_of(twin)
    assert_same_bits(array, p)
    assert twin.param_groups[0]["params"][0] is array


def test_a_loss_scaler_is_not_copied_with_its_optimizer() -> None:
    optimizer = GpuAdam([np.ones(3, np.float32)])
    pair = optimizer, LossScaler(optimizer)
    with pytest.raises(TypeError, match="make another"):
        copy.deepcopy(pair)
