"""All optimizers and rules that ship, by name, and which formats each rule is tested with."""

from __future__ import annotations

from itertools import product

from gpu_adam import GpuOptimizer
from gpu_adam import optim as optimizers
from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FORMATS, Format
from gpu_adam.kernels.rules.rule import Rule, shipped

CLASSES: dict[str, type[GpuOptimizer]] = {name: one for name, one in vars(optimizers).items() if name.startswith("Gpu")}
OPTIMIZERS = {name: one for name, one in CLASSES.items() if one.__base__ is GpuOptimizer}
"""Those that are no other one with defaults of its own, as `GpuAdamW` is, whose tests compare it with that one."""

RULES = shipped()
ADAM, AMSGRAD = RULES["adam"], RULES["adam_amsgrad"]

_EVERY = tuple(
    (param, grad, master)
    for param, grad in product(FORMATS, FORMATS)
    for master in ((False, True) if param.itemsize == 2 else (False,))
)
_SOME = {
    "flat": ((FLOAT32, FLOAT32, False), (BFLOAT16, BFLOAT16, True)),
    "multi_tensor": (
        (FLOAT32, FLOAT32, False),
        (FLOAT64, FLOAT64, False),
        (FLOAT16, FLOAT32, False),
        (BFLOAT16, BFLOAT16, True),
    ),
    "strided": ((BFLOAT16, BFLOAT16, True),),  # with strides that turn out to be none it is a multi-tensor launch
    "rows": ((FLOAT32, FLOAT32, False),),
}


def formats_of(rule: Rule, family: str) -> tuple[tuple[Format, Format, bool], ...]:
    """Formats of parameter and gradient, and whether there are master weights: all with Adam, some with the other rules.

    How memory is reached does not depend on the rule. Gradients of rows come in the working format.
    """
    if rule not in (ADAM, AMSGRAD):
        return _SOME[family]
    return tuple(each for each in _EVERY if family != "rows" or each[1] is each[0].working)
