"""Contexts, memory and events by way of a driver: over one that is built for the tests, through the very functions of the shipped one."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from gpu_adam.cuda import contexts
from gpu_adam.cuda.calls import CudaDriver, DriverError
from gpu_adam.engines.cuda.driver_binding import DriverBinding
from tests.support.cuda_cpp.host_driver import GLOBAL

probe = import_module("gpu_adam.arrays.probe")  # the package has a function of that name


def in_thread(work: Callable[[], Any]) -> None:
    """Do something in a thread that has no context, and fail as it does."""
    raised = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


# ---- Contexts -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [0, 1, 3])
def test_work_on_a_device_makes_its_context_and_no_other(stub: Any, binding: DriverBinding, device: int) -> None:
    before = [stub.stub_made(k) for k in range(4)]
    assert binding.multiprocessors(device) == 132
    assert binding.capability(device) == 90
    assert [stub.stub_made(k) for k in range(4)] == before  # attributes need none
    for _ in range(3):
        with binding.on(device):
            address, owner = binding.allocate(100)
            assert binding.driver.device_of(address + 99) == device
        assert binding.driver.current_context() == 0
    del owner
    assert [stub.stub_made(k) - before[k] for k in range(4)] == [int(k == device) for k in range(4)]


@pytest.mark.parametrize("kind", ["none", "foreign", "primary"])
def test_the_callers_context_is_current_again(stub: Any, binding: DriverBinding, kind: str) -> None:
    driver = binding.driver
    mine = {"none": 0, "foreign": stub.stub_foreign(), "primary": driver.primary_context(2)}[kind]
    driver.set_context(mine)
    with binding.on(1):
        own = driver.current_context()
        assert own == driver.primary_context(1) != mine
        with binding.on(0), binding.on(1), binding.on(1):
            assert driver.current_context() == own
        assert driver.current_context() == own
    assert driver.current_context() == mine
    with pytest.raises(ZeroDivisionError), binding.on(1):
        raise ZeroDivisionError
    assert driver.current_context() == mine


def test_a_library_that_works_on_the_current_device(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = contexts.Contexts(CudaDriver(stub))
    monkeypatch.setattr(contexts, "contexts", lambda: own)
    with contexts.on_device(3):
        assert CudaDriver(stub).current_device() == 3
    assert CudaDriver(stub).current_device() == 0
    assert CudaDriver(stub).current_context() == 0


# ---- Memory -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [0, 1, 1000, 1 << 20])
def test_memory_is_zero_and_freed_at_once(stub: Any, binding: DriverBinding, nbytes: int) -> None:
    with binding.on(1):
        address, owner = binding.allocate(nbytes)
        assert address % 256 == 0
        assert not any(ctypes.string_at(address, nbytes))
        host = binding.pinned(nbytes)
        assert (host.dtype, host.size) == (np.uint8, max(nbytes, 1))
        assert stub.stub_memories() == 2
        part = host[: nbytes // 2].view()
    del host, owner
    assert stub.stub_memories() == 1
    del part
    assert stub.stub_memories() == 0


@pytest.mark.parametrize("what", ["memory", "pinned", "event"])
@pytest.mark.parametrize("where", ["here", "without a context", "in another", "in a thread"])
def test_what_nobody_holds_is_given_back_wherever_that_is_noticed(
    stub: Any, binding: DriverBinding, what: str, where: str
) -> None:
    with binding.on(1):
        held = [
            {"memory": lambda: binding.allocate(9), "pinned": lambda: binding.pinned(9), "event": binding.event}[what]()
        ]
    mine = stub.stub_foreign() if where == "in another" else 0
    binding.driver.set_context(mine)
    if where == "here":
        with binding.on(1):
            held.clear()
    elif where == "in a thread":
        in_thread(held.clear)
    else:
        held.clear()
    assert (stub.stub_memories(), stub.stub_events()) == (0, 0)
    assert binding.driver.current_context() == mine


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("what", ["memory", "pinned", "event"])
def test_allocating_and_freeing_spoil_nobodys_capture(
    stub: Any, binding: DriverBinding, what: str, threads: bool
) -> None:
    def work() -> None:
        with binding.on(0):
            make = {"memory": lambda: binding.allocate(9), "pinned": lambda: binding.pinned(9), "event": binding.event}
            held = [make[what](), old.pop()]
            held.clear()

    with binding.on(0):
        old = [binding.allocate(5)]
        stub.stub_begin_capture(GLOBAL)
        # It would be so without care.
        with pytest.raises(DriverError, match="cuMemAlloc_v2 failed"):
            binding.driver.allocate(5)
        assert stub.stub_end_capture()
        stub.stub_begin_capture(GLOBAL)
    in_thread(work) if threads else work()
    assert not stub.stub_end_capture()
    assert binding.driver.exchange_capture_mode(GLOBAL) == GLOBAL  # the thread's mode is as it was


def test_a_driver_that_is_gone_does_not_matter_to_what_is_freed(binding: DriverBinding, stub: Any) -> None:
    with binding.on(0):
        address, owner = binding.allocate(9)
        binding.driver.free(address)  # as a reset of the device does
    del owner


def test_an_event(binding: DriverBinding) -> None:
    with binding.on(0):
        event = binding.event()
        event.record(0)
        event.synchronize()
        event.hold(0)
