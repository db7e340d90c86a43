"""Whose an array is, and what each library answers: the same questions for all, on host memory where no GPU is needed."""

from __future__ import annotations

import re
import subprocess
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpu_adam import GpuAdam
from gpu_adam.arrays import Library, assign, library_of, probe, snapshot, to_host
from gpu_adam.arrays.libraries import CUPY, FOREIGN, LIBRARIES, NUMBA, NUMPY, TORCH
from gpu_adam.arrays.library import row_numbers
from gpu_adam.device import Device
from gpu_adam.dtypes import BFLOAT16, FLOAT32, FORMATS, Format

CPU = Device("cpu")


class Interface:
    """An object with the GPUs' protocol."""

    __cuda_array_interface__ = {"shape": (2,), "typestr": "<f4", "data": (4096, False), "version": 3}  # noqa: RUF012
    dtype = np.dtype("float32")
    device = SimpleNamespace(id=0)


def of_module(module: str) -> Any:
    return type("Array", (Interface,), {"__module__": module})()


class Exported:
    """An array of which DLPack is all that is known."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


@pytest.mark.parametrize(
    ("array", "library"),
    [
        (np.ones(2), NUMPY),
        (np.float32(1), NUMPY),
        (np.ma.masked_array([1.0]), NUMPY),
        (of_module("cupy"), CUPY),
        (of_module("cupy._core.core"), CUPY),
        (of_module("numba.cuda.cudadrv.devicearray"), NUMBA),
        (of_module("numba_cuda.numba.cuda"), NUMBA),
        (of_module("cupyx"), FOREIGN),
        (of_module("mine"), FOREIGN),
        (Exported(np.ones(2)), FOREIGN),
        (Interface, FOREIGN),
        (None, FOREIGN),
        ([1.0], FOREIGN),
        ("torch", FOREIGN),
    ],
)
def test_whose_an_array_is(array: Any, library: Library) -> None:
    assert library_of(array) is library
    if library is not NUMPY and hasattr(array, "__cuda_array_interface__") and not isinstance(array, type):
        assert probe(array).library is library


@pytest.mark.parametrize("module", ["cupy.cuda.stream", "numba.cuda", "mine"])
def test_what_is_no_array_of_any_library(module: str) -> None:
    with pytest.raises(TypeError, match=rf"^is a {re.escape(module)}\.Stream: use a NumPy, CuPy or Numba device array"):
        probe(type("Stream", (), {"__module__": module})())


def test_a_tensor_is_torchs_whatever_its_class() -> None:
    torch = pytest.importorskip("torch")
    for tensor in (torch.ones(2), torch.nn.Parameter(torch.ones(2)), torch.ones(2, dtype=torch.int64)):
        assert library_of(tensor) is TORCH


def test_libraries_are_told_by_their_names() -> None:
    assert [library.name for library in (*LIBRARIES, FOREIGN)] == ["numpy", "torch", "cupy", "numba", "foreign"]
    assert repr(probe(np.ones(2, np.float32))).startswith("ArrayRef(library='numpy', device=Device(kind='cpu'")


def test_nothing_is_imported_to_ask_whose_an_array_is() -> None:
    code = (
        "import sys, numpy as np; from gpu_adam.arrays import library_of, probe, to_host;"
        "found = [library_of(x).name for x in (np.ones(2), object(), 1.0, None)];"
        "assert found == ['numpy', 'foreign', 'foreign', 'foreign'], found;"
        "to_host(np.ones(2)); probe(np.ones(2)); assert not {'torch', 'cupy', 'numba.cuda'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(params=[NUMPY, TORCH, FOREIGN], ids=lambda library: library.name)
def library(request: pytest.FixtureRequest) -> Library:
    if request.param is TORCH:
        pytest.importorskip("torch")
    return request.param


def viewed(library: Library, memory: np.ndarray, format: Format) -> Any:
    strides = tuple(stride // format.itemsize for stride in memory.strides)
    return library.view(CPU, memory.ctypes.data, format, memory.shape, strides, memory)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_views_share_memory_and_copies_do_not(library: Library, format: Format) -> None:
    memory = np.arange(6).astype(format.dtype).reshape(3, 2).T
    view = viewed(library, memory, format)
    ref = probe(view)
    assert (ref.address, ref.format, ref.shape, ref.strides) == (memory.ctypes.data, format, (2, 3), (1, 2))
    copy = library.copy(view)
    assert probe(copy).strides == (1, 2)
    library.zero(view)
    assert not memory.any()
    assert to_host(copy).tolist() == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_elements_are_assigned_and_put_back(library: Library, format: Format) -> None:
    memory = np.full((2, 3), 7.0).astype(format.dtype)
    array = Exported(memory) if library is FOREIGN else viewed(library, memory, format)
    if library is FOREIGN and format is BFLOAT16:
        pytest.skip("NumPy exports no bfloat16")
    ref = probe(array)
    assert ref.library is library
    before = snapshot(ref)
    assign(ref, viewed(library, np.full((2, 3), 1 / 3, np.float32), FLOAT32))
    assert (memory == np.float32(1 / 3).astype(format.dtype)).all()
    assign(ref, before)
    assert (memory == 7.0).all()


@pytest.mark.parametrize("module", [NUMPY, TORCH, FOREIGN], ids=lambda library: library.name)
def test_equal_rows_stay_in_their_order(module: Library) -> None:
    rows: Any = np.array([3, 1, 3, 0, 1, 3], np.int32)
    if module is TORCH:
        rows = pytest.importorskip("torch").from_numpy(rows)
    for indices in (rows, rows[None]):
        ranked, order = module.ranked(indices, (4,), (1,), CPU)
        assert (ranked.dtype, ranked.tolist(), order.tolist()) == (np.int64, [0, 1, 1, 3, 3, 3], [3, 1, 4, 0, 2, 5])


@pytest.mark.parametrize("module", [NUMPY, TORCH, FOREIGN], ids=lambda library: library.name)
def test_rows_of_several_dimensions_are_numbered_as_they_lie(module: Library) -> None:
    """Also beyond int32; an index that a dimension does not have makes no other row's number."""
    indices: Any = np.array([[1, 0, 1, 1, 0, 2], [3, 0, -1, 0, 9, 0]], np.int32)
    if module is TORCH:
        indices = pytest.importorskip("torch").from_numpy(indices)
    ranked, order = module.ranked(indices, (2, 9), (1, 1 << 31), CPU)
    assert ranked.tolist() == [-1, -1, -1, 0, 1, (3 << 31) + 1]
    assert order.tolist() == [2, 4, 5, 1, 3, 0]
    # On a GPU by the library's own operators, which `ranked` sorts then.
    if module is TORCH:
        assert row_numbers(indices.long(), (2, 9), (1, 1 << 31)).tolist() == [(3 << 31) + 1, 0, -1, 1, -1, -1]
        assert row_numbers(indices.long()[:0], (), ()).tolist() == [0] * 6
    ranked, order = module.ranked(indices[:0], (), (), CPU)
    assert (ranked.tolist(), order.tolist()) == ([0] * 6, list(range(6)))


def test_numbas_words_of_bfloat16_are_read_as_such() -> None:
    words = np.array([1.5, -2.0], ml_dtypes.bfloat16).view(np.int16)
    array: Any = SimpleNamespace(copy_to_host=lambda: words)
    assert NUMBA.read(array).tolist() == FOREIGN.read(array).tolist() == [1.5, -2.0]


def test_only_torch_knows_of_gradients_and_versions() -> None:
    array = np.ones(2, np.float32)
    for library in (NUMPY, CUPY, NUMBA, FOREIGN):
        assert (library.holds_gradients, library.tells_writes) == (False, False)
        assert not library.counts_versions(array)
        assert not library.autograd_knows(array)
        assert library.scalar(3, "float32") == 3
        assert library.moved(array, 5) == 5
    torch = pytest.importorskip("torch")
    assert TORCH.holds_gradients
    tensor, parameter = torch.ones(2), torch.nn.Parameter(torch.ones(2), requires_grad=False)
    assert (TORCH.autograd_knows(tensor), TORCH.autograd_knows(parameter)) == (False, True)
    assert TORCH.counts_versions(tensor)
    with torch.inference_mode():
        scalar = TORCH.scalar(3, "float32")
        assert not TORCH.counts_versions(torch.ones(2))
    assert (scalar.dtype, scalar.item(), scalar.is_inference()) == (torch.float32, 3.0, False)
    assert TORCH.moved(parameter, tensor) is parameter
    assert parameter.data_ptr() == tensor.data_ptr()


class Comparing(type):
    """A class of classes that compare, and so have no hash."""

    def __eq__(cls, other: object) -> bool:
        return cls is other

    __hash__ = None  # type: ignore[assignment]


class OfComparing(Exported, metaclass=Comparing):
    pass


def test_a_class_without_a_hash_is_of_no_library() -> None:
    assert library_of(OfComparing(np.ones(3))) is FOREIGN
    p = np.ones(3)
    GpuAdam([p], lr=0.1).step([OfComparing(np.ones(3))])
    np.testing.assert_allclose(p, 0.9)


def test_a_proxy_of_an_array_is_refused() -> None:
    array = np.ones(3)
    with pytest.raises(TypeError, match=r"use numpy\.asarray\(x\), which shares its memory"):
        GpuAdam([weakref.proxy(array)])
