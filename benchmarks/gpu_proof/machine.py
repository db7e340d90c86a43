"""What the proof runs on and with; a part of its own, since asking a GPU may hang too."""

from __future__ import annotations

from typing import Any

from gpu_adam.doctor import find_machine

from .. import machine
from ..record import LeftOut, Report

OTHERS = ("jax", "optax", "pytest", "pytest-xdist", "matplotlib", "scikit-learn")

DRY_GPU = "none (dry run)"


def run(report: Report, arguments: dict[str, Any]) -> None:
    """Tell of the machine, the versions and the source.

    Raises:
        LeftOut: If there is no GPU and it is no dry run.
    """
    if report.dry_run:
        found = {**machine.machine("cpu"), "gpu": DRY_GPU, "driver": None}
    else:
        here = find_machine()
        if not here.gpus:
            raise LeftOut(f"no GPU was found ({here.no_gpu})")
        found = {**machine.machine("cuda"), **machine.gpu_properties()}
    report.result |= {
        "machine": found,
        "versions": machine.versions(OTHERS),
        "commit": machine.commit(),
        "source": machine.digest(),
    }
