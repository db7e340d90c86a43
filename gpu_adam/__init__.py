"""gpu_adam: the Adam optimizer of Kingma and Ba (2014) as hand-written GPU kernels, with a CPU engine that returns the same bits.

>>> import numpy as np
>>> from gpu_adam import GpuAdam
>>> p = np.array([1.0, -2.0], np.float32)
>>> opt = GpuAdam([p], lr=0.1)
>>> opt.step([np.array([0.5, -0.5], np.float32)])
>>> p.round(6)
array([ 0.9, -1.9], dtype=float32)
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .moved import lead_on

if TYPE_CHECKING:
    from .errors import EngineUnavailable as EngineUnavailable
    from .kernels.rules.rule import Rule as Rule
    from .optim import *  # noqa: F403
    from .optim.base import GpuOptimizer as GpuOptimizer
    from .rules.algorithm import Algorithm as Algorithm
    from .rules.hyperparameters import Flag as Flag
    from .rules.hyperparameters import Number as Number
    from .step.loss_scaler import LossScaler as LossScaler

__version__ = "0.2.0.dev0"

_HERE = Path(__file__).resolve().parent
_BESIDE = _HERE.parent / "kernels" / "__init__.py"
if not (_HERE / "kernels").exists() and (_BESIDE.parent / "abi.py").exists():
    # A bare checkout: `kernels` lies beside this folder, and becomes `gpu_adam.kernels` on installation only.
    _spec = spec_from_file_location(f"{__name__}.kernels", _BESIDE)
    if _spec is not None and _spec.loader is not None:
        kernels = sys.modules[_spec.name] = module_from_spec(_spec)
        _spec.loader.exec_module(kernels)

lead_on()

_HOMES = {
    "Algorithm": ".rules.algorithm",
    "EngineUnavailable": ".errors",
    "Flag": ".rules.hyperparameters",
    "GpuOptimizer": ".optim.base",
    "LossScaler": ".step.loss_scaler",
    "Number": ".rules.hyperparameters",
    "Rule": ".kernels.rules",
}
"""Where names other than those of the optimizers are defined."""


def _public() -> list[str]:
    optimizers = import_module(".optim", __name__)
    return ["__version__", *_HOMES, *(name for name in vars(optimizers) if name.startswith("Gpu"))]


def __dir__() -> list[str]:
    return sorted({*globals(), *_public()})


def __getattr__(name: str) -> Any:
    # Imported at first use, so that `import gpu_adam` costs little more than `import numpy`.
    if name == "__all__":
        return _public()
    if name == "schedules":
        return import_module(".schedules", __name__)
    if name in _HOMES or name.startswith("Gpu"):
        home = import_module(_HOMES.get(name, ".optim"), __name__)
        if hasattr(home, name):
            return getattr(home, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
