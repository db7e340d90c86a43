"""The keys of a group: hyperparameters, what users and their schedulers keep there, and what is neither but looks like the first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

HYPERPARAMETERS = frozenset({
    "lr", "betas", "eps", "weight_decay", "decoupled_weight_decay", "maximize", "amsgrad", "bias_correction",
    "eps_hat", "momentum", "dampening", "nesterov", "alpha", "centered", "rho", "lr_decay",
    "initial_accumulator_value", "momentum_decay", "foreach", "fused", "capturable", "differentiable", "etas",
    "step_sizes", "lambd",
})  # fmt: skip
"""Those of the optimizers here and in PyTorch. A key that another optimizer reads is one that this optimizer does not."""

_OTHER_NAMES = frozenset({
    "learningrate", "learnrate", "steplr", "stepsize", "beta", "beta1", "beta2", "epsilon", "wd", "decay", "l2",
    "l2decay", "l2penalty", "regularization", "gamma", "mu", "adamw", "decoupled", "maxgradnorm", "clip", "gradclip",
    "warmup", "lrate", "maxnorm", "gradnorm", "decoupledwd", "emadecay", "ema", "polyakaverage", "skipnonfinite", "pack",
    "engine", "masterweights", "groupnorms", "schedule", "parameters", "parameter",
})  # fmt: skip
"""What papers and other libraries call them, and what is chosen for the whole optimizer, without underscores."""

_USERS = frozenset({
    "params", "name", "names", "param_names", "initial_lr", "max_lr", "min_lr", "base_lr", "swa_lr", "lr_scale",
    "lr_mult", "decay_mult", "wd_mult", "max_momentum", "min_momentum", "base_momentum", "initial_betas",
    "initial_weight_decay", "layer_id", "group_name", "use_muon",
})  # fmt: skip
"""What schedulers, trainers and users are known to keep in a group."""


def unknown_keys(group: Iterable[str], keys: Sequence[str]) -> list[str]:
    """The keys of a group that are no hyperparameters of its optimizer and look as if they were meant to be.

    Args:
        group: The keys of the group.
        keys: The optimizer's hyperparameters.

    >>> unknown_keys(["params", "lr", "initial_lr", "lr_scale", "tag", "_eps"], ["lr", "eps"])
    []
    >>> unknown_keys(["Lr", "learning_rate", "esp", "momentum"], ["lr", "eps"])
    ['Lr', 'learning_rate', 'esp', 'momentum']
    """
    return [key for key in group if key not in keys and key not in _USERS and _looks_meant(key, keys)]


def _looks_meant(key: str, keys: Sequence[str]) -> bool:
    if not isinstance(key, str):
        return True
    if key in HYPERPARAMETERS:
        return True
    if key.startswith("_"):
        return False
    plain = _plain(key)
    known = [*map(_plain, keys), "params"]
    # Letters that have changed places count for more than such a comparison gives them in short keys.
    swapped = sorted(plain) in map(sorted, known)
    return (
        plain in _OTHER_NAMES
        or swapped
        or bool(get_close_matches(plain, known, n=1, cutoff=0.75))
        or bool(get_close_matches(plain, _OTHER_NAMES, n=1, cutoff=0.85))
    )


def _plain(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "")
