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

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engines import EngineUnavailable
    from .optimizer import GpuAdam

__version__ = "0.1.0"
__all__ = ["EngineUnavailable", "GpuAdam", "__version__"]

_HERE = Path(__file__).resolve().parent
if not (_HERE / "kernels").exists() and (_HERE.parent / "kernels" / "rules.py").exists():
    # A bare checkout: `kernels` lies beside this folder and becomes `gpu_adam.kernels` on installation only.
    __path__.append(str(_HERE.parent))

_HOMES = {"GpuAdam": ".optimizer", "EngineUnavailable": ".engines"}


def __getattr__(name: str) -> Any:
    # Imported at first use, so that `import gpu_adam` costs little more than `import numpy`.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name], __name__), name)
