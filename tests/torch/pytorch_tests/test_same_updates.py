"""The updates are those of PyTorch's optimizers: numbers, formats, layers that are frozen for a while, and `foreach` and `fused`."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.torch.pytorch_tests.cases import DENSE, FUSED, assert_same, inputs, optimizer, original  # noqa: E402
from tests.torch.pytorch_tests.left_out import differs  # noqa: E402

pytestmark = pytest.mark.filterwarnings("error")

CLOSE = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-12},
    torch.float32: {"rtol": 1e-4, "atol": 2e-6},
}
MOMENTA_IN_FLOAT32 = {"rtol": 1e-7, "atol": 1e-8}
"""Of float64 parameters: PyTorch's NAdam has the product of the momenta in float32."""

STEPS = 7


def network(dtype: Any) -> Any:
    """Two layers, the same at each call."""
    made = torch.Generator().manual_seed(7)
    layers = torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)
    model = torch.nn.Sequential(*layers).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=made) / 2)
    return model


class Run:
    """An optimizer over a network and a 0-dimensional parameter, step by step."""

    def __init__(self, make: Any, name: str, dtype: Any, **kwargs: Any) -> None:
        self.model = network(dtype)
        self.scalar = torch.tensor(0.5, dtype=dtype, requires_grad=True)
        self.params = [*self.model.parameters(), self.scalar]
        self.opt = make(name, self.params, **kwargs)
        self.x = torch.linspace(-1, 1, 15, dtype=dtype).reshape(5, 3)

    def step(self, k: int) -> None:
        """The k-th step. Gradients are absent in one, and the last layer is frozen for two."""
        self.opt.zero_grad()
        self.model[2].requires_grad_(k not in (3, 4))
        if k != 2:
            (self.model(self.x).square().sum() * self.scalar).backward()
        self.opt.step()


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("name", DENSE)
def test_updates_and_states_are_pytorchs(name: str, dtype: Any) -> None:
    for ours, theirs in zip(inputs(name, dtype, flags=False), inputs(name, dtype, flags=False), strict=True):
        run, peer = Run(optimizer, name, dtype, **ours), Run(original, name, dtype, **theirs)
        for k in range(STEPS):
            run.step(k)
            peer.step(k)
            close = MOMENTA_IN_FLOAT32 if (name, dtype) == ("NAdam", torch.float64) else CLOSE[dtype]
            for p, q in zip(run.params, peer.params, strict=True):
                torch.testing.assert_close(p, q, **close)
                assert_states_close(run.opt.state.get(p, {}), peer.opt.state.get(q, {}), close)


def assert_states_close(state: Any, expected: Any, close: dict[str, float]) -> None:
    """A parameter's state has what PyTorch's has, of the same shapes and formats."""
    assert set(state) == set(expected) - ({"mu_product"} if differs("NAdam", "mu_product") else set())
    for key in state:
        value = expected[key]
        assert (state[key].dtype, state[key].shape) == (value.dtype, value.shape), key
        torch.testing.assert_close(state[key], value, **close)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", DENSE)
def test_foreach_and_fused_choose_nothing(name: str, dtype: Any) -> None:
    for kwargs in inputs(name, dtype, flags=False):
        if isinstance(kwargs.get("lr"), torch.Tensor):
            continue
        expected = Run(optimizer, name, dtype, **kwargs)
        flags = ["foreach", "fused"] if name in FUSED else ["foreach"]
        runs = [Run(optimizer, name, dtype, **kwargs, **{flag: True}) for flag in flags]
        for k in range(STEPS):
            for run in (expected, *runs):
                run.step(k)
        for run in runs:
            assert_same(run.params, expected.params)
            assert_same(run.opt.state_dict()["state"], expected.opt.state_dict()["state"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", DENSE)
def test_16_bit_parameters_have_float32_states(name: str, dtype: Any) -> None:
    for kwargs in inputs(name, dtype, flags=False):
        run = Run(optimizer, name, dtype, **kwargs)
        for k in range(STEPS):
            run.step(k)
        for p in run.params:
            assert p.dtype is dtype
            assert torch.isfinite(p).all()
            for key, value in run.opt.state[p].items():
                assert value is None or value.dtype is torch.float32, key


@pytest.mark.parametrize("default", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("name", DENSE)
def test_torchs_default_format_changes_nothing(name: str, default: Any) -> None:
    expected = Run(optimizer, name, torch.float64)
    run = Run(optimizer, name, torch.float64)
    for k in range(STEPS):
        expected.step(k)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        for k in range(STEPS):
            run.step(k)
    finally:
        torch.set_default_dtype(before)
    assert_same(run.params, expected.params)
    assert_same(run.opt.state_dict()["state"], expected.opt.state_dict()["state"])


@pytest.mark.parametrize("name", FUSED)
def test_fused_refuses_gradients_of_parameters_without_memory(name: str) -> None:
    with torch.device("meta"):
        model = torch.nn.Linear(3, 2)
    weight, bias = model.parameters()
    opt = optimizer(name, [weight, bias], fused=True)
    weight.grad, bias.grad = torch.empty_like(weight), torch.empty_like(bias)
    with pytest.raises(ValueError, match="parameter 0 of group 0 lives on device meta: use the CPU or CUDA"):
        opt.step()
    assert not opt.state_dict()["state"]
    for p in (weight, bias):  # what `to_empty` does where PyTorch swaps tensors rather than replace parameters
        torch.utils.swap_tensors(p, torch.nn.Parameter(torch.ones(p.shape)))
        p.grad = torch.ones_like(p)
    opt.step()
    assert all((p < 1).all() for p in (weight, bias))


@pytest.mark.parametrize("scale", [None, 4.0], ids=["no scale", "scale"])
@pytest.mark.parametrize("name", FUSED)
def test_a_scalers_found_infinity_changes_nothing(name: str, scale: float | None) -> None:
    for kwargs in inputs(name, flags=False):
        if isinstance(kwargs.get("lr"), torch.Tensor):
            continue
        params = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
        opt = optimizer(name, params, fused=True, **kwargs)
        opt.grad_scale = None if scale is None else torch.full((), scale)
        for found in (1.0, 0.0):
            for p in params:
                p.grad = torch.full_like(p, 0.5 * (scale or 1.0))
            opt.found_inf = torch.full((), found)
            opt.step()
            for p in params:
                assert torch.equal(p, torch.ones(3)) is (found == 1.0)
                steps = opt.state[p].get("step")
                assert steps is None or float(steps) == 1 - found
        del opt.grad_scale, opt.found_inf


@pytest.mark.parametrize("name", DENSE)
def test_pytorchs_grad_scaler_is_taken(name: str) -> None:
    run, twin = (Run(optimizer, name, torch.float32, **({"fused": True} if name in FUSED else {})) for _ in range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for k in range(3):
        run.opt.zero_grad()
        scaler.scale(run.model(run.x).square().sum() * run.scalar).backward()
        if k == 1:
            run.params[0].grad[0, 0] = torch.inf
        scaler.step(run.opt)
        scaler.update()
        if k != 1:
            twin.opt.zero_grad()
            (twin.model(twin.x).square().sum() * twin.scalar).backward()
            twin.opt.step()
    for p, q in zip(run.params, twin.params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    assert scaler.get_scale() == 4.0
