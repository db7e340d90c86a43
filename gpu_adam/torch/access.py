"""Where the elements of a parameter lie: in the tensor itself, in pairs of reals, or in this rank's shard of it."""

from __future__ import annotations

import sys
from typing import Any, Protocol

import torch
from torch import Tensor


class Access(Protocol):
    """How one kind of parameter is reached; the engine works on dense real tensors."""

    def local(self, tensor: Tensor) -> Tensor:
        """The dense real tensor in which the elements of a parameter, or of a tensor like it, lie on this rank."""

    def gradient(self, param: Tensor) -> Tensor | None:
        """The elements of a parameter's ``.grad`` that belong to those of `local`."""

    def shown(self, param: Tensor, view: Tensor) -> Tensor:
        """A tensor like `local` as one like the parameter, in the same memory."""

    def taken(self, param: Tensor, value: Tensor) -> Tensor:
        """What `shown` would have been given for a tensor that somebody has made, or loaded."""


class _Plain:
    """The tensor itself."""

    def local(self, tensor: Tensor) -> Tensor:
        return tensor

    def gradient(self, param: Tensor) -> Tensor | None:
        return param.grad

    def shown(self, param: Tensor, view: Tensor) -> Tensor:
        return view

    def taken(self, param: Tensor, value: Tensor) -> Tensor:
        return value


class _Complex:
    """Its real and imaginary parts, in one more dimension; the rules see independent real numbers, as PyTorch's do."""

    def local(self, tensor: Tensor) -> Tensor:
        # Autograd hands out conjugates that are not computed yet.
        return torch.view_as_real(tensor.detach().resolve_conj().resolve_neg())

    def gradient(self, param: Tensor) -> Tensor | None:
        gradient = param.grad
        if gradient is not None and not gradient.is_complex():
            gradient = gradient.to(param.dtype)  # of a parameter that takes gradients of any dtype
        return None if gradient is None else self.local(gradient)

    def shown(self, param: Tensor, view: Tensor) -> Tensor:
        return torch.view_as_complex(view)

    def taken(self, param: Tensor, value: Tensor) -> Tensor:
        return self.local(value if value.is_complex() else value + 0j)


class _Sharded:
    """This rank's shard of a DTensor.

    Args:
        inner: How its elements are reached there.
    """

    def __init__(self, inner: Access) -> None:
        self._inner = inner

    def local(self, tensor: Any) -> Tensor:
        return self._inner.local(_waited(tensor.to_local()))

    def gradient(self, param: Any) -> Tensor | None:
        if param.grad is None:
            return None
        gradient: Any = param.grad
        if gradient.placements != param.placements:
            gradient = gradient.redistribute(placements=param.placements)
        return self.local(gradient)

    def shown(self, param: Any, view: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        local = self._inner.shown(param, view)
        spread: Tensor = DTensor.from_local(
            local, param.device_mesh, param.placements, run_check=False, shape=param.shape, stride=param.stride()
        )
        return spread

    def taken(self, param: Any, value: Any) -> Tensor:
        if not is_distributed(value):
            if value.shape == param.to_local().shape != param.shape:
                return self._inner.taken(param, value)
            from torch.distributed.tensor import distribute_tensor

            value = distribute_tensor(value.to(param.device), param.device_mesh, param.placements)
        elif value.placements != param.placements:
            value = value.redistribute(placements=param.placements)
        return self._inner.taken(param, _waited(value.to_local()))


PLAIN, COMPLEX = _Plain(), _Complex()
_SHARDED, _SHARDED_COMPLEX = _Sharded(PLAIN), _Sharded(COMPLEX)


def access_of(param: Tensor) -> Access:
    """How a parameter is reached."""
    if is_distributed(param):
        return _SHARDED_COMPLEX if param.is_complex() else _SHARDED
    return COMPLEX if param.is_complex() else PLAIN


def is_distributed(tensor: Any) -> bool:
    """Whether it is a DTensor: of one tensor, the part that this rank holds."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_shard(param: Any) -> bool:
    """Whether other ranks hold other elements of a parameter, so that its own say nothing of the norm of its gradient."""
    if is_distributed(param):
        sizes = param.device_mesh.shape
        return any(size > 1 and not place.is_replicate() for size, place in zip(sizes, param.placements, strict=True))
    return is_flattened(param)


def is_flattened(param: Any) -> bool:
    """Whether it is one of FSDP1's, which gives it other memory before and after each pass."""
    return any(getattr(param, mark, False) for mark in ("_is_flat_param", "_fsdp_flattened"))


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same elements in the same order."""
    return one is other or (
        one.data_ptr() == other.data_ptr()
        and (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
    )


def whole(scalar: Any) -> Any:
    """A number that ranks may each have a part of, as a plain tensor."""
    return scalar.full_tensor() if is_distributed(scalar) else scalar


def _waited(tensor: Any) -> Tensor:
    """The tensor, which a collective may still be writing to."""
    return tensor.wait() if hasattr(tensor, "wait") else tensor
