"""Which engine works on a parameter, and where its state lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import ArrayRef, to_host
from ..device import Device
from ..engines import Engine, engine_named, gpu_engine
from ..errors import EngineUnavailable
from ..kernels.abi import MAX_DIMS
from ..plan.layout import Extent
from ..plan.layout import pack as buckets_of
from ..rules.algorithm import Hyperparameters
from ..strides import walk
from .buckets import BucketState
from .parameter import AVERAGE, Place, Placed, states_of


def engines_for(
    refs: Sequence[tuple[str, ArrayRef]], *, engine: str, pack: bool, shipped: bool
) -> Mapping[Device, Engine]:
    """The engine for each device that parameters are on, after a check that all of them can be worked on.

    Args:
        refs: What to call each parameter in an error, and its array.
        engine: The engine's name, or ``"auto"``.
        pack: Whether the parameters themselves will lie in the buckets.
        shipped: Whether the update rule comes with this package.

    Raises:
        TypeError: For ``pack`` and an array of an unknown library.
        ValueError: For ``pack`` and a tensor that takes no gradient of its own dtype; if the engine does not work where a parameter lies,
            or its strides are too many.
        EngineUnavailable: If the engine cannot run here.
    """
    engines: dict[Device, Engine] = {}
    for label, ref in refs:
        # Once a device: where CuPy is absent, each answer asks the driver and looks for packages.
        if ref.device not in engines:
            engines[ref.device] = _engine_for(engine, ref.device, label, shipped)
        if pack and not ref.library.makes_parameters:
            raise TypeError(
                f"{label} is a {type(ref.array).__name__}: pack=True works with NumPy, CuPy, Numba and torch arrays"
            )
        dims = len(walk(ref.shape, ref.strides, ref.strides).shape)
        if dims > MAX_DIMS:
            raise ValueError(f"{label} needs {dims} strided dimensions: at most {MAX_DIMS} are supported")
    return engines


def place(params: Sequence[Placed], *, aligned: bool = False) -> None:
    """Give parameters their places, one bucket for each kind among them; nothing is allocated, read or changed.

    Args:
        params: Parameters without places.
        aligned: Whether the parameters themselves will lie in the buckets (``pack=True``).
    """
    by_index = {one.index: one for one in params}
    extents = [
        Extent(one.index, one.ref.device, one.ref.format, one.ref.shape, one.ref.strides, one.ref.address, one.master)
        for one in params
    ]
    for bucket in buckets_of(extents, aligned=aligned):
        state = BucketState(bucket, by_index[bucket.segments[0].index].engine)
        for segment in bucket.segments:
            by_index[segment.index].place = Place(state, segment)


def begin_states(
    params: Sequence[Placed], steps: NDArray[np.int64], hyper: Sequence[Hyperparameters], *, averages: bool
) -> None:
    """Have room for what the rules keep; of parameters that were never stepped, begin it.

    Args:
        params: The parameters.
        steps: The step counts of all parameters of the optimizer.
        hyper: The groups' hyperparameters.
        averages: Whether an average of the parameters is kept.
    """
    place([one for one in params if one.place is None])
    kept = {(one.state, name) for one in params for name in hyper[one.group].initial if one.has(name)}
    for one in params:
        own = hyper[one.group]
        copies = [name for name, wanted in (("master", one.master), (AVERAGE, averages)) if wanted]
        one.state.ensure((*own.rule.states, *copies))
        if steps[one.index] or one.loaded:
            continue
        # Begun now and not earlier: the parameter may have been loaded or initialised since it was handed over.
        for name in copies:
            one.write(name, to_host(one.ref.array))
        for name, value in own.initial.items():
            # New memory is zero.
            if value != 0.0 or (one.state, name) in kept:
                one.write(name, np.full(one.ref.shape, value, one.ref.format.working.dtype))


def pack_in(params: Sequence[Placed]) -> dict[int, Any]:
    """Move parameters into buckets of their own.

    Returns:
        The views of their gradients, by the parameters' numbers.

    Raises:
        ValueError: For a torch tensor whose gradient cannot lie in a bucket.
    """
    for one in params:
        _check_bindable(one.ref, one.label)
    place(params, aligned=True)
    try:
        # All memory first: where there is too little of it, nothing has changed.
        for state in states_of(params):
            state.ensure(("param", "grad"))
    except BaseException:
        for one in params:
            one.place = None
        raise
    for one in params:
        one.move_into_bucket()
    return {one.index: one.bind_gradient() for one in params}


def _engine_for(name: str, device: Device, label: str, shipped: bool) -> Engine:
    if name == "auto" and device.kind == "cpu":
        return engine_named("cpu")
    if name == "auto":
        return gpu_engine() if shipped else engine_named("numba")
    if name == "cupy" and not shipped:
        raise EngineUnavailable(
            "engine='cupy' runs rules that are written in CUDA C++, and this one is given in Python: use engine='numba'"
        )
    engine = engine_named(name)
    if engine.kind != device.kind:
        raise ValueError(
            f"{label} lives on {device}, where engine={name!r} does not work: move the array, or use engine='auto'"
        )
    return engine


def _check_bindable(ref: ArrayRef, label: str) -> None:
    """Nothing, if a torch tensor's ``.grad`` may be a view of a bucket of its dtype, and what is there can be copied into it.

    Raises:
        ValueError: If not.
    """
    if not ref.library.holds_gradients or not ref.array.is_leaf:
        return
    wanted = getattr(ref.array, "grad_dtype", ref.array.dtype)  # None: any; absent before PyTorch 2.10
    if wanted not in (None, ref.array.dtype):
        raise ValueError(
            f"{label} has grad_dtype {wanted}, and pack=True keeps gradients in {ref.array.dtype}: set grad_dtype to that, or to None"
        )
    gradient = ref.array.grad
    if gradient is not None and gradient.is_sparse:
        raise ValueError(f"{label} has a sparse .grad, and pack=True keeps dense ones: set it to None, or to_dense()")
