"""Where a benchmark runs: on the CPU, on the GPU, or in a dry run of the GPU's on the CPU, which takes the place of each engine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from .libraries import Cupy, Host, Numba, Torch, engines_at_hand, has_torch
from .record import LeftOut


@dataclass(frozen=True)
class Place:
    """What is at hand.

    Attributes:
        device: Where the arrays are, as PyTorch calls it.
        engines: The engines to prove and to measure.
        dry_run: Whether the CPU stands for a GPU.
    """

    device: Literal["cpu", "cuda"]
    engines: tuple[str, ...]
    dry_run: bool = False

    @classmethod
    def gpu(cls, dry_run: bool) -> Place:
        """The GPU, or what stands for it.

        Raises:
            LeftOut: If no GPU engine can run here and it is no dry run.
        """
        if dry_run:
            return cls("cpu", ("cpu",), dry_run=True)
        engines = tuple(name for name in engines_at_hand() if name != "cpu")
        if not engines:
            raise LeftOut("no GPU engine can run here; gpu-adam doctor says why")
        return cls("cuda", engines)

    @cached_property
    def has_torch(self) -> bool:
        """Whether PyTorch is there and can use it."""
        return has_torch(self.device)

    @cached_property
    def library(self) -> Any:
        """Whose arrays are used where it does not matter: NumPy's; on a GPU CuPy's, else PyTorch's, else Numba's."""
        if self.device == "cpu":
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

    def has_format(self, format: str, engine: str | None = None) -> bool:
        """Whether there are arrays of a format, of an engine's library if one is named: Numba's device arrays know no bfloat16."""
        library = self.library if engine is None else self.native(engine)
        return format != "bfloat16" or not isinstance(library, Numba)

    def synchronize(self) -> None:
        """Wait for the device."""
        self.library.synchronize()


CPU = Place("cpu", ("cpu",))
