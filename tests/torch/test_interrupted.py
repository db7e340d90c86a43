"""An exception out of a signal's handler, at any line of this package's PyTorch classes: a step is whole or not done, the state too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
import gpu_adam.torch  # noqa: E402
from tests.support.fault_injection import Injected, injected  # noqa: E402
from tests.support.torch_classes import ours, parameters, same_bits, set_gradients, state_bits, train  # noqa: E402

FOLDER = str(Path(gpu_adam.torch.__file__).parent)


def interrupted(work: Callable[[], Any], line: int) -> bool:
    """Do some work, with an exception before the n-th line of these classes that is run; whether there are so many."""
    try:
        injected(work, line, folder=FOLDER)
    except Injected:
        return True
    return False


def exchange(opt: Any, params: list[Any]) -> None:
    opt.state[params[0]], opt.state[params[1]] = opt.state[params[1]], opt.state[params[0]]
    opt.state[params[0]]["step"].add_(5)


def convert(opt: Any, params: list[Any]) -> None:
    torch.nn.ParameterList(params).double()


def load(opt: Any, params: list[Any]) -> None:
    other_params = parameters(((4,), (4,)), seed=3)
    other = ours("Adam", other_params)
    train(other_params, other, range(5))
    opt.load_state_dict(other.state_dict())


def count_much(opt: Any, params: list[Any]) -> None:
    opt.state[params[0]]["step"] = torch.tensor(2.0**24)


CASES: dict[str, Callable[[Any, list[Any]], Any]] = {
    "a step": lambda opt, params: None,
    "the first step": lambda opt, params: opt.state.clear(),
    "states exchanged": exchange,
    "converted": convert,
    "loaded": load,
    "a group added": lambda opt, params: opt.add_param_group({"params": parameters(((2,),))}),
    "beyond float32's integers": count_much,
}


lines = pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.long)], ids=["some lines", "all lines"])


@lines
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0, "ema_decay": 0.5}], ids=["host", "device"])
@pytest.mark.parametrize("prepare", CASES.values(), ids=CASES)
def test_a_step_is_whole_or_not_done(
    prepare: Callable[[Any, list[Any]], Any], options: dict[str, Any], stride: int
) -> None:
    def begun() -> tuple[list[Any], Any]:
        params = parameters(((4,), (4,)))
        opt = ours("Adam", params, lr=0.1, **options)
        if prepare is not CASES["the first step"]:
            train(params, opt, range(2))
        prepare(opt, params)
        set_gradients(params, 2)
        return params, opt

    twins, twin = begun()
    before = {k: entry["step"] for k, entry in state_bits(twin).items()}
    twin.step()
    line = 0
    while True:
        line += stride
        params, opt = begun()
        if not interrupted(opt.step, line):
            break
        counts = {k: entry["step"] for k, entry in state_bits(opt).items()}
        if counts == before:
            opt.step()
        assert same_bits(params, twins), line
        assert state_bits(opt) == state_bits(twin), line
    assert line > 30
    assert same_bits(params, twins)


@lines
@pytest.mark.parametrize("stepped", [False, True])
def test_loading_is_whole_or_not_done(stepped: bool, stride: int) -> None:
    others = parameters()
    other = ours("Adam", others, lr=0.5, skip_nonfinite=True)
    train(others, other, range(5))
    others[0].grad.fill_(torch.inf)
    other.step()
    saved = other.state_dict()
    line = 0
    while True:
        line += stride
        params = parameters()
        opt = ours("Adam", params, lr=0.1)
        if stepped:
            train(params, opt, range(2))
        before = state_bits(opt)
        if not interrupted(lambda opt=opt: opt.load_state_dict(saved), line):
            break
        is_done = opt.param_groups[0]["lr"] == 0.5
        assert state_bits(opt) == (state_bits(other) if is_done else before), line
        assert opt.steps_skipped == is_done, line
    assert line > 30
