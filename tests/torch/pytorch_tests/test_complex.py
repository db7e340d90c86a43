"""A complex parameter is updated as the real tensor of its real and imaginary parts is."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.torch.pytorch_tests.cases import DENSE, assert_same, inputs, optimizer, original  # noqa: E402

pytestmark = pytest.mark.filterwarnings("error")


def real(tensor: Any) -> Any:
    """The real tensor over a tensor's memory."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def leaves(dtype: Any) -> list[Any]:
    """Two complex parameters and a real one, the same at each call."""
    made = torch.Generator().manual_seed(3)
    shapes_dtypes = ((4, 3), dtype), ((5,), dtype), ((2, 3), dtype.to_real())
    return [torch.randn(shape, generator=made, dtype=each).requires_grad_() for shape, each in shapes_dtypes]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", DENSE)
def test_complex_parameters_are_pairs_of_real_ones(name: str, dtype: Any) -> None:
    for kwargs in inputs(name):
        if kwargs.get("fused"):
            continue  # PyTorch's fused ones take no complex parameters
        params = leaves(dtype)
        pairs = [real(p).detach().clone().requires_grad_() for p in params]
        opt, opt_of_pairs = optimizer(name, params, **kwargs), optimizer(name, pairs, **kwargs)
        made = torch.Generator().manual_seed(4)
        for _ in range(4):
            for p, pair in zip(params, pairs, strict=True):
                p.grad = torch.randn(p.shape, generator=made, dtype=p.dtype)
                pair.grad = real(p.grad).clone()
            opt.step()
            opt_of_pairs.step()
            for p, pair in zip(params, pairs, strict=True):
                assert_same(real(p.detach()), pair.detach())
                assert_states_are_pairs(opt.state[p], opt_of_pairs.state[pair], p)


def assert_states_are_pairs(state: Any, expected: Any, p: Any) -> None:
    """What is kept of a parameter has its shape and format, and its pairs are what is kept of the pairs."""
    assert list(state) == list(expected)
    for key, value in expected.items():
        if not isinstance(value, torch.Tensor) or value.ndim == 0:
            assert_same(state[key], value)
        else:
            assert (state[key].shape, state[key].dtype) == (p.shape, p.dtype), key
            assert_same(real(state[key]), value, key)


@pytest.mark.parametrize("name", DENSE)
def test_complex_parameters_are_two_real_ones(name: str) -> None:
    for kwargs in inputs(name):
        if kwargs.get("fused"):
            continue
        z = torch.tensor([0.5 + 1.5j, -1.25 - 0.5j], requires_grad=True)
        x, y = z.real.detach().clone().requires_grad_(), z.imag.detach().clone().requires_grad_()
        opt, twin = optimizer(name, [z], **kwargs), optimizer(name, [x, y], **kwargs)
        for _ in range(4):
            opt.zero_grad()
            twin.zero_grad()
            ((z * z - (1 + 1j)).abs().square().sum()).backward()
            w = torch.complex(x, y)
            ((w * w - (1 + 1j)).abs().square().sum()).backward()
            opt.step()
            twin.step()
            assert_same(z.detach().real, x.detach())
            assert_same(z.detach().imag, y.detach())


@pytest.mark.parametrize("name", DENSE)
def test_a_state_dict_of_complex_parameters_goes_to_pytorch_and_back(name: str) -> None:
    (p, _, _), (q, _, _), (r, _, _) = leaves(torch.complex64), leaves(torch.complex64), leaves(torch.complex64)
    for each in (p, q, r):
        each.grad = torch.full_like(each, 0.5 - 0.25j)
    opt, peer, again = optimizer(name, [p]), original(name, [q]), optimizer(name, [r])
    opt.step()
    peer.load_state_dict(deepcopy(opt.state_dict()))
    again.load_state_dict(deepcopy(peer.state_dict()))
    with torch.no_grad():
        q.copy_(p)
        r.copy_(p)
    for one in (opt, peer, again):
        one.step()
    assert_same(r.detach(), p.detach())
    torch.testing.assert_close(q, p, rtol=1e-5, atol=1e-6)
