"""Every public number, given as anything that Python calls a number: taken, or refused by name before anything has changed."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam, GpuOptimizer, GpuSgd, LossScaler, schedules
from gpu_adam.checks import MOST_STEPS
from tests.support.rule_cases import SETTINGS
from tests.support.shipped import OPTIMIZERS

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("strict")

HUGE = [2**63, 2**64, 2**1023, 2**1024, 10**400, 10**5000, -(2**63), -(10**400), -(10**5000)]
ODD: list[Any] = [
    *HUGE,
    *map(Fraction, (10**400, -(10**400))),
    Fraction(1, 10**400),
    Fraction(10**5000, 3),
    *map(Decimal, ("1e400", "-1e400", "1e-400", "0.5", "nan", "snan", "-inf")),
    *(np.uint64(2**64 - 1), np.int64(-(2**63)), np.longdouble("1e4000"), np.longdouble("-1e4000"), np.longdouble("1e-4900")),
    *(math.inf, -math.inf, math.nan, -0.0, 5e-324, 1.7e308, True, np.True_, None, "1", b"1", 1j, np.complex64(1), [1.0], {}),
    *(np.array(1e300), np.array([1.0]), np.array([1.0, 2.0]), np.array(True), np.array("1"), np.array(None), np.array(10**400, object)),
    *(torch.tensor(1e300, dtype=torch.float64), torch.tensor([1.0]), torch.tensor(2**62), torch.empty(0), torch.tensor(1.0, device="meta")),
    *(np.ma.masked, np.ma.masked_array(0.1, mask=True), np.ma.masked_array(1, mask=False)),
    lambda: 1.0,
    object(),
]  # fmt: skip


def made(cls: type[GpuOptimizer] = GpuAdam, **options: Any) -> Any:
    return cls([np.ones(3, np.float32), np.ones(2)], **options)


GRADS = [np.full(3, 0.5, np.float32), np.full(2, 0.25)]


def stepped(opt: Any, **options: Any) -> None:
    opt.step(GRADS, **options)


def loaded(change: Callable[[dict[str, Any], Any], None], cls: type[GpuOptimizer] = GpuAdam) -> Callable[[Any], Any]:
    def place(value: Any) -> Any:
        opt = made(cls)
        stepped(opt)
        saved = opt.state_dict()
        change(saved, value)
        before = everything(opt)
        try:
            opt.load_state_dict(saved)
        except BaseException:
            assert everything(opt) == before
            raise
        return opt

    return place


def edited(change: Callable[[Any, Any], None]) -> Callable[[Any], Any]:
    def place(value: Any) -> Any:
        opt = made(max_grad_norm=1e3)
        stepped(opt)
        before = everything(opt)
        change(opt, value)
        try:
            stepped(opt)
        except BaseException:
            assert everything(opt)["state"] == before["state"]
            raise
        return opt

    return place


def everything(opt: Any) -> Any:
    saved = opt.state_dict()
    state = {
        k: {key: one.tobytes() if hasattr(one, "tobytes") else one for key, one in entry.items()}
        for k, entry in saved["state"].items()
    }
    return {"state": state, "params": [p.tobytes() for p in opt.params], "skipped": saved["steps_skipped"]}


def scaler_of(**options: Any) -> LossScaler:
    return LossScaler(made(), **options)


def scaler_loaded(key: str) -> Callable[[Any], Any]:
    def place(value: Any) -> Any:
        scaler = scaler_of()
        before = scaler.state_dict()
        try:
            scaler.load_state_dict({**before, key: value})
        except BaseException:
            assert scaler.state_dict() == before
            raise
        return scaler

    return place


PLACES: dict[str, Callable[[Any], Any]] = {
    **{
        f"{name}({key})": lambda value, name=name, key=key: made(OPTIMIZERS[name], **{key: value})  # type: ignore[misc]
        for name, table in SETTINGS.items()
        for key in ("lr", "weight_decay", *sorted({key for settings in table.values() for key in settings} - {"betas"}))
    },
    "betas[0]": lambda value: made(betas=(value, 0.9)),
    "betas[1]": lambda value: made(betas=(0.9, value)),
    "betas": lambda value: made(betas=value),
    "eps": lambda value: made(eps=value),
    "max_grad_norm": lambda value: made(max_grad_norm=value),
    "ema_decay": lambda value: made(ema_decay=value),
    "group lr": lambda value: GpuAdam([{"params": [np.ones(3)], "lr": value}]),
    "added lr": lambda value: made().add_param_group({"params": [np.ones(3)], "lr": value}),
    "edited lr": edited(lambda opt, value: opt.param_groups[0].update(lr=value)),
    "edited betas": edited(lambda opt, value: opt.param_groups[0].update(betas=(0.5, value))),
    "edited decay": edited(lambda opt, value: opt.param_groups[0].update(weight_decay=value)),
    "edited norm": edited(lambda opt, value: setattr(opt, "max_grad_norm", value)),
    "found_inf": edited(lambda opt, value: setattr(opt, "found_inf", value)),
    "handed scale": edited(lambda opt, value: setattr(opt, "grad_scale", value)),
    "grad_scale": lambda value: stepped(made(), grad_scale=value),
    "stream": lambda value: stepped(made(), stream=value),
    "scheduled lr": lambda value: stepped(made(lr=lambda t: value)),
    "scheduled beta": lambda value: stepped(made(betas=(lambda t: value, 0.9), capturable=True)),
    "init_scale": lambda value: scaler_of(init_scale=value),
    "growth_factor": lambda value: scaler_of(growth_factor=value),
    "backoff_factor": lambda value: scaler_of(backoff_factor=value),
    "growth_interval": lambda value: scaler_of(growth_interval=value),
    **{
        f"scaler {key}": scaler_loaded(key)
        for key in ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
    },
    "loaded step": loaded(lambda saved, value: saved["state"][0].update(step=value)),
    "loaded step of two": loaded(lambda saved, value: saved["state"][1].update(step=value), GpuSgd),
    "loaded skips": loaded(lambda saved, value: saved.update(steps_skipped=value)),
    "loaded lr": loaded(lambda saved, value: saved["param_groups"][0].update(lr=value)),
    "loaded betas": loaded(lambda saved, value: saved["param_groups"][0].update(betas=(value, 0.5))),
    "loaded key": loaded(lambda saved, value: saved["param_groups"][0].update(params=[0, value])),
    "constant": lambda value: schedules.constant(value)(1),
    "warm-up": lambda value: schedules.constant(0.1, warmup_steps=value)(1),
    "linear": lambda value: schedules.linear(0.1, value)(3),
    "linear end": lambda value: schedules.linear(0.1, 5, end=value)(3),
    "cosine": lambda value: schedules.cosine(value, 5)(3),
    "cosine warm-up": lambda value: schedules.cosine(0.1, 2**62, warmup_steps=value)(3),
    "inverse_sqrt": lambda value: schedules.inverse_sqrt(value)(3),
    "beta": lambda value: schedules.exponential_decay(value, 0.5)(3),
    "decay": lambda value: schedules.exponential_decay(0.5, value)(3),
    "t of a root": lambda value: schedules.inverse_sqrt(0.5)(value) if isinstance(value, int) else None,
    "t of a decay": lambda value: schedules.exponential_decay(0.5, 0.9)(value) if isinstance(value, int) else None,
    "t of a cosine": lambda value: schedules.cosine(0.5, 9)(value) if isinstance(value, int) else None,
}


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
def test_a_number_is_taken_or_refused(place: Callable[[Any], Any]) -> None:
    refusals = []
    for value in ODD:
        value = copy.copy(value)
        try:
            taken = place(value)
        except (TypeError, ValueError) as error:
            refusals.append(str(error))
            continue
        if isinstance(taken, GpuOptimizer):
            # What was taken can be saved and loaded; a step may still refuse it.
            repr(taken)
            made(type(taken)).load_state_dict(taken.state_dict()) if taken.state_dict()["state"] else None
    assert all(0 < len(refusal) < 600 for refusal in refusals), refusals


@pytest.mark.parametrize("huge", HUGE, ids=range(len(HUGE)))
def test_a_huge_integer_is_named(huge: int) -> None:
    for make, name in (
        (lambda: made(lr=huge), "lr"),
        (lambda: made(betas=(huge, 0.9)), r"betas\[0\]"),
        (lambda: made(max_grad_norm=huge), "max_grad_norm"),
        (lambda: stepped(made(), grad_scale=huge), "grad_scale"),
        (lambda: scaler_of(init_scale=huge), "scale"),
        (lambda: scaler_of(backoff_factor=huge), "backoff_factor"),
        (lambda: scaler_of(growth_interval=huge), "growth_interval"),
        (lambda: schedules.constant(0.1, warmup_steps=huge), "warmup_steps"),
        (lambda: PLACES["loaded step"](huge), "step of parameter 0"),
        (lambda: PLACES["scaler _growth_tracker"](huge), "growth_tracker"),
    ):
        if name in ("lr", "grad_scale", "scale", "max_grad_norm") and 0 < huge < 2**128:
            continue
        if name == "max_grad_norm" and 0 < huge < 2**1024:
            continue
        with pytest.raises(ValueError, match=name):
            make()


def test_the_largest_integers_of_a_loss_scaler() -> None:
    opt = made()
    scaler = LossScaler(opt, growth_interval=2**63 - 1)
    scaler.load_state_dict({**scaler.state_dict(), "_growth_tracker": 2**63 - 1})
    for _ in range(3):
        stepped(opt, grad_scale=scaler)
        scaler.load_state_dict(scaler.state_dict())
    assert scaler.state_dict()["growth_interval"] == 2**63 - 1
    assert scaler.get_scale() == 65536.0


# ---- The last step ---------------------------------------------------------------------------------------------------------------------

COUNTED: dict[str, dict[str, Any]] = {
    "on the host": {},
    "packed": {"pack": True},
    "clipped": {"max_grad_norm": 1.0},
    "skipping": {"skip_nonfinite": True, "pack": True},
    "capturable": {"capturable": True},
    "averaged": {"polyak_average": True},
    "averaged where clipped": {"ema_decay": 0.5, "max_grad_norm": 1.0},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("options", COUNTED.values(), ids=list(COUNTED))
def test_the_last_step_that_is_counted(name: str, options: dict[str, Any]) -> None:
    made_ = [dict(settings) for settings in SETTINGS[name].values()]
    opt = made(OPTIMIZERS[name], **made_[-1], **options)
    stepped(opt)
    saved = opt.state_dict()
    saved["state"][0]["step"] = MOST_STEPS - 2
    opt.load_state_dict(saved)
    for step in (MOST_STEPS - 1, MOST_STEPS):
        stepped(opt)
        again = opt.state_dict()
        assert again["state"][0]["step"] == step
        made(OPTIMIZERS[name], **made_[-1], **options).load_state_dict(again)
        pickle.loads(pickle.dumps(opt))
    before = everything(opt)
    for _ in range(3):
        with pytest.raises(ValueError, match=f"has made {MOST_STEPS} steps, the most"):
            stepped(opt)
        assert everything(opt) == before
    # The other parameter may go on.
    opt.step([None, GRADS[1]])
    assert opt.state_dict()["state"][1]["step"] == 4
    assert opt.state_dict()["state"][0]["step"] == MOST_STEPS


def test_skipped_steps_beyond_what_is_counted() -> None:
    opt = made(skip_nonfinite=True)
    stepped(opt)
    opt.load_state_dict({**opt.state_dict(), "steps_skipped": MOST_STEPS})
    opt.step([np.full(3, np.inf, np.float32), GRADS[1]])
    opt.load_state_dict(opt.state_dict())
    assert opt.state_dict()["steps_skipped"] == MOST_STEPS


def test_row_numbers_beyond_all_integers() -> None:
    p = np.ones((4, 2), np.float32)
    opt = GpuAdam([p])
    values = np.ones((1, 2), np.float32)
    for number in (np.uint64(2**64 - 1), np.uint64(2**63), np.int64(-1), np.int64(4), np.uint8(255)):
        expected = TypeError if number.dtype.kind == "u" else ValueError
        with pytest.raises(expected, match="indices of the gradient of parameter 0 of group 0"):
            opt.step([(np.array([number]), values)])
        with pytest.raises(expected, match="indices of the gradient of parameter 0 of group 0"):
            opt.step([(np.array([number, number.dtype.type(1)]), np.ones((2, 2), np.float32))])
    assert (p == 1.0).all()


@pytest.mark.parametrize("step", [Decimal("1e9999999"), Decimal("-1e9999999"), Decimal("inf"), Decimal("NaN"), 10**400])
def test_a_step_beyond_all_bounds_is_refused_before_its_digits_are_counted(step: Any) -> None:
    opt = made()
    stepped(opt)
    saved = opt.state_dict()
    saved["state"][0]["step"] = step
    with pytest.raises(ValueError, match="step of parameter 0"):
        opt.load_state_dict(saved)
