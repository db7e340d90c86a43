"""What the Numba kernels ask of a machine, in plain Python, and the numba engine above it.

Every access is checked against the memory that there is. The target's fma is the C library's, so the bits are those of a GPU.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import inspect
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numba.cuda
import numpy as np
from numpy.typing import NDArray

from gpu_adam.dtypes import FLOAT64, Format, format_named
from gpu_adam.engines.cuda.numba import NumbaEngine
from gpu_adam.kernels.abi import ROLES
from gpu_adam.kernels.numba_cuda.families import make_kernel
from gpu_adam.kernels.numba_cuda.prologue import make_prologue
from gpu_adam.kernels.numba_cuda.sparse import make_coalesce
from gpu_adam.kernels.numba_cuda.target import Target
from gpu_adam.kernels.specialization import CoalesceKernel, Hint, Kernel, PrologueKernel, UpdateKernel
from gpu_adam.kernels.streams import Stream
from tests.support.cuda_cpp.host_gpu import HostBinding


def _exact_fma() -> dict[str, Any]:
    library = ctypes.CDLL(ctypes.util.find_library("m") or None)
    functions = {"float32": (library.fmaf, ctypes.c_float), "float64": (library.fma, ctypes.c_double)}
    for function, number in functions.values():
        function.restype, function.argtypes = number, [number] * 3
    return {name: function for name, (function, _) in functions.items()}


_FMA = _exact_fma()


def fma(a: Any, b: Any, c: Any) -> Any:
    assert type(a) is type(b) is type(c), "formats are never mixed"
    return type(a)(_FMA[a.dtype.name](a, b, c))


def mul(a: Any, b: Any) -> Any:
    return a * b if type(a) is type(b) is np.float32 else np.float64(a) * np.float64(b)


class Bounds:
    """The stretches of memory that a kernel may touch; anything else is what a GPU would call an illegal address, or a race."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        self._owners: list[Any] = []

    def add(self, begin: int, end: int, owner: Any) -> None:
        # Memory that was given back would come again as another array.
        self._owners.append(owner)
        k = bisect_right(self._begins, begin)
        self._begins.insert(k, begin)
        self._ends.insert(k, end)

    def add_array(self, array: NDArray[Any]) -> int:
        """Allow a whole array; its address."""
        self.add(array.ctypes.data, array.ctypes.data + array.nbytes, array)
        return array.ctypes.data

    def check(self, address: int, nbytes: int) -> None:
        k = bisect_right(self._begins, address) - 1
        inside = k >= 0 and address + nbytes <= self._ends[k]
        assert inside, f"address {address:#x} is out of bounds"
        assert address % nbytes == 0, f"address {address:#x} is no multiple of {nbytes}"


class Machine:
    """Memory by address."""

    def __init__(self) -> None:
        self.bounds = Bounds()
        self.target = Target(
            fma=fma,
            sqrt=np.sqrt,
            mul=mul,
            load_word=lambda address: int(self._at(address, np.int64)[0]),
            store_word=self._store_word,
            load_fresh=lambda address: self._at(address, np.float64)[0],
            count_in=self._count_in,
            load=self.load,
            store=self.store,
            load_streams=self._load_streams,
            store_streams=self._store_streams,
            shift_streams=_shift_streams,
            load_pointers=lambda address, step: tuple(
                self.target.load_word(address + row * step) for row in range(len(ROLES))
            ),
            load_packed=self._load_packed,
            element=_element,
        )

    def _at(self, address: int, dtype: Any) -> Any:
        dtype = np.dtype(dtype)
        self.bounds.check(address, dtype.itemsize)
        return np.frombuffer((ctypes.c_char * dtype.itemsize).from_address(int(address)), dtype)

    def _store_word(self, address: int, word: int) -> None:
        self._at(address, np.int64)[0] = word

    def _count_in(self, address: int) -> int:
        before = self.target.load_word(address)
        self._store_word(address, before + 1)
        return int(before)

    def load(self, format: Format, working: Format, streamed: bool = False) -> Callable[[int], Any]:
        return lambda address: working.dtype.type(self._at(address, format.dtype)[0])

    def store(self, format: Format, working: Format, streamed: bool = False) -> Callable[[int, Any], None]:
        def store(address: int, value: Any) -> None:
            # What is computed in float64 may be a Python literal.
            assert working is FLOAT64 or value.dtype == working.dtype
            self._at(address, format.dtype)[0] = format.dtype.type(value)

        return store

    def _load_streams(self, streams: Sequence[Stream], working: Format, lanes: int, hint: Hint) -> Callable[..., None]:
        def load(pointers: Any, places: Any, values: Any, first: int) -> None:
            for stream, lane in product(streams, range(lanes)):
                if stream.read:
                    number = self.load(_format_of(stream), working)(_address(pointers, places, stream, lane))
                    values[stream.value][first + lane] = number

        return load

    def _store_streams(self, streams: Sequence[Stream], working: Format, lanes: int, hint: Hint) -> Callable[..., None]:
        def store(pointers: Any, places: Any, values: Any, first: int) -> None:
            for stream, lane in product(streams, range(lanes)):
                if stream.written:
                    number = values[stream.value][first + lane]
                    self.store(_format_of(stream), working)(_address(pointers, places, stream, lane), number)

        return store

    def _load_packed(self, address: int, words: Any, first: int) -> None:
        self.bounds.check(address, 16)
        words[first : first + 4] = np.frombuffer((ctypes.c_char * 16).from_address(int(address)), np.int32)


def _format_of(stream: Stream) -> Format:
    return format_named(stream.storage.name)


def _address(pointers: Any, places: Any, stream: Stream, lane: int = 0) -> int:
    return int(pointers[stream.row] + (places[stream.place] + lane) * stream.storage.itemsize)


def _shift_streams(streams: Sequence[Stream]) -> Callable[..., Any]:
    def shift(pointers: Any, places: Any) -> Any:
        moved = {stream.row: _address(pointers, places, stream) for stream in streams}
        return tuple(moved.get(row, pointer) for row, pointer in enumerate(pointers))

    return shift


def _element(format: Format, working: Format) -> Callable[[Any, int, int], Any]:
    return lambda words, first, k: working.dtype.type(words[first : first + 4].view(format.dtype)[k])


class Simulator:
    """The engine's kernels, run by Numba's simulator; see `cuda_cpp.host_gpu.Kernels`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._kernels: dict[str, Any] = {}

    def add(self, kernel: Kernel, symbol: str) -> str:
        """Make a kernel that goes by this symbol."""
        target = self._machine.target
        match kernel:
            case UpdateKernel(specialization, _, vectors, hint, persistent):
                function = make_kernel(specialization, vectors, hint, persistent, target)
            case PrologueKernel(rule):
                function = make_prologue(rule, target)
            case CoalesceKernel(values, working):
                function = make_coalesce(values, working, target)
        self._kernels[symbol] = numba.cuda.jit(function)
        return symbol

    def kernel(self, symbol: str) -> Callable[[int, int, int], None]:
        function = self._kernels[symbol]
        count = len(inspect.signature(function.fn).parameters)

        def run(grid: int, block: int, parameters: int) -> None:
            addresses = (ctypes.c_void_p * count).from_address(parameters)
            function[grid, block](*(ctypes.c_int64.from_address(address).value for address in addresses))

        return run


class SimulatedBinding(HostBinding):
    """A GPU made of host memory, all of whose memory kernels may touch, and no other but what a test allows."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.simulator = Simulator(machine)
        super().__init__(self.simulator)

    def allocate(self, nbytes: int) -> tuple[int, Any]:
        address, owner = super().allocate(nbytes)
        self.machine.bounds.add(address, address + nbytes, owner)
        return address, owner


class SimulatedEngine(NumbaEngine):
    """The numba engine as it is shipped, all but its compiler."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.binding = SimulatedBinding(self.machine)
        super().__init__(self.binding)  # type: ignore[arg-type]

    def compiled(self, kernel: Kernel, capability: int) -> tuple[str, bytes]:
        return self.binding.simulator.add(kernel, str(kernel)), b""
