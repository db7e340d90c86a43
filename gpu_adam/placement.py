"""Which engine works on a parameter, and where its state lies."""

from __future__ import annotations

from collections.abc import Sequence

from .arrays import ArrayRef
from .binding import check_bindable
from .engines import Engine, EngineUnavailable, engine_named, gpu_engine
from .layout import MAX_DIMS, Device, Extent, walk
from .layout import pack as buckets_of
from .state import BucketState, Placed


def place(
    refs: Sequence[tuple[int, str, ArrayRef]],
    base: int,
    *,
    engine: str,
    pack: bool,
    master_weights: bool,
    average: bool,
    shipped: bool,
) -> list[Placed]:
    """Parameters with room for their state but for the moments, in their own order; nothing of them is read or changed.

    Args:
        refs: Each parameter's group, what errors call it, and its array.
        base: The first one's number.
        engine: The engine's name, or ``"auto"``.
        pack: Whether the parameters themselves will lie in the buckets.
        master_weights: Whether 16-bit parameters keep a float32 copy.
        average: Whether an average is kept.
        shipped: Whether the update rule comes with this package.

    Raises:
        TypeError: For ``pack`` and an array of an unknown library.
        ValueError: For ``pack`` and a tensor that takes no gradient of its own dtype; if the engine does not work where a parameter lies,
            or its strides are too many.
        EngineUnavailable: If the engine cannot run here.
    """
    engines: dict[Device, Engine] = {}
    for _, label, ref in refs:
        # Once a device: where CuPy is absent, each answer asks the driver and looks for packages.
        if ref.device not in engines:
            engines[ref.device] = _engine_for(engine, ref.device, label, shipped)
    extents = [_extent(base + k, label, ref, pack, master_weights) for k, (_, label, ref) in enumerate(refs)]
    placed = []
    for bucket in buckets_of(extents, aligned=pack):
        state = BucketState(bucket, engines[bucket.device])
        kept = {"param": pack, "grad": pack, "master": bucket.master, "average": average}
        state.ensure(name for name, wanted in kept.items() if wanted)
        for segment in bucket.segments:
            placed.append(Placed(segment.index, *refs[segment.index - base], state, segment))
    return sorted(placed, key=lambda one: one.index)


def _extent(index: int, label: str, ref: ArrayRef, pack: bool, master_weights: bool) -> Extent:
    if pack and ref.family == "foreign":
        raise TypeError(
            f"{label} is a {type(ref.array).__name__}: pack=True works with NumPy, CuPy, Numba and torch arrays"
        )
    if pack:
        check_bindable(ref, label)
    dims = len(walk(ref.shape, ref.strides, ref.strides).shape)
    if dims > MAX_DIMS:
        raise ValueError(f"{label} needs {dims} strided dimensions: at most {MAX_DIMS} are supported")
    master = master_weights and ref.format.itemsize == 2
    return Extent(index, ref.device, ref.format, ref.shape, ref.strides, ref.address, master)


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
