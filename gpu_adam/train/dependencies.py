"""What the job needs beyond the package's own dependencies, and what to do where it is missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class MissingDependency(ImportError):
    """A package of the extra ``train`` is not installed; the message says which, and names the remedy."""


def require(module: str) -> Any:
    """A module of an optional dependency, imported.

    Raises:
        MissingDependency: If it cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = {"sklearn": "scikit-learn"}.get(module.partition(".")[0], module.partition(".")[0])
        raise MissingDependency(
            f"{package} is needed and cannot be imported ({error}): pip install 'gpu_adam[train]'"
        ) from error
