"""What a user, or a checkpoint, has put into the state of a parameter: checked before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import step_count
from ..messages import a_kind, listed
from ..rules.algorithm import Algorithm
from ..state.parameter import AVERAGE
from .access import access_of, is_distributed, whole

COPIES = frozenset(("master", AVERAGE))
"""Arrays beside the rule's states, which begin as copies of the parameter where a state lacks them."""


@dataclass(frozen=True)
class Found:
    """A parameter's state that somebody has put there.

    Attributes:
        step: The step count.
        arrays: The states by name, dense and real, of the shape in which the engine sees the parameter.
    """

    step: int
    arrays: dict[str, Tensor]


def working_dtype(param: Tensor) -> torch.dtype:
    """The format in which a parameter's real numbers are computed, and its state is kept."""
    return torch.float64 if param.dtype in (torch.float64, torch.complex128) else torch.float32


def read_entry(
    entry: Any, param: Tensor, label: str, algorithm: Algorithm, required: tuple[str, ...], counted: int
) -> Found | None:
    """The state in an entry, or ``None`` where it has none that is begun.

    Args:
        entry: What is in the state under the parameter.
        param: The parameter.
        label: What errors call it.
        algorithm: Whose states they are.
        required: The states that must be there.
        counted: What counts where PyTorch's optimizer of the same name counts no steps, and the entry has no count.

    Raises:
        TypeError: If it is no dict, or a state no tensor.
        ValueError: If a state is missing, has another shape than the parameter or no float dtype, is sparse or on the meta device, or
            has a number that the working format does not hold.
    """
    if entry is None:
        return None
    if not isinstance(entry, Mapping):
        raise TypeError(f"state of {label} is {a_kind(entry)}: must be a dict")
    arrays = {name: entry[name] for name in (*algorithm.states, *COPIES) if entry.get(name) is not None}
    step = entry.get("step")
    if not arrays and step is None:
        return None
    t = counted if step is None and algorithm.uncounted else step_count(0 if step is None else step, label)
    missing = [name for name in required if name not in arrays]
    if missing and t == 0 and not arrays:
        return None
    if step is None and not algorithm.uncounted:
        missing.insert(0, "step")
    if missing:
        raise ValueError(f"state of {label} lacks {listed(missing)}")
    return Found(t, {name: _checked(value, name, param, label) for name, value in arrays.items()})


def _checked(value: Any, name: str, param: Tensor, label: str) -> Tensor:
    access = access_of(param)
    if not isinstance(value, Tensor):
        try:
            with torch.device("cpu"):  # whatever the default device is
                value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"state's {name} of {label} is {a_kind(value)}: must be a tensor") from None
    local = param.to_local() if is_distributed(param) else param
    shapes = {param.shape, local.shape}
    if value.shape not in shapes:
        raise ValueError(f"state's {name} of {label} has shape {tuple(value.shape)}: must be {tuple(param.shape)}")
    if not (value.is_floating_point() or (value.is_complex() and param.is_complex())):
        allowed = "a float or complex dtype" if param.is_complex() else "a float dtype"
        raise ValueError(f"state's {name} of {label} has dtype {value.dtype}: must be {allowed}")
    if value.is_meta or value.layout is not torch.strided:
        where = "on device meta" if value.is_meta else f"of layout {value.layout}"
        raise ValueError(f"state's {name} of {label} is {where}: must be a dense tensor with memory")
    value = value.detach()
    _refuse_beyond(value, working_dtype(param), f"state's {name} of {label}")
    return access.taken(param, value)


def _refuse_beyond(value: Tensor, working: torch.dtype, what: str) -> None:
    """Raise `ValueError` for a finite number that would become infinite in the working format."""
    if working is torch.float64 or value.dtype not in (torch.float64, torch.complex128):
        return
    sizes = whole(torch.view_as_real(value).abs() if value.is_complex() else value.abs())
    most = torch.finfo(working).max
    beyond = sizes[sizes.isfinite() & (sizes > most)]
    if beyond.numel():
        raise ValueError(
            f"{what} has {beyond[0].item()!r}, which {working} has no place for: must be at most {most!r}, or infinite"
        )
