"""Programs on arrays of any library and on any engine that leave the same bits: what the tests of `GpuAdam` on a GPU share."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from gpu_adam.arrays import dlpack
from gpu_adam.engines import engine_named
from tests.support.reference import DTYPES, assert_same_bits
from tests.support.strategies import values

Array = np.ndarray[Any, Any]

# ---- Libraries: a stretch of memory with given numbers in it, and arrays that lie there somehow --------------------------------------


@dataclass(frozen=True)
class Layout:
    """How an array lies in its memory; strides and offset in elements."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def extent(self) -> int:
        """Elements that the memory must have, some of them behind the array, which must stay as they are."""
        return self.offset + 7 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))


def dense(*shape: int, offset: int = 0) -> Layout:
    strides = tuple(int(np.prod(shape[d + 1 :], dtype=int)) for d in range(len(shape)))
    return Layout(shape, strides, offset)


def transposed(rows: int, columns: int, offset: int = 0) -> Layout:
    return Layout((rows, columns), (1, rows), offset)


class Numpy:
    name = "numpy"
    formats = tuple(DTYPES)
    packs = True

    def require(self) -> None:
        """Skip where the library is not there."""

    def memory(self, numbers: Array) -> Any:
        return numbers.copy()

    def view(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> Any:
        strides = tuple(stride * dtype.itemsize for stride in layout.strides)
        return np.lib.stride_tricks.as_strided(memory[layout.offset :], layout.shape, strides)


class Torch:
    formats = tuple(DTYPES)
    packs = True

    def __init__(self, device: str) -> None:
        self.name = f"torch {device}"
        self.device = device

    def require(self) -> None:
        torch = pytest.importorskip("torch", reason="torch is not installed")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            pytest.skip("this torch cannot use the GPU")

    def memory(self, numbers: Array) -> Any:
        import torch

        words = torch.from_numpy(numbers.view(f"i{numbers.dtype.itemsize}").copy())
        return words.view(getattr(torch, numbers.dtype.name)).to(self.device)

    def view(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> Any:
        return memory.as_strided(layout.shape, layout.strides, layout.offset)


class Cupy:
    name = "cupy"
    formats = tuple(DTYPES)
    packs = True

    def require(self) -> None:
        pytest.importorskip("cupy", reason="CuPy is not installed")

    def memory(self, numbers: Array) -> Any:
        import cupy

        return cupy.asarray(numbers.view(f"u{numbers.dtype.itemsize}")).view(numbers.dtype)

    def view(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> Any:
        from cupy.lib.stride_tricks import as_strided

        return as_strided(
            memory[layout.offset :], layout.shape, tuple(stride * dtype.itemsize for stride in layout.strides)
        )


class Numba:
    name = "numba"
    formats = tuple(name for name in DTYPES if name != "bfloat16")  # which Numba's arrays do not know
    packs = True

    def require(self) -> None:
        pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

    def memory(self, numbers: Array) -> Any:
        from numba import cuda

        return cuda.to_device(numbers)

    def view(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> Any:
        from numba import cuda

        return cuda.as_cuda_array(Interface(memory, dtype, layout), sync=False)


class Foreign:
    """Arrays that are known by a protocol only, in memory that a library lends."""

    packs = False

    def __init__(self, wrapper: type, lender: Any) -> None:
        self.name = wrapper.__name__
        self.wrapper = wrapper
        self.lender = lender
        # In __cuda_array_interface__ nothing stands for bfloat16.
        self.formats = tuple(DTYPES) if wrapper is Capsule else tuple(name for name in DTYPES if name != "bfloat16")

    def require(self) -> None:
        self.lender.require()

    def memory(self, numbers: Array) -> Any:
        # As words, of which the lender need know nothing.
        return self.lender.memory(numbers.view(f"u{numbers.dtype.itemsize}"))

    def view(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> Any:
        return self.wrapper(memory, dtype, layout)


class Interface:
    """An array with `__cuda_array_interface__` and nothing else."""

    def __init__(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> None:
        self._memory = memory
        self.__cuda_array_interface__ = {
            "shape": layout.shape,
            "strides": tuple(stride * dtype.itemsize for stride in layout.strides),
            "typestr": dtype.str,
            "data": (address_of(memory) + layout.offset * dtype.itemsize, False),
            "version": 3,
        }


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_CODES = {"float64": 2, "float32": 2, "float16": 2, "bfloat16": 4}


class Capsule:
    """An array with DLPack and nothing else."""

    def __init__(self, memory: Any, dtype: np.dtype[Any], layout: Layout) -> None:
        ndim = len(layout.shape)
        self._memory = memory
        self._device = (1 if isinstance(memory, np.ndarray) else 2, 0)
        self._shape, self._strides = (ctypes.c_int64 * ndim)(*layout.shape), (ctypes.c_int64 * ndim)(*layout.strides)
        code, bits, offset = _CODES[dtype.name], 8 * dtype.itemsize, layout.offset * dtype.itemsize
        tensor = dlpack._Tensor(
            address_of(memory), *self._device, ndim, code, bits, 1, self._shape, self._strides, offset
        )
        self._exported = dlpack._Versioned(1, 0, None, None, 0, tensor)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, *, stream: Any = None, max_version: tuple[int, int] | None = None) -> Any:
        return _new_capsule(ctypes.addressof(self._exported), b"dltensor_versioned", None)


def address_of(array: Any) -> int:
    if isinstance(array, np.ndarray):
        return int(array.__array_interface__["data"][0])
    if hasattr(array, "data_ptr"):
        return int(array.data_ptr())
    return int(array.__cuda_array_interface__["data"][0])


def host(array: Any, dtype: np.dtype[Any] | None = None) -> Array:
    """A copy as a NumPy array, made by the array's own library; where that knows only words, of this dtype."""
    if isinstance(array, np.ndarray):
        out = array.copy()
    elif hasattr(array, "copy_to_host"):
        out = array.copy_to_host()
    elif hasattr(array, "detach"):
        words = getattr(sys.modules["torch"], f"int{8 * array.element_size()}")
        name = str(array.dtype).removeprefix("torch.")
        out = array.detach().cpu().view(words).numpy().copy().view(DTYPES[name])
    else:
        out = array.view(f"u{array.dtype.itemsize}").get().view(array.dtype)
    return out if dtype is None else out.view(dtype)


@dataclass(frozen=True)
class Case:
    library: Any
    engine: str

    def __str__(self) -> str:
        return f"{self.library.name}-{self.engine}".replace(" ", "-")

    @property
    def param(self) -> Any:
        return pytest.param(self, id=str(self), marks=[pytest.mark.gpu] if self.engine != "cpu" else [])

    def require(self) -> None:
        """Skip where what is needed is not installed. What is installed and does not work is a failure."""
        self.library.require()
        if self.engine != "cpu":
            lender = Cupy() if self.engine == "cupy" else Numba()
            lender.require()
        engine_named(self.engine)

    def array(self, numbers: Array, layout: Layout) -> Any:
        return self.library.view(self.library.memory(numbers), numbers.dtype, layout)


ENGINES = ("cupy", "numba")
LENDERS = {"cupy": Cupy(), "numba": Numba()}
HOST = Case(Numpy(), "cpu")
ON_CPU = [HOST, Case(Torch("cpu"), "cpu"), Case(Foreign(Capsule, Numpy()), "cpu")]
ON_GPU = [
    *(Case(library, engine) for library in (Cupy(), Torch("cuda"), Numba()) for engine in ENGINES),
    *(Case(Foreign(wrapper, LENDERS[engine]), engine) for wrapper in (Interface, Capsule) for engine in ENGINES),
]
CASES = [*ON_CPU, *ON_GPU]
STREAMED = [case for case in ON_GPU if case.library.name in ("cupy", "torch cuda")]


def required(request: pytest.FixtureRequest) -> Case:
    request.param.require()
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[case.param for case in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    return required(request)


@pytest.fixture(params=[case.param for case in CASES if case.library.packs])
def packing_case(request: pytest.FixtureRequest) -> Case:
    return required(request)


@pytest.fixture(params=[case.param for case in STREAMED])
def streamed_case(request: pytest.FixtureRequest) -> Case:
    return required(request)


@pytest.fixture(params=[case.param for case in CASES if case.library.name.startswith("torch")])
def torch_case(request: pytest.FixtureRequest) -> Case:
    return required(request)


def write(to: Any, numbers: Any) -> None:
    """Copy an array into another of the same library."""
    if hasattr(to, "copy_to_device"):
        to.copy_to_device(numbers)
    elif hasattr(to, "copy_"):
        to.detach().copy_(numbers)
    else:
        words = f"u{to.dtype.itemsize}"
        to.view(words)[...] = numbers.view(words)


def duplicate(array: Any) -> Any:
    if hasattr(array, "clone"):
        return array.detach().clone()
    return array.view(f"u{array.dtype.itemsize}").copy(order="K").view(array.dtype)


# ---- Gradients in other places -------------------------------------------------------------------------------------------------------


# ---- Programs: the same numbers on any library ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """A parameter and its gradients."""

    param: str
    at: Layout
    grad: str = ""
    """The gradient's format; by default the parameter's."""
    grad_at: Layout | None = None
    group: int = 0
    without: tuple[int, ...] = ()
    """The steps in which the gradient is None."""

    def gradient(self, case: Case, step: int, seed: int) -> Any:
        if step in self.without:
            return None
        layout = self.grad_at or self.at
        return case.array(values(DTYPES[self.grad or self.param], layout.extent, 1000 * (step + 1) + seed), layout)


GROUPS: tuple[dict[str, Any], ...] = (
    {"lr": 0.01, "weight_decay": 0.1},
    {"lr": 0.5, "betas": (0.5, 0.75), "eps": 1e-3, "maximize": True},
)


class Training:
    """An optimizer over some tensors, whose numbers are a function of their place in the list and of the step alone."""

    def __init__(
        self, case: Case, tensors: Sequence[Tensor], memories: Sequence[Array] | None = None, **options: Any
    ) -> None:
        self.case, self.tensors, self.options = case, tensors, options
        if memories is None:
            memories = [values(DTYPES[one.param], one.at.extent, k) for k, one in enumerate(tensors)]
        self.memories = [case.library.memory(numbers) for numbers in memories]
        pairs = zip(self.memories, tensors, strict=True)
        self.params = [case.library.view(memory, DTYPES[one.param], one.at) for memory, one in pairs]
        groups = [{"params": own, **hyper} for own, hyper in zip(self.grouped(self.params), GROUPS, strict=False)]
        self.optimizer = GpuAdam(groups, engine=case.engine, **options)

    def grouped(self, leaves: Sequence[Any]) -> list[list[Any]]:
        count = 1 + max(one.group for one in self.tensors)
        pairs = list(zip(leaves, self.tensors, strict=True))
        return [[leaf for leaf, one in pairs if one.group == group] for group in range(count)]

    def gradients(self, step: int) -> list[list[Any]]:
        return self.grouped([one.gradient(self.case, step, k) for k, one in enumerate(self.tensors)])

    def step(self, *steps: int) -> Training:
        for step in steps:
            self.optimizer.step(self.gradients(step))
        return self

    def numbers(self) -> list[Array]:
        """The memory of each parameter, what lies around it included."""
        pairs = zip(self.memories, self.tensors, strict=True)
        return [host(memory, DTYPES[one.param]) for memory, one in pairs]

    def left(self) -> dict[str, Array]:
        """Everything that the program has left behind, by name."""
        if self.options.get("pack"):
            leaves = [leaf for group in self.optimizer.params for leaf in group]
            out = {f"parameter {k}": host(leaf) for k, leaf in enumerate(leaves)}
        else:
            out = {f"memory {k}": numbers for k, numbers in enumerate(self.numbers())}
        for k, entry in self.optimizer.state_dict()["state"].items():
            out[f"step {k}"] = np.array(float(entry["step"]))
            out.update({f"{name} {k}": host(array) for name, array in entry.items() if name != "step"})
        return out

    def handed_over(self, case: Case) -> Training:
        """The same training, taken up elsewhere by way of the state dict."""
        saved = self.optimizer.state_dict()
        entries = {k: dict(entry) for k, entry in saved["state"].items()}
        other = Training(case, self.tensors, self.numbers(), **self.options)
        other.optimizer.load_state_dict(saved)
        assert all(saved["state"][k][name] is array for k, entry in entries.items() for name, array in entry.items())
        agree(other.left(), self.left())
        return other


def agree(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert_same_bits(found[name], array, name)


def compare(case: Case, tensors: Sequence[Tensor], steps: int = 4, **options: Any) -> Training:
    """Run the same program here and on the host."""
    training = Training(case, tensors, **options).step(*range(steps))
    agree(training.left(), Training(HOST, tensors, **options).step(*range(steps)).left())
    return training


def of_every_format(case: Case, *layouts: Layout, **about: Any) -> list[Tensor]:
    return [Tensor(name, layout, **about) for name in case.library.formats for layout in layouts]


# ---- Streams ------------------------------------------------------------------------------------------------------------------------

SPIN = 'extern "C" __global__ void spin(long long n) { long long s = clock64(); while (clock64() - s < n) {} }'


class Stream:
    """A stream of CuPy or torch that does not wait for the default one."""

    def __init__(self, case: Case) -> None:
        self.torch = case.library.name.startswith("torch")
        if self.torch:
            import torch

            self.own = torch.cuda.Stream()
            self.current = lambda: torch.cuda.stream(self.own)
        else:
            import cupy

            self.own = cupy.cuda.Stream(non_blocking=True)
            self.current = lambda: self.own
            self.spin = cupy.RawKernel(SPIN, "spin")

    def keep_busy(self, cycles: int = 500_000_000) -> None:
        """Queue a kernel that does nothing for some tenths of a second."""
        if self.torch:
            import torch

            torch.cuda._sleep(cycles)
        else:
            self.spin((1,), (1,), (np.int64(cycles),))

    def done(self) -> bool:
        return bool(self.own.query() if self.torch else self.own.done)

    def wait(self) -> None:
        self.own.synchronize()


def settle(case: Case) -> None:
    """Wait for everything that is queued on the device."""
    if case.library.name == "torch cuda":
        import torch

        torch.cuda.synchronize()
    elif case.engine == "cupy":
        import cupy

        cupy.cuda.Device().synchronize()
    elif case.engine == "numba":
        from numba import cuda

        cuda.synchronize()


# ---- Neither waiting nor allocating --------------------------------------------------------------------------------------------------


FORBIDDEN = {
    "engine": ("allocate", "upload", "download", "load"),
    "binding": ("allocate", "exchange", "pinned", "event"),
    # Not the waiting for an event: staging memory asks each step for that of 32 steps before.
    "cupy": ("malloc", "mallocAsync", "hostAlloc", "memcpy", "deviceSynchronize", "streamSynchronize"),
    "driver": (
        *("cuMemAlloc", "cuMemAllocAsync", "cuMemAllocHost", "cuMemHostAlloc"),
        *("cuMemcpyHtoD", "cuMemcpyDtoH", "cuCtxSynchronize", "cuStreamSynchronize"),
    ),
}


@contextmanager
def neither_waiting_nor_allocating(case: Case) -> Iterator[None]:
    """Make every call that waits for a device or allocates its memory an error, and look at the pools."""
    engine = engine_named(case.engine)
    places: dict[str, Any] = {"engine": engine}
    if case.engine != "cpu":
        places["binding"] = engine._cuda  # type: ignore[attr-defined]
        places["driver"] = pytest.importorskip("cuda.bindings.driver")
        if "cupy" in sys.modules:
            places["cupy"] = sys.modules["cupy"].cuda.runtime
    torch = sys.modules["torch"] if case.library.name == "torch cuda" else None
    gc.collect()
    before = pools(case)
    with pytest.MonkeyPatch.context() as patch:
        for place, of in places.items():
            for name in FORBIDDEN[place]:
                if hasattr(of, name):
                    patch.setattr(of, name, refusal(f"{place}.{name}"))
        if torch is not None:
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            if torch is not None:
                torch.cuda.set_sync_debug_mode("default")
    assert pools(case) == before


def refusal(name: str) -> Any:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError(f"a step called {name}")

    return refuse


def pools(case: Case) -> list[int]:
    out = []
    if "cupy" in sys.modules and case.engine != "cpu":
        pool = sys.modules["cupy"].get_default_memory_pool()
        out += [pool.used_bytes(), pool.total_bytes()]
    if case.library.name == "torch cuda":
        out.append(sys.modules["torch"].cuda.memory_stats()["allocation.all.allocated"])
    return out


@contextmanager
def capturing(case: Case) -> Iterator[None]:
    if case.library.name == "cupy":
        import cupy

        with cupy.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            try:
                yield
            finally:
                stream.end_capture()
    else:
        import torch

        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            yield
