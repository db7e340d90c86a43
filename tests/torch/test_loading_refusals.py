"""A state dict that does not fit is refused, and everything is then as it was."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.support.torch_classes import same_bits, snapshot, state_bits, train, trained  # noqa: E402


def without(*path: Any) -> Callable[[Any], Any]:
    def spoil(saved: Any) -> None:
        for key in path[:-1]:
            saved = saved[key]
        del saved[path[-1]]

    return spoil


def having(*path: Any) -> Callable[[Any], Any]:
    def spoil(saved: Any) -> None:
        for key in path[:-2]:
            saved = saved[key]
        saved[path[-2]] = path[-1]

    return spoil


BAD: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "no groups": (without("param_groups"), TypeError, "must be a dict with 'state' and 'param_groups'"),
    "groups are none": (having("param_groups", None), TypeError, "'param_groups' of the state dict is a NoneType"),
    "a group is none": (having("param_groups", 0, None), TypeError, "group 0 of the state dict is a NoneType"),
    "state is none": (having("state", None), TypeError, "'state' of the state dict is a NoneType"),
    "no params": (without("param_groups", 0, "params"), ValueError, "group 0 of the state dict has no list"),
    "more groups": (lambda saved: saved["param_groups"].append({"params": []}), ValueError, "different number of parameter groups: 2"),
    "more params": (having("param_groups", 0, "params", [0, 1, 2]), ValueError, "group 0 has 3 parameters and not 2"),
    "another kind": (without("param_groups", 0, "betas"), ValueError, r"lacks \['betas'\]: it is that of another kind"),
    "bad lr": (having("param_groups", 0, "lr", -1.0), ValueError, "lr=-1.0 of group 0 of the state dict"),
    "bad flag": (having("param_groups", 0, "amsgrad", 2), TypeError, "amsgrad=2"),
    "no step": (without("state", 1, "step"), ValueError, r"parameter 1 lacks \['step'\]"),
    "no moment": (without("state", 1, "exp_avg"), ValueError, r"parameter 1 lacks \['exp_avg'\]"),
    "bad step": (having("state", 1, "step", -1), ValueError, "step of parameter 1 is -1"),
    "shape": (having("state", 1, "exp_avg", torch.zeros(2, 3)), ValueError, r"exp_avg of parameter 1 has shape \(2, 3\)"),
    "dtype": (having("state", 1, "exp_avg", torch.zeros(5, dtype=torch.int8)), ValueError, "parameter 1 has dtype torch.int8"),
    "entry": (having("state", 1, 3), TypeError, "state of parameter 1 is an int"),
    "skipped": (having("steps_skipped", -3), ValueError, "skipped steps is -3"),
}  # fmt: skip


@pytest.mark.parametrize("stepped", [True, False])
@pytest.mark.parametrize(("spoil", "error", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit_leaves_everything_as_it_was(
    spoil: Callable[[Any], Any], error: type[Exception], message: str, stepped: bool
) -> None:
    saved = deepcopy(trained(steps=5)[1].state_dict())
    spoil(saved)
    params, opt = trained(steps=3 if stepped else 0)
    twins, twin = trained(steps=3 if stepped else 0)
    before, groups = snapshot(opt.state_dict()), [group.copy() for group in opt.param_groups]
    with pytest.raises(error, match=message):
        opt.load_state_dict(saved)
    assert snapshot(opt.state_dict()) == before
    assert opt.param_groups == groups
    train(params, opt, range(3, 5))
    train(twins, twin, range(3, 5))
    assert same_bits(params, twins)
    assert state_bits(opt) == state_bits(twin)


def test_what_is_no_state_dict() -> None:
    opt = trained()[1]
    for given in (None, 3, [], {"state": {}}):
        with pytest.raises(TypeError, match="must be a dict with 'state' and 'param_groups'"):
            opt.load_state_dict(given)
