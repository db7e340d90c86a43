"""One run: an epoch after another, a checkpoint after each, the result in a file of its own at the end."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any
from zlib import crc32

import numpy as np

import gpu_adam
from gpu_adam.arrays import to_host
from gpu_adam.schedules import inverse_sqrt
from gpu_adam.train.backend import Backend

from .data import Data
from .models import Model, Perceptron, SparseLogistic
from .settings import Run
from .vae import Autoencoder

Result = dict[str, Any]
"""``costs`` of the epochs, ``diverged`` (the epoch whose cost is not finite, or ``None``), ``seconds``."""

DIGITS = 5
"""Significant digits of the costs that are kept."""


def build(run: Run, data: Data, backend: Backend) -> Model:
    """A run's model, with its data."""
    if run.examples is not None:
        data = data.first(run.examples)
    if run.kind == "convolutional":
        from .cnn import Convolutional  # torch is asked for where it is needed

        return Convolutional(data, "cpu" if backend.xp is np else "cuda", **run.model)
    kinds = {"perceptron": Perceptron, "sparse-logistic": SparseLogistic, "autoencoder": Autoencoder}
    return kinds[run.kind](data, backend.xp, **run.model)


def train(
    run: Run, data: Data, backend: Backend, folder: Path, after_epoch: Callable[[], None] = lambda: None
) -> Result:
    """Do a run, or what is left of it.

    Args:
        run: What to do.
        data: The data set.
        backend: Where to do it.
        folder: Where results and checkpoints are kept.
        after_epoch: Called after each epoch that is in its checkpoint.

    Returns:
        The result: as it was found in its file, or computed, and written.
    """
    done = finished(run, folder)
    if done is not None:
        return done
    state = _read(run, folder)
    model = build(run, data, backend)
    # All optimizers of an experiment begin alike and see the same batches and the same noise.
    random = np.random.default_rng([crc32(run.experiment.encode()), run.revision])
    initial = model.initial(random)
    params = model.place(state["params"] if state else initial)
    opt = _optimizer(run, params, backend)
    # Packing moved arrays that are not torch's.
    params = {name: array for group in opt.params for name, array in group.items()}
    grads = {name: array for group in opt.grads for name, array in group.items()}
    costs: list[float] = []
    seconds = 0.0
    if state:
        opt.load_state_dict(state["optimizer"])
        random.bit_generator.state = state["random"]
        costs, seconds = state["costs"], state["seconds"]

    diverged = None
    with np.errstate(all="ignore"):  # settings that are too large are part of a grid
        while len(costs) < run.epochs:
            start = perf_counter()
            cost = _epoch(run, model, opt, params, grads, random)
            seconds += perf_counter() - start
            if not isfinite(cost):
                diverged = len(costs) + 1
                break
            costs.append(cost)
            if len(costs) < run.epochs:
                _write(
                    _checkpoint(run, folder),
                    pickle.dumps(
                        {
                            "params": {name: np.array(to_host(array)) for name, array in params.items()},
                            "optimizer": opt.state_dict(),
                            "random": random.bit_generator.state,
                            "costs": costs,
                            "seconds": seconds,
                        }
                    ),
                )
            after_epoch()
    result = {
        "costs": [float(f"{cost:.{DIGITS}g}") for cost in costs],
        "diverged": diverged,
        "seconds": round(seconds, 1),
    }
    _write(_result(run, folder), json.dumps(result).encode())
    _checkpoint(run, folder).unlink(missing_ok=True)
    return result


def finished(run: Run, folder: Path) -> Result | None:
    """The result of a run that was done before."""
    path = _result(run, folder)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _optimizer(run: Run, params: dict[str, Any], backend: Backend) -> Any:
    weights = {name: array for name, array in params.items() if name.startswith("w")}
    biases = {name: array for name, array in params.items() if name not in weights}
    groups = [{"params": weights, "weight_decay": run.l2}, {"params": biases}] if run.l2 else [{"params": params}]
    arguments = dict(run.arguments)
    if run.decays:
        arguments["lr"] = inverse_sqrt(arguments["lr"])
    return getattr(gpu_adam, run.optimizer)(groups, pack=True, engine=backend.engine, **arguments)


def _epoch(run: Run, model: Model, opt: Any, params: Any, grads: Any, random: np.random.Generator) -> float:
    """The mean cost of all examples, each in its batch at the parameters before that batch's step."""
    order = random.permutation(len(model))
    costs, sizes = [], []
    for start in range(0, len(order), run.batch):
        chosen = order[start : start + run.batch]
        costs.append(model.backward(params, grads, chosen, random))
        opt.step()
        sizes.append(len(chosen))
    # Fetched once an epoch, since a GPU would stand still for each.
    return float(np.average(model.fetch(costs), weights=sizes))


def _result(run: Run, folder: Path) -> Path:
    return folder / run.experiment / f"{run.key}.json"


def _checkpoint(run: Run, folder: Path) -> Path:
    return folder / run.experiment / f"{run.key}.checkpoint"


def _read(run: Run, folder: Path) -> dict[str, Any] | None:
    path = _checkpoint(run, folder)
    return pickle.loads(path.read_bytes()) if path.is_file() else None


def _write(path: Path, content: bytes) -> None:
    """All of a file or nothing: whoever stops the program finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, path)
