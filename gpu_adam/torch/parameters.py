"""Which parameters may be updated, and with which options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .access import is_flattened, is_shard

_NORMS = ("max_grad_norm", "skip_nonfinite", "group_norms")


def takes_part(param: Tensor) -> bool:
    """Whether a parameter may be updated: without memory only one with a gradient, which the engine then refuses."""
    return (param.is_floating_point() or param.is_complex()) and (not param.is_meta or param.grad is not None)


def refuse_lazy(members: Sequence[Sequence[Tensor]]) -> None:
    """Raise `ValueError` for a complex parameter that is to be computed from what lies in memory: its parts there are others."""
    for group, own in enumerate(members):
        for k, p in enumerate(own):
            if p.is_complex() and (p.is_conj() or p.is_neg()):
                what, remedy = ("conjugate", "resolve_conj") if p.is_conj() else ("negation", "resolve_neg")
                raise ValueError(
                    f"parameter {k} of group {group} is a lazy {what} of what lies in memory: use its {remedy}()"
                )


def refuse_unfit(params: Sequence[Tensor], is_plain: bool, options: Mapping[str, Any]) -> None:
    """Raise `ValueError` for options that the parameters do not go with."""
    if options.get("pack") and not (is_plain and not any(map(is_flattened, params))):
        raise ValueError(
            "pack=True moves the parameters' memory, which complex, distributed and FSDP's tensors do not follow: use pack=False"
        )
    asked = [name for name in _NORMS if options.get(name) not in (None, False)]
    if asked and any(map(is_shard, params)):
        raise ValueError(
            f"{asked[0]} goes by the norm of the gradients, of which each rank has a part here: "
            "use torch.nn.utils.clip_grad_norm_ before the step"
        )
