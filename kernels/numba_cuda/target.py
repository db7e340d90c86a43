"""What the Numba CUDA kernels ask of the machine that they run on, and what all of them share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numba import cuda

if TYPE_CHECKING:
    from gpu_adam.dtypes import Format
    from gpu_adam.kernels.specialization import Hint
    from gpu_adam.kernels.streams import Stream


@dataclass(frozen=True)
class Target:
    """What the kernels ask of the machine, so that the simulator can stand in for one: functions of `intrinsics.py` and `stream.py`.

    Attributes:
        fma, sqrt: Of the working format.
        mul: Of either working format, never contracted with what follows.
        load_word, store_word: ``(address) -> int64`` and ``(address, int64)``.
        load_fresh: ``(address) -> float64``, as other blocks have left it.
        count_in: ``(address) -> int64``: one more in the word that all blocks count in; what it was before.
        load, store: From ``(format, working)`` to ``(address) -> number`` and ``(address, number)``. A third argument says whether what is
            accessed is to leave the caches first.
        load_streams, store_streams: From ``(streams, working, lanes, hint)`` to ``(pointers, places, values, first)``; see `stream.py`.
        shift_streams: From ``(streams,)`` to ``(pointers, places) -> pointers``.
        load_pointers: ``(address, step) -> pointers``.
        load_packed: ``(address, words, first)``: 16 bytes into four int32.
        element: From ``(format, working)`` to ``(words, first, k) -> number``: the k-th of the elements in these 16 bytes.
    """

    fma: Callable[..., Any]
    sqrt: Callable[..., Any]
    mul: Callable[..., Any]
    load_word: Callable[..., Any]
    store_word: Callable[..., Any]
    load_fresh: Callable[..., Any]
    count_in: Callable[..., Any]
    load: Callable[..., Callable[..., Any]]
    store: Callable[..., Callable[..., Any]]
    load_streams: Callable[[Sequence[Stream], Format, int, Hint], Callable[..., Any]]
    store_streams: Callable[[Sequence[Stream], Format, int, Hint], Callable[..., Any]]
    shift_streams: Callable[[Sequence[Stream]], Callable[..., Any]]
    load_pointers: Callable[..., Any]
    load_packed: Callable[..., Any]
    element: Callable[[Format, Format], Callable[..., Any]]


def device_target() -> Target:
    """The GPU itself."""
    # Not imported above: the simulator has no intrinsics.
    from . import intrinsics as on
    from . import stream

    return Target(
        fma=on.fma,
        sqrt=math.sqrt,
        mul=on.mul,
        load_word=on.load_word,
        store_word=on.store_word,
        load_fresh=on.load_fresh,
        count_in=on.count_in,
        load=on.load,
        store=on.store,
        load_streams=stream.load_streams,
        store_streams=stream.store_streams,
        shift_streams=stream.shift_streams,
        load_pointers=stream.load_pointers,
        load_packed=on.load_packed,
        element=on.element,
    )


def inlined(function: Callable[..., Any]) -> Any:
    """A device function as part of its caller: Numba compiles a separate one for the current device, and there may be none."""
    return cuda.jit(function, device=True, inline="always")
