"""The intrinsics of the Numba CUDA kernels, run on the CPU: they are LLVM instructions, and those mean the same to both back ends.

The simulator cannot run them and PTX only shows them, so here is where their widening, rounding and order of lanes are proved.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from gpu_adam.dtypes import BFLOAT16, FLOAT32, FLOAT64, FORMATS, Format
from gpu_adam.kernels.streams import Storage, Stream

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

READ = [(format, working) for format, working in product(FORMATS, (FLOAT32, FLOAT64))]
WRITTEN = [(format, format.working) for format in FORMATS]


def on_cpu(intrinsic: Any) -> Any:
    """The same intrinsic, registered for Numba's CPU target."""
    from numba.extending import intrinsic as register

    return register(intrinsic._defn)


def mover(format: Format, working: Format, lanes: int, *, load: bool) -> Any:
    """``(address, values)``: all of ``values`` loaded from the address, or stored to it, a vector at a time."""
    import numba

    from gpu_adam.kernels.numba_cuda import stream as cuda_stream

    make = cuda_stream.load_streams if load else cuda_stream.store_streams
    streams = (Stream("param", Storage.of(format), read=load, written=not load),)
    move = on_cpu(make(streams, working, lanes, "plain"))

    @numba.njit  # type: ignore[untyped-decorator,unused-ignore]
    def run(address, values):  # type: ignore[no-untyped-def]
        pointers = (address, 0, 0, 0, 0, 0, 0)
        for first in range(0, values.size, lanes):
            move(pointers, (first, 0, 0), (values, values, values, values, values, values), first)

    return run


def aligned(dtype: Any, size: int, off: int) -> Any:
    """Zeros whose first lies ``off`` elements behind a 16-byte boundary."""
    memory = np.zeros(size * dtype.itemsize + 64, np.uint8)
    begin = -memory.ctypes.data % 16 + off * dtype.itemsize
    return memory[begin : begin + size * dtype.itemsize].view(dtype)


def every_bit(format: Format) -> Any:
    """All numbers of a 16-bit format; of a wider one many, with each kind among them, and ties of the narrower ones."""
    if format.itemsize == 2:
        return np.arange(1 << 16, dtype=np.uint16).view(format.dtype)
    halves = np.arange(1 << 16, dtype=np.uint32) << 16
    words = np.concatenate([halves | low for low in (0, 1, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    if format is FLOAT32:
        return words.view(np.float32)
    with np.errstate(all="ignore"):
        wide = words.view(np.float32).astype(np.float64)
        # Beside each number of float32 those that lie half a step of it away, or a little less or more.
        near = wide * (1 + 2.0**-25)
        return np.concatenate([wide, near, np.nextafter(near, 0), np.nextafter(near, np.inf)])


def assert_same(found: Any, expected: Any) -> None:
    bits = f"u{expected.dtype.itemsize}"
    with np.errstate(all="ignore"):
        nan = expected != expected
        assert ((found != found) == nan).all()
    np.testing.assert_array_equal(found.view(bits)[~nan], expected.view(bits)[~nan])


@pytest.mark.parametrize("off", [0, 1])
@pytest.mark.parametrize(("format", "working"), READ, ids=str)
def test_vectors_are_loaded_in_order(format: Format, working: Format, off: int) -> None:
    numbers = every_bit(format)
    stored = aligned(format.dtype, numbers.size, off)
    stored[:] = numbers
    values = np.zeros(numbers.size, working.dtype)
    mover(format, working, 8, load=True)(stored.ctypes.data, values)
    with np.errstate(all="ignore"):
        assert_same(values, numbers.astype(working.dtype))


@pytest.mark.parametrize("off", [0, 1])
@pytest.mark.parametrize(("format", "working"), WRITTEN, ids=str)
def test_vectors_are_stored_in_order_and_rounded_once(format: Format, working: Format, off: int) -> None:
    values = np.array(every_bit(working))
    stored = aligned(format.dtype, values.size, off)
    mover(format, working, 8, load=False)(stored.ctypes.data, values)
    with np.errstate(all="ignore"):
        assert_same(stored, values.astype(format.dtype))


@pytest.mark.parametrize(("format", "working"), WRITTEN, ids=str)
def test_single_elements_are_what_a_vector_of_them_is(format: Format, working: Format) -> None:
    import numba

    from gpu_adam.kernels.numba_cuda import intrinsics as cuda_intrinsics

    load = on_cpu(cuda_intrinsics.load(format, working))
    store = on_cpu(cuda_intrinsics.store(format, working))
    itemsize = format.itemsize

    @numba.njit  # type: ignore[untyped-decorator,unused-ignore]
    def copy(source, to, size):  # type: ignore[no-untyped-def]
        for k in range(size):
            store(to + k * itemsize, load(source + k * itemsize))

    numbers = np.array(every_bit(format))
    found = np.zeros_like(numbers)
    copy(numbers.ctypes.data, found.ctypes.data, numbers.size)
    assert_same(found, numbers)


@pytest.mark.parametrize(("format", "working"), READ, ids=str)
def test_packed_elements_are_what_they_are_one_by_one(format: Format, working: Format) -> None:
    import numba

    from gpu_adam.kernels.numba_cuda import intrinsics as cuda_intrinsics

    load_packed, element = on_cpu(cuda_intrinsics.load_packed), on_cpu(cuda_intrinsics.element(format, working))
    per_vector = 16 // format.itemsize

    @numba.njit  # type: ignore[untyped-decorator,unused-ignore]
    def unpack(source, found):  # type: ignore[no-untyped-def]
        words = np.zeros(8, np.int32)
        for k in range(0, found.size, 2 * per_vector):
            load_packed(source + k * (16 // per_vector), words, 0)
            load_packed(source + (k + per_vector) * (16 // per_vector), words, 4)
            for n in range(2 * per_vector):
                found[k + n] = element(words, n // per_vector * 4, n % per_vector)

    numbers = every_bit(format)
    stored = aligned(format.dtype, numbers.size, 0)
    stored[:] = numbers
    found = np.zeros(numbers.size, working.dtype)
    unpack(stored.ctypes.data, found)
    with np.errstate(all="ignore"):
        assert_same(found, numbers.astype(working.dtype))


def test_a_float64_is_rounded_once_to_a_float32() -> None:
    import numba

    from gpu_adam.kernels.numba_cuda import intrinsics as cuda_intrinsics

    store = on_cpu(cuda_intrinsics.store(FLOAT32, FLOAT64))

    @numba.njit  # type: ignore[untyped-decorator,unused-ignore]
    def run(to, numbers):  # type: ignore[no-untyped-def]
        for k in range(numbers.size):
            store(to + 4 * k, numbers[k])

    numbers = every_bit(FLOAT64)
    found = np.zeros(numbers.size, np.float32)
    run(found.ctypes.data, numbers)
    with np.errstate(all="ignore"):
        assert_same(found, numbers.astype(np.float32))


def test_words_are_stored_and_counted_in() -> None:
    import numba

    from gpu_adam.kernels.numba_cuda import intrinsics as cuda_intrinsics

    store_word, count_in = on_cpu(cuda_intrinsics.store_word), on_cpu(cuda_intrinsics.count_in)
    words = np.array([5, 7, 9], np.int64)

    @numba.njit  # type: ignore[untyped-decorator,unused-ignore]
    def run(address):  # type: ignore[no-untyped-def]
        store_word(address, -(1 << 60))
        return count_in(address)

    assert run(words[1:].ctypes.data) == -(1 << 60)
    assert words.tolist() == [5, -(1 << 60) + 1, 9]


def test_a_bfloat16_nan_stays_quiet_and_keeps_its_sign() -> None:
    values = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF] * 2, np.uint32).view(np.float32)
    stored = aligned(BFLOAT16.dtype, 8, 0)
    mover(BFLOAT16, FLOAT32, 8, load=False)(stored.ctypes.data, values)
    assert stored.view(np.uint16)[:4].tolist() == [0x7FC0, 0xFFC0, 0x7FFF, 0xFFFF]


@pytest.mark.parametrize("lanes", [2, 4, 8])
def test_nothing_beside_a_vector_is_touched(lanes: int) -> None:
    for off in (0, 1):
        memory = aligned(FLOAT64.dtype, 32, off)
        mover(FLOAT64, FLOAT64, lanes, load=False)(memory[8:].ctypes.data, np.arange(1.0, lanes + 1))
        assert memory.tolist() == [0.0] * 8 + list(range(1, lanes + 1)) + [0.0] * (24 - lanes)


def test_words_are_loaded_and_products_fused() -> None:
    import numba

    from gpu_adam.kernels.numba_cuda import intrinsics as cuda_intrinsics

    load_word, fma = on_cpu(cuda_intrinsics.load_word), on_cpu(cuda_intrinsics.fma)
    words = np.array([5, -(1 << 60)], np.int64)
    assert numba.njit(lambda address: load_word(address))(words[1:].ctypes.data) == -(1 << 60)
    a, b = np.float32(1 + 2.0**-12), np.float32(-1 - 2.0**-11)
    assert numba.njit(lambda a, b: fma(a, a, b))(a, b) == np.float32(2.0**-24)
