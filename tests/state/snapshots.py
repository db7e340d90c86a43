"""All that a step depends on, byte for byte, and tests that nothing of it has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


def everything(optimizer: Any) -> dict[str, Any]:
    """All that a step depends on, byte for byte."""
    states = dict.fromkeys(one.state for one in optimizer._params if one.place is not None)
    buckets = [{name: host_bytes(state, name) for name in sorted(state._memories)} for state in states]
    return {
        "buckets": buckets,
        "params": [np.array(p).tobytes() for one in optimizer._params for p in [one.ref.array]],
        "steps": optimizer._dispatcher.read_steps().tolist(),
        "groups": repr(optimizer.param_groups),
        "keys": [list(group) for group in optimizer.param_groups],
        "skipped": optimizer.steps_skipped,
        "executor": optimizer._dispatcher.executor,
        "memory": [one.address("exp_avg") for one in optimizer._params],
    }


def host_bytes(state: Any, name: str) -> bytes:
    return bytes(state.engine.download(state._memories[name], 0, state._memories[name].nbytes))


def unchanged(optimizer: Any, act: Callable[[], Any], error: type[BaseException], message: str | None = None) -> None:
    before = everything(optimizer)
    with pytest.raises(error, match=message):
        act()
    assert everything(optimizer) == before
