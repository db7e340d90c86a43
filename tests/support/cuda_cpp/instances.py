"""Every kernel that a plan can ask for, as tables."""

from __future__ import annotations

from dataclasses import replace

from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FORMATS
from gpu_adam.kernels.abi import ROW_THREADS
from gpu_adam.kernels.specialization import CoalesceKernel, Kernel, PrologueKernel, Specialization, UpdateKernel
from gpu_adam.plan.policy import GPU_POLICY, Geometry
from tests.support.shipped import ADAM, AMSGRAD, OPTIMIZERS, RULES, formats_of

FAMILIES = ("flat", "multi_tensor", "strided")

WITHOUT_AVERAGE = tuple(
    Specialization(family, rule, param, grad, master)  # type: ignore[arg-type]
    for family in FAMILIES
    for rule in RULES.values()
    for param, grad, master in formats_of(rule, family)
)
# How the average is kept depends neither on the rule nor on the gradient.
WITH_AVERAGE = tuple(replace(kind, average=True) for kind in WITHOUT_AVERAGE if kind.rule in (ADAM, AMSGRAD))
ROWS = tuple(
    Specialization("rows", rule, param, grad, master)
    for rule in RULES.values()
    for param, grad, master in formats_of(rule, "rows")
)

SPECIALIZATIONS = (*WITHOUT_AVERAGE, *(kind for kind in WITH_AVERAGE if kind.grad is kind.param), *ROWS)

PROLOGUES = tuple(PrologueKernel(optimizer.algorithm.rules[0]) for optimizer in OPTIMIZERS.values())
COALESCES = tuple(CoalesceKernel(values, working) for values in FORMATS for working in (FLOAT32, FLOAT64))


def instances(kind: Specialization) -> tuple[UpdateKernel, ...]:
    """A specialization at the geometries that the GPU engines use."""
    geometry = GPU_POLICY.geometry(kind.param)
    if kind.family == "rows":
        return (UpdateKernel(kind, ROW_THREADS, geometry.vectors, geometry.hint),)
    return (UpdateKernel(kind, geometry.threads, geometry.vectors, geometry.hint, geometry.persistent),)


SHIPPED: tuple[Kernel, ...] = (
    *(instance for kind in SPECIALIZATIONS for instance in instances(kind)),
    *PROLOGUES,
    *COALESCES,
)

OTHER_GEOMETRIES = tuple(
    (Specialization(family, AMSGRAD, param, param, param.itemsize == 2), geometry)  # type: ignore[arg-type]
    for family in FAMILIES
    for param, geometry in (
        (FLOAT32, Geometry(64, 3)),
        (FLOAT16, Geometry(64, 3, "keep_param")),
        (BFLOAT16, Geometry(64, 3, "plain", blocks=1)),
        (FLOAT32, Geometry(32, 1, "keep_param", blocks=2)),
        (FLOAT64, Geometry(32, 2, "plain")),
    )
)
"""At others, so that nothing rests on the policy's: several vectors, and not a power of two of them, every hint, persistent grids."""

OTHERS = tuple(
    UpdateKernel(kind, geometry.threads, geometry.vectors, geometry.hint, geometry.persistent)
    for kind, geometry in OTHER_GEOMETRIES
)
