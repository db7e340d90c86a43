"""What is an array, and may be a parameter or a gradient; and what is refused by name, before anything has changed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpu_adam import GpuAdam, GpuSgd
from tests.arrays.test_dlpack import OldTensor, Tensor, Wrapped
from tests.support.reference import DTYPES, Options, Reference, assert_same_bits
from tests.support.strategies import values

f32 = np.float32
PACK = pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])


def refused_as_parameter(array: Any, error: type[Exception], message: str, **options: Any) -> None:
    with pytest.raises(error, match="parameter 'w' " + message):
        GpuSgd({"w": array}, lr=1.0, **options)
    optimizer = GpuSgd({"v": np.ones(3, f32)}, lr=1.0)
    with pytest.raises(error, match="parameter 'w' " + message):
        optimizer.add_param_group({"params": {"w": array}})
    assert len(optimizer.param_groups) == 1


def refused_as_gradient(array: Any, error: type[Exception], message: str, shape: tuple[int, ...] = (3,)) -> None:
    p = np.ones(shape, f32)
    optimizer = GpuSgd({"w": p}, lr=1.0)
    for _ in range(2):  # as the first one, and after another
        with pytest.raises(error, match="the gradient of parameter 'w' " + message):
            optimizer.step({"w": array})
        with pytest.raises(error, match="the gradient of parameter 'w' " + message):
            optimizer.grads = {"w": array}
        optimizer.step({"w": np.zeros(shape, f32)})
    assert (p == 1).all()


def taken_as_gradient(array: Any, pack: bool = False) -> None:
    p = np.full((1, 3), 5, f32)
    optimizer = GpuSgd({"w": p}, lr=1.0, pack=pack)
    for count in (1, 2):
        optimizer.step({"w": array})
        assert (optimizer.params["w"] == 5 - count).all()


# NumPy.


class Bare(np.ndarray):
    """A subclass that adds nothing."""


class Unit(np.ndarray):
    """A subclass whose numbers are of a unit, which it keeps through arithmetic."""

    def __array_finalize__(self, other: Any) -> None:
        self.unit = getattr(other, "unit", "m")


class Wrapping(np.ndarray):
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return NotImplemented


MASKED: dict[str, Callable[[], Any]] = {
    "masked": lambda: np.ma.array(np.ones((1, 3), f32), mask=[[0, 1, 0]]),
    "no element masked": lambda: np.ma.array(np.ones((1, 3), f32)),
    "hard": lambda: np.ma.array(np.ones((1, 3), f32), mask=True, hard_mask=True),
    "constant": lambda: np.ma.masked,
}
SUBCLASSES: dict[str, Callable[[Any], Any]] = {
    "bare": lambda a: a.view(Bare),
    "unit": lambda a: a.view(Unit),
    "ufuncs": lambda a: a.view(Wrapping),
    "matrix": np.asmatrix,
    "recarray": lambda a: a.view(np.recarray),
}


@PACK
@pytest.mark.parametrize("make", MASKED.values(), ids=MASKED)
def test_masked_arrays_are_refused(make: Callable[[], Any], pack: bool) -> None:
    message = r"is a numpy\.ma.*Masked\w+, whose mask a step cannot heed: use an array without a mask"
    refused_as_parameter(make(), TypeError, message, pack=pack)
    refused_as_gradient(make(), TypeError, message, shape=(1, 3))


@pytest.mark.parametrize("format", DTYPES)
def test_masked_arrays_of_any_format_are_refused(format: str) -> None:
    refused_as_parameter(np.ma.array(np.ones(3, DTYPES[format]), mask=[1, 0, 0]), TypeError, "is a numpy.ma")


def test_masked_rows_are_refused() -> None:
    p = np.ones((4, 2), f32)
    optimizer = GpuSgd({"w": p}, lr=1.0)
    rows, numbers = np.array([0, 2]), np.ones((2, 2), f32)
    with pytest.raises(TypeError, match=r"the values of the gradient of parameter 'w' is a numpy\.ma"):
        optimizer.step([(rows, np.ma.array(numbers, mask=[[1, 0], [0, 0]]))])
    with pytest.raises(TypeError, match=r"the rows of the gradient of parameter 'w' are a numpy\.ma"):
        optimizer.step([(np.ma.array(rows, mask=[1, 0]), numbers)])
    assert (p == 1).all()


@PACK
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of np.matrix
@pytest.mark.parametrize("make", SUBCLASSES.values(), ids=SUBCLASSES)
def test_subclasses_of_ndarray_are_no_parameters(make: Callable[[Any], Any], pack: bool) -> None:
    memory = np.ones((1, 3), f32)
    refused_as_parameter(make(memory), TypeError, r"is a .*, a subclass of numpy\.ndarray .*numpy\.asarray", pack=pack)
    # What the message says to do.
    GpuSgd([np.asarray(make(memory))], lr=1.0).step([memory.copy()])
    assert (memory == 0).all()


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("name", SUBCLASSES)
def test_subclasses_are_gradients_where_their_elements_are_all_there_is(name: str) -> None:
    gradient = SUBCLASSES[name](np.ones((1, 3), f32))
    if name in ("unit", "ufuncs"):
        refused_as_gradient(gradient, TypeError, r"is a tests\.arrays\.test_array_kinds\.\w+, a subclass", shape=(1, 3))
    else:
        taken_as_gradient(gradient)


@PACK
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memory_maps(mode: Any, pack: bool, tmp_path: Path) -> None:
    file = tmp_path / "weights"
    np.full(3, 5, f32).tofile(file)
    mapped = np.memmap(file, f32, mode)
    optimizer = GpuSgd({"g": np.full(3, 9, f32)}, lr=1.0)
    optimizer.step([mapped])
    assert (optimizer.params["g"] == 4).all()
    if mode == "r":
        refused_as_parameter(mapped, ValueError, "is read-only", pack=pack)
        return
    optimizer = GpuSgd({"w": mapped}, lr=1.0, pack=pack)
    optimizer.step([np.ones(3, f32)])
    assert (optimizer.params["w"] == 4).all()
    if not pack:
        mapped.flush()
        assert (np.fromfile(file, f32) == (4 if mode == "r+" else 5)).all()


@pytest.mark.parametrize(
    ("array", "spelled"),
    [
        (np.ones(3, [("a", f32)]), r"\[\('a', '<f4'\)\]"),
        (np.ones(3, "f4,f4"), r"\[\('f0', '<f4'\), \('f1', '<f4'\)\]"),
        (np.array([1.0, None, 2.0]), "object"),
        (np.array(["a", "b", "c"]), "str32"),
        (np.ones(3, "M8[s]"), r"datetime64\[s\]"),
        (np.ones(3, ">f4"), "float32 in the other byte order"),
        (np.ones(3, ">f8"), "float64 in the other byte order"),
        (np.ones(3, np.int64), "int64"),
        (np.ones(3, np.complex64), "complex64"),
        (np.ones(3, ml_dtypes.float8_e4m3fn), "float8_e4m3fn"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_dtypes_are_refused_in_a_whole_sentence(array: Any, spelled: str) -> None:
    message = f"has dtype {spelled}, which is not supported: use one of float64, float32, float16, bfloat16"
    refused_as_parameter(array, TypeError, message)
    refused_as_gradient(array, TypeError, message)


# Numbers, and arrays without dimensions.


@PACK
@pytest.mark.parametrize("format", DTYPES)
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 100.0}, {"capturable": True}], ids=str)
def test_numpys_numbers_are_gradients_of_arrays_without_dimensions(
    format: str, options: dict[str, Any], pack: bool
) -> None:
    w = np.array(3.0, DTYPES[format])
    reference = Reference(w)
    optimizer = GpuAdam({"w": w, "v": np.ones(2, f32)}, pack=pack, **options)
    w = optimizer.params["w"]
    for _ in range(4):
        gradient = w - DTYPES[format].type(1)
        assert isinstance(gradient, np.generic)
        optimizer.step({"w": gradient, "v": np.ones(2, f32)})
        reference.step(np.asarray(gradient), Options())
        assert_same_bits(w, reference.p)


def test_numbers_and_arrays_take_turns() -> None:
    w = np.array(9.0, f32)
    optimizer = GpuSgd([w], lr=1.0)
    for gradient in (f32(1), np.array(1, f32), np.float64(1), None, np.float16(1), np.array(1.0), f32(1)):
        optimizer.step([gradient])
    assert w == 3


@pytest.mark.parametrize(
    "number", [f32(1), np.float64(1), ml_dtypes.bfloat16(1), np.int64(1), np.bool_(True)], ids=repr
)
def test_a_number_is_no_parameter(number: Any) -> None:
    refused_as_parameter(number, TypeError, r"is a \w+\.\w+: use a NumPy array, which can change")


def test_a_number_of_another_shape_or_dtype_is_no_gradient_and_none_is_bound() -> None:
    refused_as_gradient(f32(1), (ValueError, TypeError), r"(has shape \(\): must be \(3,\)|is a number, which never)")  # type: ignore[arg-type]
    w = np.array(1.0, f32)
    optimizer = GpuSgd({"w": w}, lr=1.0)
    for bad in (np.int32(1), np.bool_(True), np.complex64(1)):
        with pytest.raises(TypeError, match="the gradient of parameter 'w' has dtype"):
            optimizer.step([bad])
    with pytest.raises(TypeError, match=r"the gradient of parameter 'w' is a builtins\.float"):
        optimizer.step([1.0])
    with pytest.raises(
        TypeError, match="the gradient of parameter 'w' is a number, which never changes: bind an array"
    ):
        optimizer.grads = [f32(1)]
    assert w == 1


# Libraries that never change an array.


def _of(module: str, base: type, name: str = "ArrayImpl") -> type:
    return type(name, (base,), {"__module__": module, "__doc__": "A look-alike."})


@pytest.mark.parametrize("base", [Tensor, OldTensor])
@pytest.mark.parametrize("module", ["jax", "jaxlib._jax", "jaxlib.xla_extension", "tensorflow.python.framework.ops"])
def test_arrays_of_immutable_libraries_are_gradients_only(module: str, base: type) -> None:
    memory = np.ones((1, 3), f32)
    array = _of(module, base)(memory)
    refused_as_parameter(array, TypeError, rf"is a {module}.ArrayImpl, which is immutable")
    refused_as_parameter(array, TypeError, "is a .*, which is immutable", pack=True)
    taken_as_gradient(array)
    assert (memory == 1).all()


def test_an_immutable_array_on_a_gpu_is_known_too() -> None:
    class Array:
        __jax_array__ = None
        __cuda_array_interface__ = {"shape": (3,), "typestr": "<f4", "data": (4096, False), "version": 3}  # noqa: RUF012

    refused_as_parameter(Array(), TypeError, "is a .*Array, which is immutable")


def test_a_subclass_of_an_immutable_array_is_one() -> None:
    derived = type("Mine", (_of("jaxlib._jax", Tensor),), {"__module__": "mine"})
    refused_as_parameter(derived(np.ones(3, f32)), TypeError, "is a mine.Mine, which is immutable")


# Torch.

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


def test_foreign_arrays_that_speak_the_new_dlpack_are_parameters() -> None:
    memory = np.ones(3, f32)
    GpuSgd([Tensor(memory)], lr=1.0).step([Wrapped(torch.ones(3))])
    assert (memory == 0).all()


def test_a_foreign_array_that_is_no_longer_what_it_was_is_refused() -> None:
    array = Tensor(np.ones(6, f32))
    optimizer = GpuSgd({"w": array}, lr=1.0)
    optimizer.step([np.ones(6, f32)])
    home = array.array
    for change, message in (
        (home[:3], r"was float32 \(6,\) on cpu and is now float32 \(3,\)"),
        (home.view(np.float64), r"is now float64 \(3,\)"),
        (home.reshape(2, 3), r"is now float32 \(2, 3\)"),
    ):
        array.array = change
        with pytest.raises(ValueError, match="parameter 'w' .*" + message):
            optimizer.step([np.ones(6, f32)])
    array.array, array.about["read_only"] = home, True
    with pytest.raises(ValueError, match="parameter 'w' is read-only"):
        optimizer.step([np.ones(6, f32)])
    assert (home == 0).all()


def test_values_of_many_kinds_reach_the_host_whole() -> None:
    from gpu_adam.arrays import to_host

    with pytest.raises(TypeError, match=r"is a numpy\.ma"):
        to_host(np.ma.array([1.0, 2.0], mask=[1, 0]))
    for format in DTYPES:
        source = values(DTYPES[format], 8, 1)
        assert_same_bits(to_host(Tensor(source)), source)


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
