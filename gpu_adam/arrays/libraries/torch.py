"""PyTorch's tensors; torch itself is never imported before its user has."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from operator import attrgetter
from typing import Any

from numpy.typing import NDArray

from ...cuda.contexts import on_device
from ...device import Device
from ...dtypes import BFLOAT16, Format, format_named, unsupported
from ..guards import guard
from ..library import ArrayRef, Library, check_within, name_of, row_numbers
from ..raised import raise_if_foreign
from ..stretches import Stretch
from ..traits import DTYPE, SHAPE, Check, Lifetime, Reader, each
from .numpy import NUMPY

_version_of, _holder_of = attrgetter("_version"), attrgetter("_cdata")


class _Torch(Library):
    """PyTorch."""

    name = "torch"
    holds_gradients = True
    tells_writes = True
    guarded = 3

    def owns(self, kind: type) -> bool:
        torch = sys.modules.get("torch")
        return torch is not None and issubclass(kind, torch.Tensor)

    def describe(self, array: Any, writable: bool) -> tuple[ArrayRef, bool]:
        try:
            return self._described(array), True
        except RuntimeError as error:
            raise_if_foreign(error)
            reason = str(error).partition("\n")[0].partition(". ")[0]
            raise ValueError(
                f"cannot be looked at ({reason}): use a tensor outside of torch.func and torch.vmap, with memory"
            ) from None

    def _described(self, tensor: Any) -> ArrayRef:
        _check_kind(tensor)
        name = str(tensor.dtype).removeprefix("torch.")
        try:
            format = format_named(name)
        except KeyError:
            raise TypeError(unsupported(name)) from None
        kind = tensor.device.type
        if kind not in ("cpu", "cuda"):
            raise ValueError(f"lives on device {tensor.device}: use the CPU or CUDA")
        device = Device(kind, tensor.device.index or 0 if kind == "cuda" else 0)
        ref = ArrayRef(self, device, format, tuple(tensor.shape), tensor.stride(), tensor.data_ptr(), tensor)
        if ref.address:
            storage = tensor.untyped_storage()
            check_within(ref, storage.data_ptr(), storage.data_ptr() + storage.nbytes(), "its storage")
        return ref

    def readers(self, lifetime: Lifetime = Lifetime.GIVEN) -> tuple[Reader, ...]:
        tensor, storage = _torch().Tensor, _torch().UntypedStorage
        readers = [each(tensor.data_ptr), each(tensor.get_device), each(tensor.stride)]
        if lifetime is not Lifetime.OWN:
            # What holds the elements may have been freed, or cut, at the same address.
            readers.append(lambda arrays: map(storage.nbytes, map(tensor.untyped_storage, arrays)))
        return (*readers, DTYPE, SHAPE, each(tensor.is_neg))

    def guard(self, arrays: Sequence[Any]) -> Check | None:
        return guard(arrays)

    def address(self, array: Any) -> int:
        return int(array.data_ptr())

    def plainly(self) -> AbstractContextManager[Any]:
        # A mode, such as that of a default device, would hear of every single question.
        return sys.modules["torch"]._C.DisableTorchFunction()  # type: ignore[no-any-return]

    def host_view(self, words: NDArray[Any], format: Format) -> Any:
        with _ordinarily():
            tensor = _torch().from_numpy(words)
            return tensor.view(_torch().bfloat16) if format is BFLOAT16 else tensor

    def device_view(self, stretch: Stretch, device: int, format: Format) -> Any:
        with _ordinarily(), on_device(device):
            tensor = _torch().as_tensor(stretch, device=f"cuda:{device}")
            return tensor.view(_torch().bfloat16) if format is BFLOAT16 else tensor

    def copy(self, array: Any) -> Any:
        with _ordinarily():
            return array.detach().clone()

    def contiguous(self, array: Any) -> Any:
        return array.contiguous()

    def scalar(self, value: float, format: str) -> Any:
        # On the CPU where PyTorch's optimizers keep theirs, also under another default device.
        with _ordinarily():
            return _torch().tensor(value, dtype=getattr(_torch(), format), device="cpu")

    def read(self, array: Any) -> NDArray[Any]:
        return NUMPY.view_of(self._described(array.detach().cpu()))  # type: ignore[no-any-return]

    def assign(self, to: ArrayRef, value: Any) -> None:
        # In inference mode, which is each thread's own, tensors that were made in it can be written to, and all others as well.
        with _torch().inference_mode():
            to.array.detach().copy_(value)

    def zero(self, array: Any) -> None:
        array.detach().zero_()

    def ranked(self, indices: Any, sizes: Sequence[int], strides: Sequence[int], device: Device) -> tuple[Any, Any]:
        if device.kind == "cpu":
            return super().ranked(indices, sizes, strides, device)
        # To the parameter's GPU too, where they come from elsewhere.
        there = indices.to(f"cuda:{device.index}", _torch().int64)
        ranked, order = _torch().sort(row_numbers(there, sizes, strides), stable=True)
        return ranked, order

    def stream(self, device: int) -> int | None:
        return int(_torch().cuda.current_stream(device).cuda_stream)

    def counts_versions(self, array: Any) -> bool:
        # One that was made in inference mode does not. It is asked for the count itself: such a tensor does not call itself one once its
        # memory was swapped.
        try:
            return array._version >= 0  # type: ignore[no-any-return]
        except RuntimeError:
            return False

    def autograd_knows(self, array: Any) -> bool:
        # A Parameter is made for that.
        return bool(array.requires_grad) or isinstance(array, _torch().nn.Parameter)

    def moved(self, array: Any, place: Any) -> Any:
        # A module that holds the tensor sees the updates.
        array.data = place
        return array


class Writes:
    """Which tensors were written to, or given other memory.

    A tensor counts what is written to it, but not that its ``.data`` was assigned, after which other values may lie at its old address.
    What holds its elements is another object then. Of that object a weak handle is kept: it keeps no memory alive, and keeps the object's
    address from being given out again.
    """

    def __init__(self, tensors: Sequence[Any]) -> None:
        self._tensors = tensors
        # An inference tensor counts no versions.
        self._counting = [k for k, tensor in enumerate(tensors) if TORCH.counts_versions(tensor)]
        self._counters = [tensors[k] for k in self._counting]
        self.remember()

    def remember(self) -> None:
        """Take them for what they are now."""
        self._versions = self._read_versions()
        self._handles = []
        if self._tensors:
            from torch.multiprocessing.reductions import StorageWeakRef

            self._handles = [StorageWeakRef(tensor.untyped_storage()) for tensor in self._tensors]
        self._holders = self._read_holders()

    def news(self) -> list[int]:
        """The numbers of those that differ from what is remembered."""
        versions, holders = self._read_versions(), self._read_holders()
        if versions == self._versions and holders == self._holders:
            return []
        written = {k for k, old, new in zip(self._counting, self._versions, versions, strict=True) if old != new}
        written |= {k for k, (old, new) in enumerate(zip(self._holders, holders, strict=True)) if old != new}
        return sorted(written)

    def announce(self, tensors: Sequence[Any]) -> None:
        """Tell torch of our own writes to any tensors, so that autograd refuses to use their values of before; they are no news."""
        _torch().autograd.graph.increment_version(tensors)
        self._versions = self._read_versions()

    def _read_versions(self) -> list[int]:
        if not self._counters:
            return []
        with TORCH.plainly():
            return list(map(_version_of, self._counters))

    def _read_holders(self) -> list[int]:
        if not self._tensors:
            return []
        with TORCH.plainly():
            return list(map(_holder_of, map(_torch().Tensor.untyped_storage, self._tensors)))


def _torch() -> Any:
    """The module, which is there where there are tensors."""
    return sys.modules["torch"]


@contextmanager
def _ordinarily() -> Iterator[None]:
    """A block in which PyTorch makes ordinary tensors without a history, though the caller is in ``torch.inference_mode()``.

    What is made there would refuse to be changed in place or to take part in training later. A default device is another mode: whoever
    makes a tensor names its device.
    """
    with _torch().inference_mode(False), _torch().no_grad():
        yield


def _check_kind(tensor: Any) -> None:
    """Nothing, if the tensor is a dense one with memory of its own.

    Raises:
        TypeError: For a subclass that computes in its own way, such as a DTensor.
        ValueError: For a lazy, nested or sparse tensor, and for a lazy negation.
    """
    torch = _torch()
    if torch.nn.parameter.is_lazy(tensor):
        raise ValueError("has no shape yet: run its lazy module once, and then make the optimizer")
    if tensor.is_nested:
        raise ValueError(
            "is a nested tensor, whose parts differ in shape: use dense tensors, such as those of its unbind()"
        )
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        remedy = "its to_local()" if hasattr(tensor, "to_local") else "a plain torch.Tensor"
        raise TypeError(f"is a {name_of(tensor)}, whose elements do not lie in memory of its own: use {remedy}")
    if tensor.layout is not torch.strided:
        raise ValueError(f"has layout {tensor.layout}: use a dense tensor; a gradient may also be torch.sparse_coo")
    if tensor.is_neg():
        raise ValueError("is a lazy negation of what lies in memory: use its resolve_neg()")


TORCH = _Torch()
