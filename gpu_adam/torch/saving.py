"""The state of a torch optimizer in the layout of a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..dtypes import FLOAT32, FLOAT64
from ..rules.algorithm import Algorithm
from ..state.checkpoint import scalars_of
from .entries import working_dtype
from .groups import Groups, values_of


def state_dict_of(state: Mapping[Any, Any], groups: Groups, algorithm: Algorithm) -> dict[str, Any]:
    """``"state"`` and ``"param_groups"`` of a state dict, the parameters by number; the tensors are those of the state.

    Args:
        state: The state. Of a parameter it may hold nothing, and other keys anything.
        groups: The groups.
        algorithm: The optimizer's: what PyTorch saves of a parameter beside its states is computed here.
    """
    params = list(chain.from_iterable(group["params"] for group in groups))
    numbers = {id(p): number for number, p in reversed(list(enumerate(params)))}
    group_of = {id(p): index for index, group in enumerate(groups) for p in group["params"]}
    saved: dict[Any, Any] = {}
    for key, entry in state.items():
        if not isinstance(key, Tensor):
            saved[key] = entry
        elif id(key) in numbers and entry:
            index = group_of[id(key)]
            saved[numbers[id(key)]] = _entry(entry, key, groups[index], f"param_groups[{index}]", algorithm)
    of_groups = [
        {
            **{key: value for key, value in group.items() if key != "params"},
            "params": [numbers[id(p)] for p in group["params"]],
        }
        for group in groups
    ]
    return {"state": saved, "param_groups": of_groups}


def _entry(entry: Any, param: Tensor, group: Mapping[str, Any], where: str, algorithm: Algorithm) -> Any:
    if not isinstance(entry, dict):
        return entry
    if not algorithm.scalars or "step" not in entry:
        return dict(entry)
    working = FLOAT64 if working_dtype(param) is torch.float64 else FLOAT32
    computed = scalars_of(algorithm, values_of(group, algorithm.keys, where), int(entry["step"]), working, where)
    return {
        **entry,
        **{name: torch.tensor(value, dtype=torch.float64, device="cpu") for name, value in computed.items()},
    }
