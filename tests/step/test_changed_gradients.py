"""Gradients that change in place, or are given anew in any format and order at any address, are read as what they are now."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed")
from gpu_adam import GpuSgd  # noqa: E402
from tests.step.watched_memory import (  # noqa: E402
    DEPRECATED,
    FORMATS,
    OTHER,
    PACK,
    READING,
    SHAPE,
    Watched,
    dtype_of,
    sgd,
    step,
)
from tests.support.torch_tensors import as_torch  # noqa: E402

pytestmark = DEPRECATED


GRADIENTS: dict[str, Callable[[Any], None]] = {
    "nothing": lambda g: None,
    "another shape": lambda g: setattr(g, "shape", (3, 2)),
    "one dimension": lambda g: setattr(g, "shape", (6,)),
    "another order": lambda g: setattr(g, "strides", (g.itemsize, 2 * g.itemsize)),
    "one row": lambda g: setattr(g, "strides", (0, g.itemsize)),
    "another format": lambda g: setattr(g, "dtype", np.float16 if g.itemsize == 2 else f"f{g.itemsize}"),
    "integers": lambda g: setattr(g, "dtype", f"i{g.itemsize}"),
    "bytes swapped": lambda g: setattr(g, "dtype", g.dtype.newbyteorder() if g.itemsize > 2 else ">f2"),
    "read-only": lambda g: g.setflags(write=False),
    "resized": lambda g: g.resize(2, refcheck=False),
    "resized and back": lambda g: (g.resize(50, refcheck=False), g.resize((2, 3), refcheck=False)),
    "other numbers": lambda g: g.__setitem__(..., 7),
}
TORCH_GRADIENTS: dict[str, Callable[[Any], None]] = {
    "nothing": lambda g: None,
    "t_": lambda g: g.t_(),
    "another order": lambda g: g.as_strided_((2, 3), (1, 2)),
    "one row": lambda g: g.as_strided_((2, 3), (0, 1)),
    "data elsewhere": lambda g: setattr(g, "data", torch.full((2, 3), 4.0, dtype=g.dtype)),
    "data transposed": lambda g: setattr(g, "data", torch.arange(6.0).to(g.dtype).reshape(3, 2).t()),
    "data of another shape": lambda g: setattr(g, "data", g.data.reshape(3, 2)),
    "data of another format": lambda g: setattr(g, "data", g.data.to(getattr(torch, OTHER[str(g.dtype)[6:]]))),
    "another format at the same address": lambda g: setattr(
        g, "data", g.data.view(torch.bfloat16 if g.dtype == torch.float16 else torch.float16)[..., :3]
    ),
    "shorter": lambda g: setattr(g, "data", g.data[:1]),
    "empty": lambda g: setattr(g, "data", g.data[:0]),
    "negated lazily": lambda g: setattr(g, "data", torch._neg_view(g.data)),
    "freed": lambda g: g.untyped_storage().resize_(0),
    "cut": lambda g: g.untyped_storage().resize_(3),
    "other numbers": lambda g: g.fill_(7),
}


def _careful(change: Callable[[Any], None], gradient: Any) -> None:
    with suppress(RuntimeError, ValueError, AttributeError, TypeError):
        change(gradient)


@PACK
@READING
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("first", GRADIENTS)
def test_a_bound_numpy_gradient_that_changes_in_place(reading: None, first: str, format: str, pack: bool) -> None:
    for second in ("nothing", "another order", "other numbers", first):
        watched = Watched("numpy", format)
        optimizer = sgd([watched.array(8), watched.array(14)], pack=pack)
        params = list(optimizer.params.values())
        if not pack:
            # Some own their memory, which alone can be resized.
            optimizer.grads = [np.arange(6, dtype=dtype_of(format)).reshape(2, 3), watched.array(1)]
        gradients = list(optimizer.grads.values())
        for k, gradient in enumerate(gradients):
            gradient[...] = np.arange(6).reshape(2, 3) + k
        assert not step(optimizer, watched, params, gradients, optimizer.step)
        for name in (first, second):
            for gradient in gradients:
                _careful(GRADIENTS[name], gradient)
                step(optimizer, watched, params, gradients, optimizer.step)


@PACK
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("first", TORCH_GRADIENTS)
@READING
def test_a_torch_gradient_that_changes_in_place(reading: None, first: str, format: str, pack: bool) -> None:
    for second in ("nothing", "t_", "data elsewhere", first):
        watched = Watched("torch", format)
        params = [torch.nn.Parameter(watched.array(8 + k)) for k in range(2)]
        optimizer = sgd(params, pack=pack)
        for k, p in enumerate(params):
            if not pack:
                p.grad = torch.zeros_like(p)
            p.grad.copy_(torch.arange(6.0).reshape(2, 3) + k)
        assert not step(optimizer, watched, params, [p.grad for p in params], optimizer.step)
        for name in (first, second):
            for p in params:
                _careful(TORCH_GRADIENTS[name], p.grad)
                if p.grad.untyped_storage().nbytes() in (0, 3):  # nobody may ask what it means
                    with pytest.raises(ValueError, match=r"the gradient of parameter .* has no memory"):
                        optimizer.step()
                    return
                step(optimizer, watched, params, [q.grad for q in params], optimizer.step)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@READING
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_gradients_given_anew_in_any_format_and_order_at_any_address(
    reading: None, library: str, data: st.DataObject
) -> None:
    """They come and go, at addresses that others have left, in other formats, orders and libraries."""
    watched = Watched(library, "float64")
    params = [watched.array(1000 * (1 + k)) for k in range(3)]
    optimizer = sgd(params)
    places = [np.zeros(8 * 8 * 4) for _ in range(2)]
    for _ in range(data.draw(st.integers(1, 6))):
        gradients: list[Any] = []
        for k in range(3):
            kind = data.draw(st.sampled_from(["same", "none", "torch", "numpy", "fortran", "scalar", "row"]))
            format = data.draw(st.sampled_from(FORMATS))
            place = data.draw(st.sampled_from(places))[8 * k : 8 * k + 8].view(dtype_of(format))
            offset = data.draw(st.integers(0, 2))
            place[offset : offset + 6] = np.arange(6) + k
            array: Any = place[offset : offset + 6].reshape(2, 3)
            if kind == "fortran":
                array = place[offset : offset + 6].reshape(3, 2).T
            elif kind == "row":
                array = np.broadcast_to(place[offset : offset + 3], (2, 3))
            elif kind == "torch":
                array = as_torch(array)
            elif kind == "none":
                array = None
            elif kind == "same" and k and gradients[0] is not None:
                array = gradients[0]
            gradients.append(array)
        zeros = np.zeros((2, 3))
        meant = [zeros if g is None else g for g in gradients]
        assert not step(optimizer, watched, params, meant, lambda given=gradients: optimizer.step(given))


def test_a_gradient_that_fits_no_longer_is_told_among_a_thousand() -> None:
    params = [np.ones(3, np.float32) for _ in range(1000)]
    optimizer = GpuSgd({f"p{k}": p for k, p in enumerate(params)}, lr=1.0)
    for _ in range(2):
        optimizer.step([np.ones(3, np.float32) for _ in range(1000)])
    for bad, message in (
        (np.ones(4, np.float32), r"the gradient of parameter 'p700' has shape \(4,\)"),
        (np.ones(3, np.int32), "the gradient of parameter 'p700' has dtype int32"),
        (params[3], "the gradient of parameter 'p700' overlaps the memory of parameter 'p3'"),
        (1.0, "the gradient of parameter 'p700' is a builtins.float"),
    ):
        gradients: list[Any] = [np.ones(3, np.float32) for _ in range(1000)]
        gradients[700] = bad
        with pytest.raises((ValueError, TypeError), match=message):
            optimizer.step(gradients)
    assert all((p == -1).all() for p in params)


@PACK
@pytest.mark.parametrize("format", FORMATS)
def test_a_default_device_and_other_modes_are_not_heard(format: str, pack: bool) -> None:
    from torch.overrides import TorchFunctionMode

    heard = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            heard.append(function)
            return function(*args, **(kwargs or {}))

    watched = Watched("torch", format)
    params = [torch.nn.Parameter(watched.array(8 + k)) for k in range(20)]
    optimizer = sgd(params, pack=pack)
    for p in params:
        p.grad = torch.ones_like(p)
    torch.set_default_device("meta")
    try:
        for _ in range(2):
            assert not step(optimizer, watched, params, [np.ones(SHAPE)] * 20, optimizer.step)
        with Mode():
            optimizer.step()
    finally:
        torch.set_default_device(None)
    assert len(heard) < 10, heard
