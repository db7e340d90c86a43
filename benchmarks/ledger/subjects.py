"""Which kernels the ledger holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gpu_adam import GpuOptimizer
from gpu_adam import optim as optimizers
from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Format
from gpu_adam.kernels.abi import ROW_THREADS
from gpu_adam.kernels.rules.rule import Rule
from gpu_adam.kernels.specialization import HINTS, Family, Kernel, PrologueKernel, Specialization, UpdateKernel
from gpu_adam.plan.policy import GPU_POLICY, Geometry

RULES: dict[str, Rule] = {
    rule.name: rule
    for name, optimizer in vars(optimizers).items()
    if isinstance(optimizer, type) and issubclass(optimizer, GpuOptimizer) and name.startswith("Gpu")
    for rule in optimizer.algorithm.rules
}
"""All that ship, by name."""

ADAM = RULES["adam"]


@dataclass(frozen=True)
class Subject:
    """What one row of the ledger is about.

    Attributes:
        kernel: The kernel.
        measured: For a prologue, the format of the gradients that it measures.
    """

    kernel: Kernel
    measured: Format | None = None

    @property
    def family(self) -> str:
        """Its kernel's, or ``"measure"``."""
        return "measure" if self.measured else self.kernel.specialization.family  # type: ignore[union-attr]

    @property
    def name(self) -> str:
        """A name that says all of it but the geometry."""
        return f"measure_{self.measured}" if self.measured else self.kernel.name


def _update(
    family: Family, rule: Rule, param: Format, average: bool = False, geometry: Geometry | None = None
) -> Subject:
    kind = Specialization(family, rule, param, param, param.itemsize == 2, average)
    chosen = geometry or GPU_POLICY.geometry(param)
    threads = ROW_THREADS if family == "rows" else chosen.threads
    return Subject(UpdateKernel(kind, threads, chosen.vectors, chosen.hint, chosen.persistent))


def adams(family: Family, geometry: Geometry | None = None) -> list[Subject]:
    """Adam in each format, by default at the policy's geometry; those of 16 bits with master weights."""
    return [_update(family, ADAM, param, geometry=geometry) for param in (FLOAT32, BFLOAT16, FLOAT16, FLOAT64)]


def subjects() -> Iterator[Subject]:
    """All that the ledger holds, the most important first."""
    families: tuple[Family, ...] = ("flat", "multi_tensor")
    for family in families:
        yield from adams(family)
        yield _update(family, ADAM, FLOAT32, average=True)
        yield _update(family, ADAM, BFLOAT16, average=True)
        yield from (_update(family, rule, FLOAT32) for rule in RULES.values() if rule is not ADAM)
        yield _update(family, RULES["adam_amsgrad"], BFLOAT16)
    families = ("strided", "rows")
    for family in families:
        yield from (_update(family, ADAM, param) for param in (FLOAT32, BFLOAT16, FLOAT64))
    for measured in (FLOAT32, BFLOAT16, FLOAT16, FLOAT64):
        yield Subject(PrologueKernel(ADAM), measured)


def geometries() -> list[Geometry]:
    """Those that are compared: threads and vectors, then hints and a persistent grid around the usual ones.

    How many blocks such a grid has changes nothing of the code.
    """
    cut = [Geometry(threads, vectors) for threads in (128, 256, 512) for vectors in (1, 2, 4)]
    return [*cut, *(Geometry(hint=hint) for hint in HINTS[1:]), Geometry(blocks=4)]
