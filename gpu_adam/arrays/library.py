"""The description of an array, and what is asked of an array library: one object for each, of the classes in ``libraries/``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..device import Device
from ..dtypes import BFLOAT16, Format
from ..messages import cut
from .raised import raise_if_foreign
from .stretches import HostStretch, Stretch, interface_of
from .traits import NOTHING, UNREADABLE, Check, Columns, Lifetime, Reader, Seen


@dataclass(frozen=True)
class ArrayRef:
    """One array, described.

    Attributes:
        library: The library that views of its memory are made with.
        device: Where it lives.
        format: Its element type.
        shape: Its shape.
        strides: Its strides, in elements.
        address: Its first element's address in bytes.
        array: The array itself, which keeps the memory alive.
    """

    library: Library
    device: Device
    format: Format
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    address: int
    array: Any = field(repr=False, compare=False)

    def same_elements(self, other: ArrayRef) -> bool:
        """Whether both describe the same elements in the same order."""
        mine = (self.device, self.format, self.address, self.shape, self.strides)
        return mine == (other.device, other.format, other.address, other.shape, other.strides)


class Library:
    """What is asked of an array library, answered as for one of which nothing else is known.

    It is found in ``sys.modules``, or by an array's class. None is imported before the caller has done so, but for views of a GPU's
    memory for an array of no known library, which are Numba's or CuPy's.

    Attributes:
        name: What it is called.
        makes_parameters: Whether its views may stand for parameters that are packed into our own memory.
        holds_gradients: Whether autograd leaves a gradient at an array, as its ``.grad``; the arrays are then torch's in all else too.
        tells_writes: Whether an array tells what was written to it: see `gpu_adam.arrays.Writes`.
        guarded: How many of the last traits that `readers` read a `guard` compares.
        lasting: What alone can change about an array that is held, for a library that never moves an array's memory; else empty.
    """

    name: str
    makes_parameters = True
    holds_gradients = False
    tells_writes = False
    guarded = 0
    lasting: tuple[Reader, ...] = ()

    def __repr__(self) -> str:
        return repr(self.name)

    # Looking at arrays.

    def owns(self, kind: type) -> bool:
        """Whether a class is one of its own, such as that of its arrays."""
        raise NotImplementedError

    def describe(self, array: Any, writable: bool) -> tuple[ArrayRef, bool | None]:
        """The description of an array, and whether its memory may be written to; ``None`` where nobody can say.

        Raises:
            TypeError, ValueError: As `gpu_adam.arrays.probe`.
        """
        raise NotImplementedError

    def readers(self, lifetime: Lifetime = Lifetime.GIVEN) -> tuple[Reader, ...]:
        """How an array's address is read, its device, then each trait that may differ."""
        return ()  # nothing is known

    def guard(self, arrays: Sequence[Any]) -> Check | None:
        """What tells in one call whether as many arrays have the last traits of these; ``None`` where each is read."""
        return None

    def address(self, array: Any) -> int:
        """Where its array begins."""
        raise NotImplementedError

    def plainly(self) -> AbstractContextManager[Any]:
        """A block in which the library answers by itself, whatever modes its user has set."""
        return NOTHING

    def seen(self, arrays: Sequence[Any], lifetime: Lifetime) -> Seen | None:
        """What some of its arrays are like; ``None`` where nothing can be told in bulk."""
        try:
            with self.plainly():
                readers = self.readers(lifetime)
                if not readers:
                    return None
                given = lifetime is Lifetime.GIVEN
                lasting = () if given else self.lasting
                return Columns(self.plainly, readers, lasting, self.guarded, self.guard, arrays, in_blocks=given)
        except UNREADABLE as error:
            raise_if_foreign(error)
            return None

    def traits_of(self, array: Any) -> tuple[list[Any], int] | None:
        """What `seen` compares, of one array, and its address; ``None`` where it cannot be told."""
        readers = self.readers()
        try:
            if not readers:
                return None
            with self.plainly():
                address, *rest = (one for reader in readers for one in reader((array,)))
        except UNREADABLE as error:
            raise_if_foreign(error)
            return None
        return rest, address

    # Making arrays.

    def view(
        self, device: Device, address: int, format: Format, shape: Sequence[int], strides: Sequence[int], owner: Any
    ) -> Any:
        """An array of the library over memory that it does not own; ``strides`` in elements."""
        interface = interface_of(address, format, shape, strides)
        if device.kind == "cpu":
            return self.host_view(np.asarray(HostStretch(interface, owner)), format)
        return self.device_view(Stretch(interface, owner), device.index, format)

    def host_view(self, words: NDArray[Any], format: Format) -> Any:
        """The view where the memory is the host's, as NumPy shows it."""
        return words.view(format.dtype) if format is BFLOAT16 else words

    def device_view(self, stretch: Stretch, device: int, format: Format) -> Any:
        """The view where it is a GPU's."""
        raise NotImplementedError

    def view_of(self, ref: ArrayRef) -> Any:
        """Anybody's array, as one of the library."""
        # Where there is no element, the GPUs' protocol wants no address: the array's own may be one past the end of its library's memory.
        address = 0 if 0 in ref.shape and ref.device.kind != "cpu" else ref.address
        return self.view(ref.device, address, ref.format, ref.shape, ref.strides, ref.array)

    def copy(self, array: Any) -> Any:
        """A copy of a view that it made, of the same strides, on the same device."""
        raise NotImplementedError

    def contiguous(self, array: Any) -> Any:
        """The array itself if its elements lie row after row, else a copy in which they do."""
        return array

    def scalar(self, value: float, format: str) -> Any:
        """A number as the library's users save it."""
        return value

    # Moving elements.

    def read(self, array: Any) -> NDArray[Any]:
        """The elements of a view that it made, or of its own array, on the host."""
        raise NotImplementedError

    def write(self, array: Any, host: NDArray[Any]) -> None:
        """Copy a host array into a view that it made."""
        raise NotImplementedError

    def read_ref(self, ref: ArrayRef) -> NDArray[Any]:
        """The elements of an array in a GPU's memory, on the host."""
        return self.read(ref.array)

    def assign(self, to: ArrayRef, value: Any) -> None:
        """Copy the elements of a view that it made into an array of the same shape and device."""
        self.write(self.view_of(to), self.read(value).astype(to.format.dtype))

    def zero(self, array: Any) -> None:
        """Fill an array with zeros, in place."""
        raise NotImplementedError

    def ranked(self, indices: Any, sizes: Sequence[int], strides: Sequence[int], device: Device) -> tuple[Any, Any]:
        """The numbers of rows in their order, as int64, and the place of each before: equal ones in the order in which they were.

        Args:
            indices: The rows' indices, integers (k, n), or (n,) for k = 1.
            sizes: How many indices there are of each of the k dimensions.
            strides: What an index counts in a row's number.
            device: Where the result is wanted: on a GPU in the order of the library's current stream, if the library can sort there, else
                in host memory as on a CPU.
        """
        numbers = row_numbers(np.asarray(indices).astype(np.int64, copy=False), sizes, strides)
        order = numbers.argsort(kind="stable")
        return numbers[order], order

    # Streams.

    def stream(self, device: int) -> int | None:
        """The handle of the stream that its user works on; ``None`` to leave the choice to the engine."""
        return None

    def copying_stream(self, device: int) -> int | None:
        """The handle of the stream on which it copies arrays."""
        return self.stream(device)

    # Autograd.

    def counts_versions(self, array: Any) -> bool:
        """Whether an array counts what is written to it."""
        return False

    def autograd_knows(self, array: Any) -> bool:
        """Whether autograd computes gradients for an array, or will when it is thawed."""
        return False

    def moved(self, array: Any, place: Any) -> Any:
        """The array that is updated once a parameter has been copied into a view: that one, or the same object with its memory."""
        return place


def row_numbers(indices: Any, sizes: Sequence[int], strides: Sequence[int]) -> Any:
    """The numbers of rows, by their indices, int64 of any library; see `Library.ranked`.

    An index that a dimension does not have makes a number that no row has: another row's would be updated instead.

    >>> row_numbers(np.array([[0, 1, 1], [2, 0, 3]]), (2, 3), (3, 1))
    array([ 2,  3, -1])
    """
    if len(sizes) == 1:
        return indices.reshape(-1)
    numbers, outside = indices[:0].sum(0), (indices < 0).any(0)
    for own, size, stride in zip(indices, sizes, strides, strict=True):
        numbers = numbers + own * stride
        outside = outside | (own >= size)
    numbers[outside] = -1
    return numbers


def name_of(array: Any) -> str:
    """The full name of an object's class."""
    return cut(f"{type(array).__module__}.{type(array).__qualname__}")


def no_array(value: Any) -> TypeError:
    """The error for an object that is no array."""
    return TypeError(
        f"is a {name_of(value)}: use a NumPy, CuPy or Numba device array, a torch tensor, "
        "or an object with __cuda_array_interface__ or __dlpack__"
    )


def root_of(kind: type) -> str:
    """The package that a class is from."""
    return kind.__module__.partition(".")[0]


def in_elements(strides: tuple[int, ...], format: Format) -> tuple[int, ...]:
    """Strides that are given in bytes.

    Raises:
        ValueError: If they lead between elements.
    """
    if any(stride % format.itemsize for stride in strides):
        raise ValueError(f"has strides of {strides} bytes, which are no multiples of its element's {format.itemsize}")
    return tuple(stride // format.itemsize for stride in strides)


def reach(ref: ArrayRef) -> tuple[int, int]:
    """The first byte that an array may touch, and the first that it does not."""
    if 0 in ref.shape:
        return ref.address, ref.address
    spans = [stride * (size - 1) for size, stride in zip(ref.shape, ref.strides, strict=True)]
    itemsize = ref.format.itemsize
    low = sum(span for span in spans if span < 0)
    high = sum(span for span in spans if span > 0)
    return ref.address + low * itemsize, ref.address + (high + 1) * itemsize


def check_within(ref: ArrayRef, start: int, stop: int, what: str) -> None:
    """Raise `ValueError` for an array that reaches out of the memory of what holds its elements."""
    first, end = reach(ref)
    if first != end and not start <= first <= end <= stop:
        raise ValueError(
            f"has no memory for all of its elements: {what} was resized to {stop - start:,} bytes and they take {end - first:,}"
        )
