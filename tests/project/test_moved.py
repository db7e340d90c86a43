"""Import paths of before, which lead on."""

from __future__ import annotations

import subprocess
import sys

import pytest

RULES = ("adadelta", "adagrad", "adam", "adamax", "nadam", "sgd")


@pytest.mark.parametrize(
    "code",
    [
        *(f"import gpu_adam.kernels.{rule}; print(gpu_adam.kernels.{rule}.{rule.upper()}.name)" for rule in RULES),
        "import gpu_adam.kernels.adam; print(gpu_adam.kernels.adam.GpuAdam.__name__)",
        "import gpu_adam.kernels.rmsprop; print(gpu_adam.kernels.rmsprop.GpuRmsProp.__name__)",
        "from gpu_adam.kernels import adam; print(adam.GpuAdam.__name__)",
        "import gpu_adam; print(gpu_adam.schedules.__name__)",
    ],
)
def test_a_module_is_an_attribute_of_its_package(code: str) -> None:
    # In a process of its own: others import what they like.
    subprocess.run([sys.executable, "-c", code], check=True)
