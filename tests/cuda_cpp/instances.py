"""Every kernel that a plan can ask for, as tables."""

from __future__ import annotations

from dataclasses import replace

from shipped import ADAM, AMSGRAD, OPTIMIZERS, RULES, formats_of

from gpu_adam.engines.gpu_kernels import CoalesceKernel, Kernel, PrologueKernel, UpdateKernel
from gpu_adam.formats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FORMATS
from gpu_adam.plan import GPU_POLICY, Specialization

FAMILIES = ("flat", "multi_tensor", "strided")
ROW_THREADS = (32, 64, 128, 256)
"""Blocks that rows are updated and summed by, depending on their width."""

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
COALESCES = tuple(
    CoalesceKernel(values, working, threads)
    for values in FORMATS
    for working in (FLOAT32, FLOAT64)
    for threads in ROW_THREADS
)


def instances(kind: Specialization) -> tuple[UpdateKernel, ...]:
    """A specialization at the geometries that the GPU engines use."""
    blocks = ROW_THREADS if kind.family == "rows" else (GPU_POLICY.threads,)
    return tuple(UpdateKernel(kind, threads, GPU_POLICY.vectors) for threads in blocks)


SHIPPED: tuple[Kernel, ...] = (
    *(instance for kind in SPECIALIZATIONS for instance in instances(kind)),
    *PROLOGUES,
    *COALESCES,
)

OTHER_GEOMETRY = tuple(
    UpdateKernel(Specialization(family, AMSGRAD, param, param, param is not FLOAT32), 64, 3)  # type: ignore[arg-type]
    for family in FAMILIES
    for param in (FLOAT32, FLOAT16, BFLOAT16)
)
"""At another, so that nothing rests on the policy's numbers: several vectors a thread, and not a power of two of them."""
