"""Where a part runs: on the GPU, or in a dry run on the CPU, which takes the place of each engine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..libraries import Cupy, Host, Numba, engines_at_hand, has_torch
from .record import LeftOut


@dataclass(frozen=True)
class Place:
    """What is at hand.

    Attributes:
        dry_run: Whether the CPU stands for a GPU.
        engines: The engines to prove and to measure.
    """

    dry_run: bool
    engines: tuple[str, ...]

    @classmethod
    def of(cls, dry_run: bool) -> Place:
        """The place.

        Raises:
            LeftOut: If no GPU engine can run here and it is no dry run.
        """
        engines = ("cpu",) if dry_run else tuple(name for name in engines_at_hand() if name != "cpu")
        if not engines:
            raise LeftOut("no GPU engine can run here; gpu-adam doctor says why")
        return cls(dry_run, engines)

    @property
    def device(self) -> str:
        """PyTorch's name of it."""
        return "cpu" if self.dry_run else "cuda"

    @cached_property
    def has_torch(self) -> bool:
        """Whether PyTorch is there and can use it."""
        return has_torch(self.device)

    @cached_property
    def library(self) -> Any:
        """Whose arrays are used where it does not matter: CuPy's, else PyTorch's, else Numba's; NumPy's in a dry run."""
        if self.dry_run:
            return Host()
        if "cupy" in self.engines:
            return Cupy()
        # Asked only now: importing PyTorch takes seconds.
        return Torch() if self.has_torch else Numba()

    @property
    def has_cupy(self) -> bool:
        """Whether CuPy's arrays are there."""
        return isinstance(self.library, Cupy)

    def native(self, engine: str) -> Any:
        """The library that belongs to an engine."""
        return Numba() if engine == "numba" else self.library

    def synchronize(self) -> None:
        """Wait for the device."""
        self.library.synchronize()


class Torch:
    """PyTorch's CUDA tensors, as `benchmarks.libraries` has the other libraries."""

    def __init__(self) -> None:
        import torch

        self.torch = torch

    def put(self, array: Any) -> Any:
        """A copy on the device."""
        words = self.torch.from_numpy(array.view(f"i{array.dtype.itemsize}"))
        return words.view(getattr(self.torch, array.dtype.name)).to("cuda")

    def fill(self, view: Any, array: Any) -> None:
        """Write into a tensor."""
        view.detach().copy_(self.put(array))

    def copy(self, to: Any, source: Any) -> None:
        """A copy on the device."""
        to.copy_(source)

    def synchronize(self) -> None:
        """Wait for the device."""
        self.torch.cuda.synchronize()
