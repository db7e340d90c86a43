"""A state dict for pickling: nothing in it is a tensor that lives no longer than the dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .arrays import to_host


def lasting(saved: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A state dict as it may be sent to another process.

    PyTorch sends a tensor by naming the memory that it shares, and a copy that was made for the sending is gone before the other process
    looks for it. NumPy's arrays and Python's numbers are sent whole.

    Args:
        saved: The state dict, of copies.
        groups: The optimizer's groups, whose values outlive the sending.
    """
    state = {
        key: {name: to_host(value) if hasattr(value, "shape") else value for name, value in entry.items()}
        for key, entry in saved["state"].items()
    }
    kept = [
        {key: own[key] if key in own and key != "params" else value for key, value in group.items()}
        for group, own in zip(saved["param_groups"], groups, strict=True)
    ]
    return {**saved, "state": state, "param_groups": kept}
