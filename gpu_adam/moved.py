"""Paths that documentation and pickles know, and that lead to other files now.

A rule and its optimizer were one file, such as ``gpu_adam.kernels.adam``. What is asked of such a module is looked up where it lies now:
the rule in ``kernels/rules/``, which knows no optimizer, and the optimizer in ``gpu_adam/optim/``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_RULES = ("adadelta", "adagrad", "adam", "adamax", "nadam", "rmsprop", "sgd")


class _Moved(ModuleType):
    """The module of a rule, by its former path; nothing is imported before something is asked of it."""

    # A data descriptor, which comes before what the instance has.
    __doc__ = property(lambda self: import_module(self._homes()[0]).__doc__)

    def _homes(self) -> tuple[str, str]:
        rule = self.__name__.rpartition(".")[2]
        return f"gpu_adam.kernels.rules.{rule}", f"gpu_adam.optim.{rule}"

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            for home in map(import_module, self._homes()):
                if hasattr(home, name):
                    return getattr(home, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def lead_on() -> None:
    """Have the former paths be importable."""
    kernels = import_module("gpu_adam.kernels")
    for rule in _RULES:
        name = f"gpu_adam.kernels.{rule}"
        module = sys.modules.setdefault(name, _Moved(name))
        setattr(kernels, rule, module)
