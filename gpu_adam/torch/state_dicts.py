"""The state of a torch optimizer, saved and loaded: as a state dict, and in a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import torch

from .live_state import LiveState
from .loading import read_state_dict
from .saving import state_dict_of
from .stepping import StepLayer


class StateDictLayer(StepLayer):
    """What saves and loads the state, over what makes the steps."""

    @torch._disable_dynamo
    def state_dict(self) -> dict[str, Any]:
        """The state in PyTorch's layout, which `torch.optim`'s class of the same name loads as well.

        Returns:
            ``{"state": {number: {name: tensor}}, "param_groups": [...]}``; the tensors are those of `state`, not copies, as in PyTorch.
            Beside PyTorch's there are ``"master"`` and ``"average"`` where they are kept, and ``"steps_skipped"`` where steps were.
        """
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        saved = state_dict_of(self.state, self.param_groups, self._kind.algorithm)
        if self.steps_skipped:
            saved["steps_skipped"] = self.steps_skipped
        for after in self._optimizer_state_dict_post_hooks.values():
            result = after(self, saved)
            saved = saved if result is None else result
        return saved

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up a state; the next step is then the same to the bit.

        Float32 moments of 16-bit parameters stay float32, where PyTorch's optimizers round them.

        Parameters are matched by name where both have the same names, and else by their place; a state dict whose keys are names must have
        the optimizer's own, if it has any.

        Args:
            state_dict: Of this class, of `torch.optim`'s of the same name, of ``gpu_adam``'s, or of a distributed checkpoint, its
                parameters by number or by name; not modified.

        Raises:
            TypeError, ValueError: If it does not fit; nothing has changed then.
        """
        saved = copy(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            result = before(self, saved)
            saved = saved if result is None else result
        state, groups, skipped = read_state_dict(saved, self.param_groups, self.defaults, self._kind.algorithm)
        skipped += self._skipped_before - self.steps_skipped
        self.__setstate__({"state": LiveState(state), "param_groups": groups, "_skipped_before": skipped})
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        kept = {"_options": self._options, "_skipped_before": self.steps_skipped}
        if getattr(self, "_step_supports_amp_scaling", False):
            kept["_step_supports_amp_scaling"] = True
        return {**super().__getstate__(), **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_engine", None)
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
