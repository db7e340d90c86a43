"""A training run on the GPU, as `make train` makes it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..place import Place
from ..record import LeftOut, Report

EPOCHS = 60
DRY_EPOCHS = 2

WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16, loss scale, clipping": {"dtype": "bfloat16", "loss_scale": "dynamic", "max_grad_norm": 1.0},
}


class _Silent:
    """No progress is shown."""

    def update(self, n: int) -> None:
        pass

    def set_postfix_str(self, s: str, refresh: bool) -> None:
        pass


def run(report: Report, arguments: dict[str, Any]) -> None:
    """Train each way.

    Args:
        report: Gets accuracies, times and the losses' ends.
        arguments: ``"data_dir"``: a folder with MNIST's files; by default the digits of scikit-learn.

    Raises:
        LeftOut: Without the data, or CuPy, which the network needs.
    """
    from gpu_adam.dtypes import format_named
    from gpu_adam.train.backend import choose
    from gpu_adam.train.data import load_digits, load_idx
    from gpu_adam.train.loop import Options, train

    place = Place.gpu(report.dry_run)
    folder = arguments.get("data_dir")
    if folder is None and find_spec("sklearn") is None:
        raise LeftOut("scikit-learn is not installed, whose digits are the data; --data-dir names a folder with MNIST")
    if not (place.has_cupy or place.dry_run):
        raise LeftOut("CuPy is not installed, in which the network is computed")
    data = load_digits() if folder is None else load_idx(Path(folder))
    epochs = DRY_EPOCHS if report.dry_run else EPOCHS if folder is None else 3
    rows: list[dict[str, Any]] = []
    report.result |= {"data": data.name, "images": len(data.images), "rows": rows}
    for engine in place.engines:
        for name, options in WAYS.items():
            if report.seconds_left < 2.0:
                rows.append({"engine": engine, "way": name, "left_out": "the time was over"})
                continue
            dtype = format_named(options.get("dtype", "float32")).dtype
            found = train(data, choose(engine), Options(**{**options, "epochs": epochs, "dtype": dtype}), _Silent())
            rows.append(
                {
                    "engine": engine,
                    "way": name,
                    "epochs": epochs,
                    "steps": len(found.losses),
                    "parameters": found.parameters,
                    "seconds": found.seconds,
                    "step_seconds": float(np.median(found.step_seconds)),
                    "accuracy": found.accuracies[-1],
                    "first_loss": found.losses[0],
                    "last_loss": found.losses[-1],
                    "skipped": found.skipped,
                }
            )
            report.save()
