"""What is saved: also where a step is refused, and in numbers that every reader knows."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam, LossScaler
from tests.state.mixed_model import FORMATS, Model, assert_same, made, trained, warnings_raised
from tests.support.reference import DTYPES
from tests.support.rule_cases import SETTINGS
from tests.support.shipped import CLASSES, OPTIMIZERS

torch = pytest.importorskip("torch")

# ---- Where a step is refused ------------------------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Model], Any]] = {
    "double": lambda model: model.double(),
    "half": lambda model: model.half(),
    "integers": lambda model: [
        setattr(p.requires_grad_(False), "data", p.data.to(torch.int64)) for p in model.parameters()
    ],
    "another shape": lambda model: [setattr(p, "data", p.data[:1].clone()) for p in model.parameters()],
    "transposed": lambda model: [setattr(p, "data", p.data.t().contiguous().t()) for p in model.parameters()],
    "freed": lambda model: [p.data.untyped_storage().resize_(0) for p in model.parameters()],
    "swapped": lambda model: [
        torch.utils.swap_tensors(p, torch.nn.Parameter(torch.zeros(7, device="meta"))) for p in model.parameters()
    ],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(
    "options", [{}, {"ema_decay": 0.5}, {"capturable": True}], ids=["plain", "averaged", "capturable"]
)
def test_a_state_is_had_where_a_step_is_refused(options: dict[str, Any], change: Callable[[Model], Any]) -> None:
    model, optimizer = trained(**options)
    grads, before, shown = model.grads(9), optimizer.state_dict(), repr(optimizer)
    average = [(name, one.clone()) for name, one in optimizer.averaged_params] if "ema_decay" in options else None
    change(model)
    with pytest.raises((TypeError, ValueError)):
        optimizer.step(grads)
    for _ in range(2):
        assert_same(optimizer.state_dict(), before)
        assert repr(optimizer) == shown
        assert optimizer.steps_skipped == 0
        assert len(optimizer.param_groups[0]["params"]) == 4
        if average is not None:
            assert_same(optimizer.averaged_params, average)
    with pytest.raises((TypeError, ValueError)):
        optimizer.step(grads)


@pytest.mark.parametrize("edit", [{"lr": -1.0}, {"lr": "fast"}, {"weight_decay": float("nan")}, {"maximize": 3}])
def test_a_state_is_had_where_a_hyperparameter_is_refused(edit: dict[str, Any]) -> None:
    model, optimizer = trained()
    before = optimizer.state_dict()["state"]
    optimizer.param_groups[0].update(edit)
    with pytest.raises((TypeError, ValueError)):
        optimizer.step(model.grads(9))
    assert_same(optimizer.state_dict()["state"], before)


@pytest.mark.parametrize("edit", [{"lr": -1.0}, {"lr": "fast"}, {"weight_decay": float("nan")}, {"lr": lambda t: -1.0}])
@pytest.mark.parametrize("make", CLASSES.values())
def test_every_optimizer_says_its_state_where_a_hyperparameter_is_refused(make: Any, edit: dict[str, Any]) -> None:
    params = [np.ones(4, np.float32) for _ in range(2)]
    one, other = (make([w], lr=0.1) for w in params)
    one.step([params[0].copy()])
    params[1][...] = params[0]
    lr = one.param_groups[0]["lr"]
    decay = one.param_groups[0]["weight_decay"]
    one.param_groups[0].update(edit)
    saved = one.state_dict()
    saved["param_groups"][0].update(lr=lr, weight_decay=decay)
    one.param_groups[0].update(lr=lr, weight_decay=decay)
    other.load_state_dict(saved)
    for opt, w in zip((one, other), params, strict=True):
        opt.step([w.copy()])
    np.testing.assert_array_equal(*params)


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("to", FORMATS)
def test_a_converted_model_goes_on_with_the_state_that_it_had(to: str, pack: bool) -> None:
    model, optimizer = trained(pack=pack)
    before = optimizer.state_dict()["state"]
    model.to(getattr(torch, to))
    fresh = made(model)
    fresh.load_state_dict(optimizer.state_dict())
    weights = [p.detach().clone() for p in model.parameters()]
    for k, entry in fresh.state_dict()["state"].items():
        working = torch.float64 if to == "float64" else torch.float32
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(entry[name], before[k][name].to(working))
        assert entry["step"] == 3
    fresh.param_groups[0]["lr"] = 0.0
    fresh.step(model.grads(4))
    for p, weight in zip(model.parameters(), weights, strict=True):
        assert torch.equal(p, weight)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["deepcopy", "pickle"]
)
def test_an_optimizer_of_a_converted_model_is_copied_as_a_new_one_of_it(duplicate: Callable[[Any], Any]) -> None:
    model, optimizer = trained()
    model.double()
    twin = duplicate((model, optimizer))[1]
    other = made(model)
    other.load_state_dict(optimizer.state_dict())
    assert_same(twin.state_dict(), other.state_dict())
    twin.step(model.grads(5))


# ---- Numbers ----------------------------------------------------------------------------------------------------------------------

NUMBERS: dict[str, dict[str, Any]] = {
    "NumPy's numbers": {"lr": np.float32(0.25), "eps": np.float64(0.5), "maximize": np.bool_(True)},
    "other formats": {"lr": np.float16(0.25), "eps": DTYPES["bfloat16"].type(0.5), "weight_decay": np.longdouble(0.25)},
    "0-dimensional arrays": {"lr": np.array(0.25), "eps": np.array(0.5, np.float32)},
    "pairs": {"betas": (np.float64(0.5), np.array(0.25))},
    "a list": {"betas": [np.float32(0.5), 0.25]},
    "an array": {"betas": np.array([0.5, 0.25])},
    "integers": {"lr": np.int64(1), "weight_decay": np.uint8(0)},
    "torch's": {"lr": torch.tensor(0.25)},
}
OWN: dict[str, Any] = {
    "initial_lr": np.float64(0.5),
    "layers": [np.int64(3), (np.float16(1.0), {"deep": np.array(2.0)})],
    "name": np.str_("first"),
    "flag": np.bool_(False),
}


def is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    return value is None or type(value) in (int, float, bool, str, torch.Tensor)


@pytest.mark.parametrize("given", NUMBERS.values(), ids=NUMBERS)
def test_numbers_are_saved_as_pythons_own(given: dict[str, Any]) -> None:
    optimizer = GpuAdam([("p", torch.ones(3))], **given)
    optimizer.param_groups[0].update(OWN)
    optimizer.step([torch.ones(3)])
    saved = optimizer.state_dict()
    assert is_plain(saved["param_groups"])
    assert type(saved["steps_skipped"]) is int
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    read = torch.load(file, weights_only=True)
    assert_same(read, saved)
    assert read["param_groups"][0]["layers"] == [3, (1.0, {"deep": 2.0})]
    other = GpuAdam([("p", torch.ones(3))])
    other.load_state_dict(read)
    for key, value in given.items():
        assert np.array_equal(np.asarray(other.param_groups[0][key], np.float64), np.asarray(value, np.float64))


@pytest.mark.parametrize(
    "options", [{}, {"ema_decay": 0.5}, {"capturable": True}, {"skip_nonfinite": True}, {"pack": True}]
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_checkpoint_of_tensors_is_read_as_weights_only(name: str, options: dict[str, Any]) -> None:
    for settings in SETTINGS[name].values():
        params = [torch.ones(3, dtype=getattr(torch, one)) for one in FORMATS]
        optimizer = OPTIMIZERS[name](params, **{**settings, **options, "lr": np.float64(0.5)})
        optimizer.step([torch.ones(3)] * 4)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        read = torch.load(file, weights_only=True)
        assert_same(read, optimizer.state_dict())
        optimizer.load_state_dict(read)
        assert_same(optimizer.state_dict(), read)


STEPS = {
    "an int": 7,
    "a float": 7.0,
    "NumPy's": np.float32(7),
    "0-dimensional": np.array(7),
    "one element": np.array([7.0]),
    "one integer": np.array([7], np.int32),
    "two dimensions": np.array([[7.0]], np.float16),
    "torch's": torch.tensor(7.0),
    "torch's of one element": torch.tensor([7]),
}
NO_STEPS = {
    "a list": [7],
    "two": np.array([7.0, 7.0]),
    "none": np.zeros(0),
    "a half": np.array([7.5]),
    "a string": np.array("7"),
    "strings": np.array(["7"]),
    "negative": torch.tensor([-1.0]),
    "nan": np.array([np.nan], np.float16),
    "complex": np.array(7 + 0j),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_step_count_of_one_element_is_a_number(step: Any) -> None:
    p = np.ones(3, np.float32)
    optimizer = GpuAdam([p])
    optimizer.step([p])
    saved = optimizer.state_dict()
    saved["state"][0]["step"] = step
    with np.errstate(all="raise"), warnings_raised():
        optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["state"][0]["step"] == 7


@pytest.mark.parametrize("step", NO_STEPS.values(), ids=NO_STEPS)
def test_what_is_no_step_count_is_refused(step: Any) -> None:
    p = np.ones(3, np.float32)
    optimizer = GpuAdam([p])
    optimizer.step([p])
    saved = optimizer.state_dict()
    saved["state"][0]["step"] = step
    with warnings_raised(), pytest.raises(ValueError, match="must be a whole number"):
        optimizer.load_state_dict(saved)


def test_a_loss_scaler_takes_any_numbers_and_saves_pythons_own() -> None:
    optimizer = GpuAdam([torch.ones(3)])
    scaler = LossScaler(optimizer)
    given = dict(
        zip(scaler.state_dict(), (np.float32(8), np.array(4.0), np.float64(0.5), np.int64(9), np.array(2)), strict=True)
    )
    with np.errstate(all="raise"), warnings_raised():
        scaler.load_state_dict(given)
        saved = scaler.state_dict()
    assert list(saved.values()) == [8.0, 4.0, 0.5, 9, 2]
    assert is_plain(saved)
    for bad in ({"scale": 1e-60}, {"scale": 1e60}, {"_growth_tracker": -1}):
        with np.errstate(all="raise"), pytest.raises(ValueError, match="must"):
            scaler.load_state_dict({**given, **bad})
        assert scaler.state_dict() == saved
