"""What is read of many arrays at once: it tells every array from every other one, library by library, and no two that are alike apart."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_adam.arrays import Library, Lifetime, guards, structs
from gpu_adam.arrays.libraries import CUPY, FOREIGN, NUMBA, NUMPY, TORCH

SHAPES = ((2, 3), (3, 2), (6,), (1, 6), (6, 1), (2, 3, 1), (), (0, 3), (1,))
DTYPES = ("float32", "float16", "float64", "int32")


class NumbaArray:
    """What Numba's device arrays are: plain attributes, over a pointer that somebody owns."""

    def __init__(self, array: np.ndarray) -> None:
        self.shape, self.strides, self.dtype = array.shape, array.strides, array.dtype
        self.gpu_data = SimpleNamespace(device_pointer=array.ctypes.data, memory=array)


class OldNumbaArray(NumbaArray):
    """The same with an older binding, whose pointers are no numbers."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array)
        self.gpu_data.device_pointer = object()
        self.__cuda_array_interface__ = {"data": (array.ctypes.data, False)}


def of_cupy(array: np.ndarray) -> Any:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    memory = cupy.cuda.UnownedMemory(array.ctypes.data or 64, max(array.nbytes, 1), array, device_id=0)
    return cupy.ndarray(
        array.shape, array.dtype, cupy.cuda.MemoryPointer(memory, 0), strides=array.strides if array.size else None
    )


def of_torch(array: np.ndarray) -> Any:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return torch.from_numpy(array)


MAKERS: dict[str, tuple[Library, Callable[[np.ndarray], Any]]] = {
    "numpy": (NUMPY, lambda array: array),
    "torch": (TORCH, of_torch),
    "cupy": (CUPY, of_cupy),
    "numba": (NUMBA, NumbaArray),
    "numba of old": (NUMBA, OldNumbaArray),
}
LIBRARY = pytest.mark.parametrize("name", MAKERS)


@LIBRARY
def test_arrays_that_differ_in_anything_but_the_address_are_told_apart(reading: None, name: str) -> None:
    library, make = MAKERS[name]
    kinds: list[np.ndarray] = [np.zeros(shape, dtype) for shape in SHAPES for dtype in DTYPES]
    kinds += [np.zeros((3, 2), "float32").T, np.zeros((4, 3), "float32")[::2]]
    arrays = [make(array) for array in kinds]
    for k, (first, kind) in enumerate(zip(arrays, kinds, strict=True)):
        look = library.seen([first], Lifetime.GIVEN)
        assert look is not None
        assert look.addresses.tolist() == [library.traits_of(first)[1]]  # type: ignore[index]
        for other, kind_of_other in zip(arrays[k:], kinds[k:], strict=True):
            alike = (kind.dtype, kind.shape, kind.strides) == (
                kind_of_other.dtype,
                kind_of_other.shape,
                kind_of_other.strides,
            )
            found = look.look([other])
            assert (found is not None) == alike, (kind, kind_of_other)
            assert (library.traits_of(other)[0] == library.traits_of(first)[0]) == alike  # type: ignore[index]


@LIBRARY
def test_new_arrays_of_the_same_kind_tell_their_addresses(reading: None, name: str) -> None:
    library, make = MAKERS[name]
    sets = [[make(np.ones((2, 3), "float32")) for _ in range(5)] for _ in range(3)]
    look = library.seen(sets[0], Lifetime.GIVEN)
    assert look is not None
    before = look.addresses
    assert look.look(sets[0]) is before
    for arrays in (sets[1], sets[2], [*sets[0][:2], *sets[1][2:]], sets[0]):
        found = look.look(arrays)
        assert found is not None
        assert found.tolist() == [library.traits_of(array)[1] for array in arrays]  # type: ignore[index]
    mixed = [*sets[0][:4], make(np.ones((2, 4), "float32"))]
    assert look.look(mixed) is None
    assert look.look(sets[0]) is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of setting a shape
@LIBRARY
def test_arrays_that_are_held_are_the_same_until_something_changes(reading: None, name: str) -> None:
    library, make = MAKERS[name]
    arrays = [make(np.ones((2, 3), "float32")) for _ in range(5)]
    look = library.seen(arrays, Lifetime.HELD)
    assert look is not None
    for _ in range(2):
        assert look.look(arrays) is look.addresses
    if name == "torch":
        arrays[3].resize_(3, 2)
    elif name.startswith("numba"):
        arrays[3].gpu_data = SimpleNamespace(device_pointer=64)
    else:
        arrays[3].shape = (3, 2)
    assert look.look(arrays) is None


def test_nothing_is_known_of_other_libraries() -> None:
    assert FOREIGN.seen([object()], Lifetime.HELD) is None
    assert FOREIGN.traits_of(object()) is None
    # Nor of an array that cannot be read.
    assert CUPY.seen([object()], Lifetime.GIVEN) is None
    assert CUPY.traits_of(object()) is None


def test_empty_lists_and_arrays_without_dimensions(reading: None) -> None:
    for arrays in ([], [np.ones(())], [np.ones(()), np.ones((0, 3)), np.ones((1,) * 20)]):
        for lifetime in Lifetime:
            look = NUMPY.seen(arrays, lifetime)
            assert look is not None
            assert look.look(arrays) is look.addresses


@pytest.mark.parametrize("wrong", [(1, 0, 2, 3, 4, 5), (0, 5, 2, 3, 4, 1), (0, 1, 3, 2, 4, 5), (0, 1, 2, 3, 0, 5)])
def test_structures_that_lie_otherwise_are_not_trusted(wrong: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    check = structs.trusted.__wrapped__
    assert check()
    monkeypatch.setattr(structs, "_HEAD", structs._HEAD[list(wrong)])
    assert not check()


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [("sys", "byteorder", "big"), ("sys", "maxsize", (1 << 31) - 1), ("structs", "_FIRST", 1 << 10)],
)
def test_other_machines_are_not_trusted(where: str, name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr({"sys": sys, "structs": structs}[where], name, value)
    assert not structs.trusted.__wrapped__()


def test_the_owner_of_a_view() -> None:
    owner = np.ones(6)
    for view in (owner, owner[1:], owner[1:][::2], owner.reshape(2, 3).T):
        assert structs.owner_of(view) is owner
    assert structs.owner_of(np.frombuffer(bytearray(8))) is None


@pytest.mark.parametrize("default", ["float16", "bfloat16", "float64"])
def test_a_guard_is_trusted_whatever_torchs_default_dtype_is(default: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, default))
    try:
        assert guards.trusted.__wrapped__()
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("answer", [True, False, None])
def test_a_guard_of_torch_that_tells_nothing_apart_is_not_trusted(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    assert guards.trusted.__wrapped__()

    def guard(tensors: Any) -> Any:
        if answer is None:
            raise TypeError("another version")
        return lambda *others: answer

    monkeypatch.setattr(guards, "_guard", guard)
    assert not guards.trusted.__wrapped__()
    monkeypatch.setattr(guards, "trusted", lambda: False)
    assert guards.guard([]) is None


def test_a_guard_holds_no_reference() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.ones(3)
    before = sys.getrefcount(tensor)
    look = TORCH.seen([tensor], Lifetime.GIVEN)
    assert sys.getrefcount(tensor) == before
    assert weakref.getweakrefcount(tensor) == 0
    assert look is not None


def test_a_mode_of_torch_may_make_a_guard_say_no_and_never_yes() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensors, others = [torch.ones(2, 3) for _ in range(3)], [torch.ones(3, 2) for _ in range(3)]
    look = TORCH.seen(tensors, Lifetime.GIVEN)
    assert look is not None
    for mode in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu"), torch.enable_grad()):
        with mode:
            assert look.look(others) is None
            again = TORCH.seen(tensors, Lifetime.GIVEN)
            assert again is not None
            assert again.look(tensors) is again.addresses
            assert again.look(others) is None
    assert look.look(tensors) is look.addresses
