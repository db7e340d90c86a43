"""What is an array, and may be a parameter or a gradient; and what is refused by name, before anything has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpu_adam import GpuAdam, GpuSgd
from tests.arrays.kinds import PACK, f32, refused_as_gradient, refused_as_parameter, taken_as_gradient
from tests.support.dlpack_exporters import OldTensor, Tensor, Wrapped
from tests.support.reference import DTYPES, Options, Reference, assert_same_bits
from tests.support.strategies import values

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
    with pytest.raises(TypeError, match=r"the indices of the gradient of parameter 'w' are a numpy\.ma"):
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


# Foreign arrays.


def test_foreign_arrays_that_speak_the_new_dlpack_are_parameters() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
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
