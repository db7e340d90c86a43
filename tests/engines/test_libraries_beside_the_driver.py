"""The array libraries beside the engines' driver: they are left out of it, give back what they keep, and work where their arrays are."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_adam.arrays import ArrayRef, assign, cuda_interface, probe, snapshot
from gpu_adam.arrays.libraries import CUPY
from gpu_adam.arrays.libraries.foreign import FOREIGN
from gpu_adam.cuda import contexts
from gpu_adam.cuda.calls import CudaDriver, DriverError
from gpu_adam.device import Device
from gpu_adam.dtypes import FLOAT32
from gpu_adam.engines.cuda import caches, driver_binding
from gpu_adam.engines.cuda.cupy import CupyBinding
from gpu_adam.engines.cuda.driver_binding import DriverBinding
from gpu_adam.engines.cuda.numba import NumbaBinding


class Library:
    """A library that keeps memory for later."""

    def __init__(self, stub: Any, kept: int) -> None:
        self.stub, self.kept, self.asked = stub, kept, 0

    def give_back(self, *_: Any) -> None:
        self.asked += 1
        self.stub.stub_room(ctypes.c_longlong(self.kept))
        raise RuntimeError("one that fails stands in nobody's way")


def pretend(monkeypatch: pytest.MonkeyPatch, library: Library, name: str) -> None:
    pool = SimpleNamespace(free_all_blocks=library.give_back)
    queue = SimpleNamespace(clear=library.give_back)
    context = SimpleNamespace(memory_manager=SimpleNamespace(deallocations=queue))
    modules = {
        "torch": SimpleNamespace(cuda=SimpleNamespace(empty_cache=library.give_back)),
        "cupy": SimpleNamespace(
            get_default_memory_pool=lambda: pool,
            get_default_pinned_memory_pool=lambda: SimpleNamespace(free_all_blocks=None),
        ),
        "numba.cuda": SimpleNamespace(current_context=lambda: context),
    }
    monkeypatch.setattr(caches, "sys", SimpleNamespace(modules={name: modules[name]}))


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("name", ["torch", "cupy", "numba.cuda"])
def test_what_the_libraries_keep_is_used_before_memory_runs_out(
    stub: Any, binding: DriverBinding, monkeypatch: pytest.MonkeyPatch, name: str, pinned: bool
) -> None:
    library = Library(stub, 5000)
    allocate: Any = binding.pinned if pinned else binding.allocate
    with monkeypatch.context() as patch, binding.on(1):
        pretend(patch, library, name)
        stub.stub_room(ctypes.c_longlong(100))
        small = allocate(60)
        assert library.asked == 0
        held = allocate(4000)
        assert library.asked == 1
        with pytest.raises(MemoryError, match="1,000,000 bytes were asked for, and the GPU has 5,000 free"):
            allocate(1_000_000)
    del small, held


def test_other_failures_are_not_taken_for_a_lack_of_memory(stub: Any, binding: DriverBinding) -> None:
    with pytest.raises(DriverError, match="cuMemAlloc_v2 failed: CUDA_ERROR_OF_THE_STUB") as raised:
        binding.allocate(9)
    assert raised.value.status == 201  # no context


# ---- The libraries beside it --------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(stub: Any, monkeypatch: pytest.MonkeyPatch) -> CudaDriver:
    """The driver is the machine's."""
    driver = CudaDriver(stub)
    own = contexts.Contexts(driver)
    monkeypatch.setattr(driver_binding, "cuda_driver", lambda: driver)
    monkeypatch.setattr(driver_binding, "contexts", lambda: own)
    monkeypatch.setattr(contexts, "contexts", lambda: own)
    monkeypatch.setattr(cuda_interface, "cuda_driver", lambda: driver)
    return driver


class Untouched:
    """A library's part that must not be asked: every answer of it would make a context."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked")


@pytest.mark.parametrize("name", ["cupy", "numba"])
def test_both_engines_leave_the_libraries_out_of_it(machine: CudaDriver, stub: Any, name: str) -> None:
    if name == "cupy":
        cuda = SimpleNamespace(runtime=Untouched(), driver=Untouched())
        binding: Any = CupyBinding(SimpleNamespace(cuda=cuda))
    else:
        binding = NumbaBinding()
    before = [stub.stub_made(k) for k in range(4)]
    assert (binding.multiprocessors(2), binding.capability(2)) == (132, 90)
    with binding.on(2):
        held = binding.allocate(10), binding.pinned(10), binding.event()
    assert machine.current_context() == 0
    assert [stub.stub_made(k) - before[k] for k in range(4)] == [0, 0, 1, 0]
    del held
    assert (stub.stub_memories(), stub.stub_events()) == (0, 0)


class FakeArray:
    """An array of a library that works on the current device."""

    def __init__(self, machine: CudaDriver, device: int, wrong: list[int] | None = None) -> None:
        self.machine, self.device, self.wrong = machine, SimpleNamespace(id=device), [] if wrong is None else wrong
        self.shape, self.dtype = (3,), np.dtype(np.int64)

    def _work(self, *_: Any, **__: Any) -> FakeArray:
        if self.machine.current_device() != self.device.id:
            self.wrong.append(self.machine.current_device())
        return self

    copy = fill = get = set = reshape = __getitem__ = __setitem__ = _work


FakeArray.__module__ = "cupy"


@pytest.mark.parametrize("mine", ["none", "foreign"])
@pytest.mark.parametrize("device", [0, 2])
def test_a_library_works_where_its_array_is(
    machine: CudaDriver, stub: Any, monkeypatch: pytest.MonkeyPatch, device: int, mine: str
) -> None:
    own = stub.stub_foreign() if mine == "foreign" else 0
    machine.set_context(own)
    array = FakeArray(machine, device)
    library: Any = SimpleNamespace(
        asarray=lambda *_: array._work(),
        argsort=lambda *_: array._work(),
        ascontiguousarray=lambda *_: array._work(),
        int64=None,
    )
    monkeypatch.setitem(sys.modules, "cupy", library)
    before = [stub.stub_made(k) for k in range(4)]
    there = Device("cuda", device)
    assert CUPY.view(there, 4096, FLOAT32, (3,), (1,), None) is array
    assert CUPY.copy(array) is array
    CUPY.zero(array)
    ref = ArrayRef(CUPY, there, FLOAT32, (3,), (1,), 4096, array)
    assign(ref, 1.0)
    snapshot(ref)
    CUPY.contiguous(array)
    CUPY.ranked(array, (4,), (1,), there)
    assert array.wrong == []
    assert machine.current_context() == own
    assert [stub.stub_made(k) - before[k] for k in range(4) if k != device] == [0, 0, 0]


def test_where_memory_is_is_asked_of_the_driver(machine: CudaDriver, stub: Any) -> None:
    binding = DriverBinding(machine)
    before = [stub.stub_made(k) for k in range(4)]
    with binding.on(3):
        address, owner = binding.allocate(100)
    interface = {"shape": (5,), "typestr": "<f4", "data": (address + 40, False), "version": 3, "strides": None}
    array = type("Array", (), {"__cuda_array_interface__": interface})()
    assert probe(array).device == Device("cuda", 3)
    interface["data"] = (8, False)
    with pytest.raises(ValueError, match="no GPU can be asked about it"):
        probe(array)
    interface.update(shape=(0,), data=(0, False))
    assert probe(array).device == Device("cuda", 0)
    with binding.on(3):
        assert probe(array).device == Device("cuda", 3)
    assert [stub.stub_made(k) - before[k] for k in range(4)] == [0, 0, 0, 1]
    del owner


def test_an_empty_array_is_handed_on_without_an_address(machine: CudaDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setattr(FOREIGN, "device_view", lambda stretch, device, format: found.append(stretch.interface))
    for shape, address in (((0, 3), 0), ((3, 0), 0), ((3,), 4096)):
        ref = ArrayRef(FOREIGN, Device("cuda"), FLOAT32, shape, (1,) * len(shape), 4096, None)
        FOREIGN.view_of(ref)
        assert found[-1]["data"][0] == address
