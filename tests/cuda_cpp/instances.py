"""Every kernel that a plan can ask for, as one table."""

from __future__ import annotations

from gpu_adam.engines.nvrtc import Instance
from gpu_adam.formats import BFLOAT16, FLOAT16, FLOAT32, FORMATS
from gpu_adam.plan import GPU_POLICY, Specialization

FAMILIES = ("flat", "multi_tensor", "strided")
RULES = {"adam": 2, "adam_amsgrad": 3}

SPECIALIZATIONS = tuple(
    Specialization(family, rule, states, param, grad, master)  # type: ignore[arg-type]
    for family in FAMILIES
    for rule, states in RULES.items()
    for param in FORMATS
    for grad in FORMATS
    for master in ((False, True) if param.itemsize == 2 else (False,))
)

SHIPPED = tuple(Instance(kind, GPU_POLICY.threads, GPU_POLICY.vectors) for kind in SPECIALIZATIONS)
"""At the geometry that the GPU engines use."""

OTHER_GEOMETRY = tuple(
    Instance(Specialization(family, "adam_amsgrad", 3, param, param, param is not FLOAT32), 64, 3)  # type: ignore[arg-type]
    for family in FAMILIES
    for param in (FLOAT32, FLOAT16, BFLOAT16)
)
"""At another, so that nothing rests on the policy's numbers: several vectors a thread, and not a power of two of them."""
