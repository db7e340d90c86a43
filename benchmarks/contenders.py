"""Who is measured: each makes its own copy of the parameters, and can step and show what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gpu_adam import EngineUnavailable, GpuAdam
from gpu_adam.arrays import to_host
from gpu_adam.engines import ENGINES, engine_named

from .cases import Case
from .limit import cpu_limit, gpu_limit

LR, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
LIMIT = "limit"
MOST_PASSED = 1 << 25
"""Elements up to which gradients are passed to a packed optimizer too; beyond, one more contender would cost gigabytes."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Start:
    """The values that all contenders of a case begin with, on the host."""

    case: Case
    params: list[Array]
    grads: list[Array]

    @classmethod
    def of(cls, case: Case) -> Start:
        """Normally distributed parameters, and gradients a hundredth of their size."""
        # One block, repeated: 64 Mi random numbers would take longer than most contenders.
        rng = np.random.default_rng(2014)
        block = rng.standard_normal(min(case.elements, 1_000_003), np.float32)
        dtype = BFLOAT16 if case.format == "bfloat16" else np.dtype(np.float32)

        def arrays(values: Array) -> list[Array]:
            flat = np.resize(values.astype(dtype), case.elements)
            bounds = np.cumsum([int(np.prod(shape)) for shape in case.shapes])[:-1]
            return [part.reshape(shape) for part, shape in zip(np.split(flat, bounds), case.shapes, strict=True)]

        return cls(case, arrays(block), arrays(block[::-1] * np.float32(0.01)))


@dataclass
class Contender:
    """One set of parameters, and one or more ways to step them.

    Attributes:
        steps: What to time, by label.
        params: The parameters, on the host, in float32; ``None`` for what computes nothing.
        master: Whether 16-bit parameters are kept in float32 as well.
    """

    steps: dict[str, Callable[[], Any]]
    params: Callable[[], list[Array]] | None = None
    master: bool = True
    taken: int = field(default=0, init=False)


# The libraries that hold the arrays.


class Host:
    """NumPy."""

    xp = np

    def put(self, array: Array) -> Any:
        """A copy that is independent of the start values."""
        return array.copy()

    def fill(self, view: Any, array: Array) -> None:
        """Write into an array."""
        view[...] = array

    def synchronize(self) -> None:
        """Nothing is behind."""


class Cupy:
    """CuPy."""

    def __init__(self) -> None:
        import cupy

        self.xp = cupy

    def put(self, array: Array) -> Any:
        """A copy on the device."""
        if array.dtype == BFLOAT16:  # as words, for CuPy versions that cannot copy it
            return self.xp.asarray(array.view(np.int16)).view(BFLOAT16)
        return self.xp.asarray(array)

    def fill(self, view: Any, array: Array) -> None:
        """Write into an array."""
        self.copy(view, self.put(array))

    def copy(self, to: Any, source: Any) -> None:
        """A copy on the device."""
        to[...] = source

    def synchronize(self) -> None:
        """Wait for the device."""
        self.xp.cuda.Device().synchronize()


class Numba:
    """Numba's device arrays."""

    def __init__(self) -> None:
        from numba import cuda

        self.cuda = cuda

    def put(self, array: Array) -> Any:
        """A copy on the device."""
        return self.cuda.to_device(array)

    def fill(self, view: Any, array: Array) -> None:
        """Write into an array."""
        view.copy_to_device(array)

    copy = fill

    def synchronize(self) -> None:
        """Wait for the device."""
        self.cuda.synchronize()


# The contenders.


def gpu_adam(start: Start, engine: str, library: Any) -> Iterator[Contender]:
    """`GpuAdam` in place and packed; gradients bound, and the same arrays handed to ``step`` each time."""

    def make(pack: bool) -> GpuAdam:
        return GpuAdam([library.put(p) for p in start.params], LR, BETAS, EPS, engine=engine, pack=pack)

    def params(optimizer: GpuAdam) -> Callable[[], list[Array]]:
        return lambda: [to_host(p).astype(np.float32) for p in optimizer.params]

    # The host's gradients are only read, so that they need not be copied for each contender.
    grads = start.grads if engine == "cpu" else [library.put(g) for g in start.grads]
    name = f"GpuAdam {engine}"
    in_place = make(pack=False)
    in_place.grads = grads
    steps = {f"{name} in place": in_place.step, f"{name} in place, grads passed": lambda: in_place.step(grads)}
    yield Contender(steps, params(in_place))
    packed = make(pack=True)
    for view, gradient in zip(packed.grads, start.grads, strict=True):
        library.fill(view, gradient)
    yield Contender({f"{name} packed": packed.step}, params(packed))
    if start.case.elements <= MOST_PASSED:
        # An optimizer of its own: passing and binding by turns would make another plan at each turn.
        passed = make(pack=True)
        yield Contender({f"{name} packed, grads passed": lambda: passed.step(grads)}, params(passed))


TORCH_WAYS = {
    "torch fused": {"fused": True, "foreach": False},
    "torch foreach": {"fused": False, "foreach": True},
    "torch loop": {"fused": False, "foreach": False},
}


def torch_adam(start: Start, device: str, ways: Sequence[str]) -> Contender:
    """PyTorch's Adam. For bfloat16 it has no master weights and keeps its moments in bfloat16: half the bytes, and a coarser result."""
    import torch

    def tensor(array: Array) -> Any:
        words = torch.from_numpy(array.view(np.int16) if array.dtype == BFLOAT16 else array)
        return (words.view(torch.bfloat16) if array.dtype == BFLOAT16 else words).to(device)

    params = [tensor(p.copy()).requires_grad_() for p in start.params]
    for p, g in zip(params, start.grads, strict=True):
        p.grad = tensor(g)
    # One optimizer for several ways, so that they share its state: the way is looked up at each step.
    optimizer = torch.optim.Adam(params, LR, BETAS, EPS, **TORCH_WAYS[ways[0]])

    def stepper(way: str) -> Callable[[], Any]:
        options = TORCH_WAYS[way]

        def step() -> None:
            optimizer.param_groups[0].update(options)
            optimizer.step()

        return step

    return Contender(
        {way: stepper(way) for way in ways},
        lambda: [p.detach().float().cpu().numpy() for p in params],
        master=False,
    )


def array_adam(start: Start, library: Any) -> Contender:
    """Adam as one writes it in NumPy, in place where that is easily said; CuPy runs the same lines."""
    xp = library.xp
    params, grads = ([library.put(a) for a in arrays] for arrays in (start.params, start.grads))
    masters = [p.astype(np.float32) for p in params] if start.case.format == "bfloat16" else params
    moments = [(xp.zeros(p.shape, np.float32), xp.zeros(p.shape, np.float32)) for p in params]
    (beta1, beta2), count = BETAS, 0

    def step() -> None:
        nonlocal count
        count += 1
        alpha, root = LR / (1 - beta1**count), sqrt(1 - beta2**count)
        for p, g, w, (m, v) in zip(params, grads, masters, moments, strict=True):
            g = g.astype(np.float32, copy=False)
            m *= beta1
            m += (1 - beta1) * g
            v *= beta2
            v += (1 - beta2) * g * g
            w -= alpha * m / (xp.sqrt(v) / root + EPS)
            if w is not p:
                p[...] = w

    name = "NumPy" if xp is np else "CuPy, the NumPy code"
    return Contender({name: step}, lambda: [to_host(p).astype(np.float32) for p in params])


def cpu_contenders(start: Start) -> Iterator[Contender]:
    """All that run on the CPU; the first of them is the limit."""
    yield Contender({LIMIT: cpu_limit(start.case)})
    yield from gpu_adam(start, "cpu", Host())
    if has_torch():
        yield torch_adam(start, "cpu", tuple(TORCH_WAYS))
    yield array_adam(start, Host())


def cuda_contenders(start: Start) -> Iterator[Contender]:
    """All that run on a GPU; the first of them is the limit."""
    libraries: dict[str, Any] = {}
    for name, library in (("cupy", Cupy), ("numba", Numba)):
        if name in engines_at_hand():
            libraries[name] = library()
    yield Contender({LIMIT: gpu_limit(start.case, next(iter(libraries.values())))})
    for name, library in libraries.items():
        if name == "numba" and start.case.format == "bfloat16":
            continue  # Numba's device arrays know no bfloat16
        yield from gpu_adam(start, name, library)
    if has_torch("cuda"):
        # Each with an optimizer of its own: on a GPU fused counts its steps there, and the others on the host.
        yield from (torch_adam(start, "cuda", (way,)) for way in TORCH_WAYS)
    if "cupy" in libraries:
        yield array_adam(start, libraries["cupy"])


def engines_at_hand() -> list[str]:
    """The engines that can run here."""
    found = []
    for name in ENGINES:
        try:
            engine_named(name)
        except EngineUnavailable:
            continue
        found.append(name)
    return found


def has_torch(device: str = "cpu") -> bool:
    """Whether torch can be imported, and has the device."""
    try:
        import torch
    except ImportError:
        return False
    return device == "cpu" or bool(torch.cuda.is_available())


def synchronizer(device: str) -> Callable[[], Any]:
    """What waits for the device, whichever library queued the work."""
    if device == "cpu":
        return lambda: None
    return (Cupy() if "cupy" in engines_at_hand() else Numba()).synchronize


# The check.


CHECKED_STEPS = 3
"""Steps of each way before anything is timed; the third is the first whose bias corrections are no special case."""

SAMPLE = 1 << 15
"""Elements of a tensor that are checked: Adam looks at each element alone, so a sample needs no other."""


@dataclass(frozen=True)
class Tolerance:
    """What is allowed: an error of the parameter's size for each rounding of it, and one of the step's size for each step."""

    rounding: float
    step: float


TOLERANCES = {
    # Half an ulp is 2^-24; the second number covers the moments' dozen roundings.
    "float32": Tolerance(2.0**-23, 1e-5),
    # bfloat16 keeps 2^-9. Without a master copy that is lost at each step, and the moments are as coarse.
    "bfloat16": Tolerance(2.0**-8, 2.0**-3),
}


class WrongResult(AssertionError):
    """A contender does not compute Adam."""


def check(contender: Contender, start: Start) -> None:
    """Step each way a few times, and compare with Adam in float64, computed here by the paper's formulas.

    Raises:
        WrongResult: If any checked element is off by more than ``TOLERANCES`` allow.
    """
    for step in contender.steps.values():
        for _ in range(CHECKED_STEPS):
            step()
            contender.taken += 1
    if contender.params is None:
        return
    tolerance = TOLERANCES[start.case.format]
    roundings = 1 if start.case.format == "bfloat16" and contender.master else contender.taken
    rng = np.random.default_rng(1412)
    for index, found in enumerate(contender.params()):
        theta, gradient = start.params[index].reshape(-1), start.grads[index].reshape(-1)
        n = theta.size
        places: Any = slice(None)
        if n > SAMPLE:
            ends = np.arange(SAMPLE // 4)
            places = np.unique(np.concatenate((ends, n - 1 - ends, rng.integers(0, n, SAMPLE // 2))))
        expected = _float64_adam(theta[places].astype(float), gradient[places].astype(float), contender.taken)
        error = np.abs(found.reshape(-1)[places] - expected)
        allowed = tolerance.rounding * roundings * np.abs(expected) + tolerance.step * LR * contender.taken
        if not (error <= allowed).all():
            label = next(iter(contender.steps))
            raise WrongResult(f"{label} on {start.case.name}: tensor {index} is off by as much as {error.max():.3g}")


def _float64_adam(theta: Array, gradient: Array, steps: int) -> Array:
    (beta1, beta2) = BETAS
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t in range(1, steps + 1):
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        theta = theta - LR * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + EPS)
    return theta
