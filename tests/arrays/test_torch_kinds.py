"""Which of torch's tensors may be parameters or gradients; and which are refused by name, before anything has changed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuSgd
from tests.arrays.kinds import PACK, f32, refused_as_parameter

torch = pytest.importorskip("torch", reason="torch is not installed")


def _dtensor() -> Any:
    import torch.distributed as dist
    from torch.distributed.tensor import Replicate, distribute_tensor, init_device_mesh

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return distribute_tensor(torch.ones(3), init_device_mesh("cpu", (1,)), [Replicate()])


def _fake() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode().from_tensor(torch.ones(3))


def _nested(layout: Any) -> Any:
    return torch.nested.nested_tensor([torch.ones(3), torch.ones(2)], layout=layout)


TENSORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "DTensor": (_dtensor, TypeError, r"is a torch\.distributed\.tensor\.DTensor, .*: use its to_local\(\)"),
    "fake": (_fake, TypeError, "is a torch.*FakeTensor, whose elements do not lie in memory of its own"),
    "strided nested": (lambda: _nested(torch.strided), ValueError, "is a nested tensor, whose parts differ in shape"),
    "jagged nested": (lambda: _nested(torch.jagged), ValueError, "is a nested tensor, whose parts differ in shape"),
    "meta": (lambda: torch.ones(3, device="meta"), ValueError, "lives on device meta"),
    "functional": (lambda: torch._to_functional_tensor(torch.ones(3)), ValueError, "has no memory"),
    "zeros": (lambda: torch._efficientzerotensor(3), ValueError, "has no memory"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        TypeError,
        "has dtype qint8, which is not supported",
    ),
    "sparse CSR": (
        lambda: torch.eye(3).to_sparse_csr(),
        ValueError,
        r"has layout torch\.sparse_csr: use a dense tensor",
    ),
    "mkldnn": (lambda: torch.ones(3).to_mkldnn(), ValueError, r"has layout torch\._mkldnn"),
    "conjugate": (lambda: torch.ones(3, dtype=torch.cfloat).conj(), TypeError, "has dtype complex64, which"),
    "negation": (lambda: torch._neg_view(torch.ones(3)), ValueError, "is a lazy negation"),
    "lazy": (lambda: torch.nn.LazyLinear(3).weight, ValueError, "has no shape yet: run its lazy module once"),
    "freed": (lambda: _resized(torch.ones(3), 0), ValueError, "has no memory"),
    "cut": (lambda: _resized(torch.ones(3), 8), ValueError, "has no memory for all of its elements"),
    "cut view": (lambda: _resized(torch.ones(9)[4:7], 20), ValueError, "has no memory for all of its elements"),
    "freed view": (lambda: _resized(torch.ones(9)[4:7], 0), ValueError, "has no memory"),
}


def _resized(tensor: Any, nbytes: int) -> Any:
    tensor.untyped_storage().resize_(nbytes)
    return tensor


@PACK
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_no_dense_memory_are_refused(name: str, pack: bool) -> None:
    make, error, message = TENSORS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prototypes, and what is deprecated
        refused_as_parameter(make(), error, message, pack=pack)
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = GpuSgd({"w": p}, lr=1.0, pack=pack)
        for _ in range(2):
            with pytest.raises(error, match="the gradient of parameter 'w' " + message):
                optimizer.step([make()])
            optimizer.step([torch.zeros(3)])
        assert (p == 1).all()


@pytest.mark.parametrize("transform", ["vmap", "grad"])
def test_tensors_inside_of_a_transform_are_refused(transform: str) -> None:
    message = r"parameter 'w' cannot be looked at \(.*\): use a tensor outside of torch\.func"

    def as_parameter(x: Any) -> Any:
        GpuSgd({"w": x}, lr=1.0)
        return x.sum()

    def as_gradient(x: Any) -> Any:
        GpuSgd({"w": np.ones(3, f32)}, lr=1.0).step([x])
        return x.sum()

    transforms = {"vmap": (torch.vmap, torch.ones(2, 3)), "grad": (torch.func.grad, torch.ones(3))}
    for function in (as_parameter, as_gradient):
        wrap, argument = transforms[transform]
        with pytest.raises(ValueError, match=message):
            wrap(function)(argument)


def test_a_step_inside_of_vmap_that_does_not_touch_its_tensors_goes_through() -> None:
    p = torch.ones(3)

    def function(x: Any) -> Any:
        GpuSgd([p], lr=1.0).step([np.ones(3, f32)])
        return x

    torch.vmap(function)(torch.ones(2, 3))
    assert (p == 0).all()


def test_plain_subclasses_of_tensors_are_tensors() -> None:
    class Mine(torch.Tensor):
        pass

    for make in (torch.nn.Parameter, torch.nn.Buffer, lambda t: t.as_subclass(Mine)):
        p = make(torch.ones(3))
        GpuSgd([p], lr=1.0).step([torch.ones(3).as_subclass(Mine)])
        assert (p == 0).all()


@PACK
@pytest.mark.parametrize("wanted", [torch.bfloat16, torch.float64, torch.float32, None])
@pytest.mark.parametrize("own", [torch.float32, torch.float16])
def test_a_grad_dtype_of_its_own(own: Any, wanted: Any, pack: bool) -> None:
    p = torch.nn.Parameter(torch.full((3,), 5.0, dtype=own))
    if not hasattr(p, "grad_dtype"):
        pytest.skip("this PyTorch has no grad_dtype")
    p.grad_dtype = wanted
    p.grad = torch.ones(3, dtype=wanted or torch.float64)
    if pack and wanted not in (None, own):
        with pytest.raises(
            ValueError, match=rf"parameter 'w' has grad_dtype {wanted}, and pack=True keeps gradients in"
        ):
            GpuSgd({"w": p}, lr=1.0, pack=True)
        assert p.grad.dtype == wanted
        return
    optimizer = GpuSgd({"w": p}, lr=1.0, pack=pack)
    optimizer.step()
    assert (p == 4).all()
    optimizer.zero_grad()
    if not pack:
        assert p.grad is None
        return
    assert p.grad is optimizer.grads["w"]


def test_a_sparse_gradient_that_waits_is_not_lost_in_a_bucket() -> None:
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"parameter 'w' has a sparse \.grad, and pack=True keeps dense ones"):
        GpuSgd({"w": embedding.weight}, lr=1.0, pack=True)


def test_a_packed_gradient_that_its_tensor_no_longer_takes() -> None:
    p, q = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimizer = GpuSgd({"p": p, "q": q}, lr=1.0, pack=True)
    q.data = q.data.half()
    q.grad = None
    optimizer.grads["p"].fill_(3.0)
    with pytest.raises(ValueError, match="parameter 'q' does not take its bucket's gradient any more"):
        optimizer.zero_grad()
    assert (p.grad == 3).all()


@PACK
@pytest.mark.parametrize("what", ["parameter", "gradient"])
@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_that_is_swapped_for_one_without_dense_memory(name: str, what: str, pack: bool) -> None:
    make, error, message = TENSORS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p, gradient = torch.nn.Parameter(torch.ones(3), requires_grad=False), torch.zeros(3)
        optimizer = GpuSgd({"w": p}, lr=1.0, pack=pack)
        optimizer.step([gradient])
        try:
            torch.utils.swap_tensors(p if what == "parameter" else gradient, make())
        except (RuntimeError, TypeError, AttributeError, ValueError):
            pytest.skip("torch does not swap these")
        with pytest.raises(error, match="parameter 'w' " + message):
            optimizer.step([gradient])
