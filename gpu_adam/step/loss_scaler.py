"""The loss scale of mixed-precision training, kept and adapted on the device."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NoReturn, Protocol
from weakref import ref

import numpy as np

from ..arrays import ArrayRef
from ..casting import exact_casts
from ..checks import FINITE, MOST_WORDS, Range, real, whole
from ..dtypes import FLOAT32
from ..engines import Engine
from ..kernels.abi import (
    SCALER_BACKOFF,
    SCALER_GROWTH,
    SCALER_INTERVAL,
    SCALER_SCALE,
    SCALER_TRACKER,
    SCALER_WORDS,
    WORD,
)
from ..messages import a_kind, listed
from ..process.tracing import untraced

_KEYS = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
"""Those of PyTorch's GradScaler."""

_SCALES = Range(
    1.0 / FLOAT32.largest,
    FLOAT32.largest,
    has_high=True,
    words="positive and finite in float32, and its inverse too: from 2.94e-39 to 3.4e+38",
)
_GROWTH = Range(1.0, has_low=False, words="above 1")
_BACKOFF = Range(0.0, 1.0, has_low=False)

_MOST_TRACKED = 1 << 62
"""Steps since the scale was changed that a state may say; beyond that nobody lives to see the difference."""


class Scaled(Protocol):
    """What a loss scaler asks of the optimizer whose steps it is for."""

    def only_device(self, what: str) -> tuple[Engine, ArrayRef]:
        """The engine of the only device that the parameters are on, and one of them."""

    def ordered(self) -> AbstractContextManager[Any]:
        """A block: what is queued in it comes after the last step and before the next one."""


class LossScaler:
    """A dynamic loss scale, as in PyTorch's ``GradScaler``, without its synchronisation and its passes over memory.

    A step that is given the scaler divides its gradients by the scale. If their norm is not finite, or its square is beyond the format
    that the parameters are computed in, the step is skipped and the scale multiplied by ``backoff_factor``, unless its inverse would
    become infinite in float32 (below 2⁻¹²⁷); after ``growth_interval`` other steps it is multiplied by ``growth_factor``, unless it would
    become infinite. All of that happens on the device, and the host does not wait. There is nothing to call but the step: what PyTorch's
    does in ``step`` and ``update`` is done there.

    Args:
        optimizer: Whose steps it is for, and no other's; its parameters must be on one device, where the scale is kept.
        init_scale: The first scale; it and its inverse must be positive and finite in float32, in which it is kept.
        growth_factor: Above 1.
        backoff_factor: In (0, 1).
        growth_interval: Steps, at least 1.

    Raises:
        TypeError, ValueError: For a number out of its range, and for parameters on several devices or none.

    Example:
        >>> import numpy as np
        >>> from gpu_adam import GpuAdam, LossScaler
        >>> w = np.ones(3, np.float16)
        >>> opt = GpuAdam([w], lr=0.1)
        >>> scaler = LossScaler(opt, init_scale=1024.0)
        >>> opt.step([(scaler.current * w).astype(np.float16)], grad_scale=scaler)  # the gradient of w²/2, scaled
        >>> opt.step([np.full(3, np.inf, np.float16)], grad_scale=scaler)
        >>> scaler.get_scale(), opt.steps_skipped, float(w[0]) < 1
        (512.0, 1, True)
    """

    @untraced
    def __init__(
        self,
        optimizer: Scaled,
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        if not hasattr(optimizer, "param_groups") or not hasattr(optimizer, "only_device"):
            raise TypeError(
                f"optimizer is {a_kind(optimizer)}: must be an optimizer of gpu_adam, such as GpuAdam; "
                "for a torch.optim.Optimizer use torch.amp.GradScaler"
            )
        saved = dict(zip(_KEYS, (init_scale, growth_factor, backoff_factor, growth_interval, 0), strict=True))
        words = _words(saved)
        self._optimizer = ref(optimizer)
        self._engine, like = optimizer.only_device("a LossScaler")
        self._memory = self._engine.allocate(like.device, SCALER_WORDS * WORD)
        self._engine.upload(self._memory, 0, words)
        self.device = like.device
        self.current: Any = like.library.view(like.device, self.address, FLOAT32, (), (), self._memory.owner)
        """The scale as a 0-dimensional float32 array of the parameters' library, in the device's memory; it changes with the steps."""

    @property
    def optimizer(self) -> Scaled | None:
        """Whose steps it is for, as long as that lives."""
        return self._optimizer()

    @property
    def address(self) -> int:
        """Where its state lies."""
        return self._memory.address

    def scale(self, loss: Any) -> Any:
        """The loss times the scale, which the device reads; nothing is waited for."""
        optimizer = self.optimizer
        if optimizer is None:
            return loss * self.current
        # The last step, which may have changed the scale, may have been on another stream.
        with optimizer.ordered():
            return loss * self.current

    @untraced
    def get_scale(self) -> float:
        """The scale, for which it waits."""
        return float(self.state_dict()["scale"])

    @untraced
    def state_dict(self) -> dict[str, Any]:
        """The state, with the keys of PyTorch's GradScaler; it waits for the device."""
        words = self._engine.download(self._memory, 0, SCALER_WORDS * WORD)
        integers, numbers = words.view(np.int64), words.view(np.float64)
        values = (
            float(words[SCALER_SCALE * WORD :][:4].view(np.float32)[0]),
            float(numbers[SCALER_GROWTH]),
            float(numbers[SCALER_BACKOFF]),
            int(integers[SCALER_INTERVAL]),
            int(integers[SCALER_TRACKER]),
        )
        return dict(zip(_KEYS, values, strict=True))

    @untraced
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up a state, saved by `state_dict` or by PyTorch's GradScaler.

        Raises:
            TypeError, ValueError: If keys are missing or a number is out of its range; nothing has changed then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"the state of a loss scaler is {a_kind(state_dict)}: must be a dict")
        missing = [key for key in _KEYS if key not in state_dict]
        if missing:
            raise ValueError(f"the state of a loss scaler lacks {listed(missing)}")
        self._engine.upload(self._memory, 0, _words(state_dict))

    def __reduce__(self) -> NoReturn:
        # A copy would lie in the same memory, or belong to no optimizer.
        raise TypeError("a LossScaler is not copied: make another, and load this one's state_dict() into it")

    @untraced
    def __repr__(self) -> str:
        state = ", ".join(f"{key.lstrip('_')}={value!r}" for key, value in self.state_dict().items())
        return f"LossScaler({state})"


@exact_casts()
def _words(state: Mapping[str, Any]) -> Any:
    scale, growth, backoff = (real(state[key], key, FINITE) for key in _KEYS[:3])
    interval, tracker = (
        whole(state[key], key.lstrip("_"), least, MOST_WORDS) for key, least in zip(_KEYS[3:], (1, 0), strict=True)
    )
    _SCALES.check(scale, "scale")
    _GROWTH.check(growth, "growth_factor")
    _BACKOFF.check(backoff, "backoff_factor")
    words = np.zeros(SCALER_WORDS, np.int64)
    words.view(np.float32)[2 * SCALER_SCALE] = scale
    # It is counted up from there.
    words[SCALER_TRACKER], words[SCALER_INTERVAL] = min(tracker, _MOST_TRACKED), interval
    words.view(np.float64)[[SCALER_GROWTH, SCALER_BACKOFF]] = growth, backoff
    return words
