"""Which modules the examples in docstrings are run of: those of `gpu_adam.torch` where there is PyTorch."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["gpu_adam/torch"]
