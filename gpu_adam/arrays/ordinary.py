"""PyTorch's modes, kept from the tensors that are made here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """A block in which PyTorch makes ordinary tensors without a history, though the caller is in ``torch.inference_mode()``.

    What is made there would refuse to be changed in place or to take part in training later. A default device is another mode: whoever
    makes a tensor names its device.
    """
    import torch

    with torch.inference_mode(False), torch.no_grad():
        yield


def counts_versions(tensor: Any) -> bool:
    """Whether a tensor counts what is written to it, which one that was made in inference mode does not.

    It is asked for the count itself: a tensor of inference mode does not call itself one once its memory was swapped.
    """
    try:
        return tensor._version >= 0  # type: ignore[no-any-return]
    except RuntimeError:
        return False
