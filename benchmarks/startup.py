"""What only a new process can show: the time of the import and of the first step, and the peak memory of a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from statistics import median
from typing import Any

from .libraries import has_torch
from .runner import environment

_IMPORT = """
import json
from time import perf_counter
import numpy
start = perf_counter()
import gpu_adam
imported = perf_counter()
from gpu_adam import GpuAdam
print(json.dumps({"import": imported - start, "with GpuAdam": perf_counter() - start}))
"""

_FIRST_STEP = """
import json
from time import perf_counter
import numpy as np
start = perf_counter()
from gpu_adam import GpuAdam
p, g = np.ones(1000, np.float32), np.ones(1000, np.float32)
GpuAdam([p], engine="cpu", pack=%r).step([g])
print(json.dumps({"seconds": perf_counter() - start}))
"""

# The first steps allocate the state and compile; what the next one adds to the peak is its own.
_PEAK = """
import json
import numpy as np
n = %d
p, g = np.ones(n, np.float32), np.ones(n, np.float32)
%s
def memory(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return 1024 * int(line.split()[1])
step()
step()
open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from what is there now
before = memory("VmRSS")
step()
print(json.dumps({"bytes": max(0, memory("VmHWM") - before)}))
"""

_PEAK_STEPS = {
    "GpuAdam in place": """
from gpu_adam import GpuAdam
opt = GpuAdam([p], engine="cpu")
opt.grads = [g]
step = opt.step
""",
    "GpuAdam packed": """
from gpu_adam import GpuAdam
opt = GpuAdam([p], engine="cpu", pack=True)
opt.grads[0][...] = g
step = opt.step
""",
    "NumPy": """
m, v = np.zeros_like(p), np.zeros_like(p)
def step():
    global p, m, v
    m *= 0.9
    m += 0.1 * g
    v *= 0.999
    v += 0.001 * g * g
    p -= 1e-3 * m / (np.sqrt(v) + 1e-8)
""",
}
_TORCH_PEAK = """
import torch
t = torch.from_numpy(p).requires_grad_()
t.grad = torch.from_numpy(g)
step = torch.optim.Adam([t], fused=%r, foreach=%r).step
"""


def measure(repeats: int, elements: int) -> dict[str, Any]:
    """Medians over new processes.

    Args:
        repeats: Processes for each figure.
        elements: Of the parameter whose step's peak memory is measured.

    Returns:
        Seconds over ``import numpy`` under ``"import"`` and ``"import GpuAdam"``; seconds from before the import to the end of the first
        step under ``"first step cold"`` and ``"first step warm"``, the slower of packed and in place; and under ``"peak"`` for each
        contender the bytes that a step needs beside its arrays, as a share of the parameter's; ``None`` where the system does not tell.
    """
    imports = [_run(_IMPORT) for _ in range(repeats)]
    figures: dict[str, Any] = {
        "import": median(one["import"] for one in imports),
        "import GpuAdam": median(one["with GpuAdam"] for one in imports),
    }
    cold: dict[bool, list[float]] = {False: [], True: []}
    warm: dict[bool, list[float]] = {False: [], True: []}
    for pack in (False, True):
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                for seconds in (cold, warm):
                    seconds[pack].append(_run(_FIRST_STEP % pack, {"GPU_ADAM_CACHE_DIR": folder})["seconds"])
    figures["first step cold"] = max(map(median, cold.values()))
    figures["first step warm"] = max(map(median, warm.values()))
    figures["peak"] = {name: _peak(elements, step) for name, step in _peak_steps().items()}
    return figures


def _peak_steps() -> dict[str, str]:
    steps = dict(_PEAK_STEPS)
    if has_torch():
        steps["torch fused"] = _TORCH_PEAK % (True, False)
        steps["torch foreach"] = _TORCH_PEAK % (False, True)
        steps["torch loop"] = _TORCH_PEAK % (False, False)
    return steps


def _peak(elements: int, step: str) -> float | None:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    return float(_run(_PEAK % (elements, step))["bytes"] / (4 * elements))


def _run(program: str, added: Mapping[str, str] | None = None) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(added), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"a measured program failed with status {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout)
