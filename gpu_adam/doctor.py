"""``gpu-adam doctor``: what is here, which engines can run, whether their bits are right, and how near to the memory's speed they come.

`examine` gathers, `describe` prints. The self-check compares with a reference of its own, which computes every operation exactly, as a
fraction, and rounds it once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import __version__, cache
from .algorithm import power
from .arrays import to_host
from .engines import ENGINES, EngineUnavailable, engine_named
from .formats import BFLOAT16, FLOAT16, FLOAT32, Format
from .optimizers import GpuAdam

PACKAGES = (
    "numpy", "numba", "ml_dtypes", "cupy-cuda12x", "cupy-cuda13x", "cupy", "numba-cuda", "cuda-core", "cuda-bindings",
    "nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc", "torch",
)  # fmt: skip
"""What the engines are made of, by the names that pip knows."""

CPU_ELEMENTS = 1 << 23
GPU_ELEMENTS = 1 << 26
"""Parameters of the step whose speed is measured: several times what caches hold."""

ROUNDS = 7

Array = NDArray[Any]


# What is found.


@dataclass(frozen=True)
class Machine:
    """The hardware and the driver.

    Attributes:
        system: The operating system and the architecture.
        cpu: The processor's name.
        processors: How many of them this process may use.
        gpus: The GPUs, by name.
        driver: The version of NVIDIA's driver, where there is one.
        gpus_from: What told about the GPUs; where nothing did, what was asked.
    """

    system: str
    cpu: str
    processors: int
    gpus: tuple[str, ...]
    driver: str | None
    gpus_from: str


@dataclass(frozen=True)
class Check:
    """One comparison of bits: which kernel, and what differs, if anything does."""

    what: str
    difference: str | None


@dataclass(frozen=True)
class Speed:
    """Bytes per second of a step and of a copy of as many bytes, medians of the same rounds."""

    elements: int
    step: float
    copy: float

    @property
    def share(self) -> float:
        """What a step reaches of the copy."""
        return self.step / self.copy


@dataclass
class EngineReport:
    """What became of one engine.

    Attributes:
        name: The engine's.
        unavailable: Why it cannot run here, and what to install; ``None`` if it can.
        error: What went wrong where it should have run.
        compile_seconds: The time of the first step, in which a kernel was compiled or found in the cache folder.
        checks: The comparisons of bits.
        speed: What it reaches.
        speed_error: Why the speed could not be measured; no fault of the engine.
    """

    name: str
    unavailable: str | None = None
    error: str | None = None
    compile_seconds: float | None = None
    checks: list[Check] = field(default_factory=list)
    speed: Speed | None = None
    speed_error: str | None = None

    @property
    def works(self) -> bool:
        """Whether it runs and its bits are right."""
        return self.unavailable is None and self.sound

    @property
    def sound(self) -> bool:
        """Whether it does not run, or runs with the right bits."""
        return self.error is None and all(check.difference is None for check in self.checks)


@dataclass(frozen=True)
class Report:
    """All that was found.

    Attributes:
        machine: The hardware.
        packages: The version of each of ``PACKAGES``, ``None`` where it is not installed.
        cache_folder: Where compiled kernels are kept.
        cache_writable: Whether they can be.
        engines: What became of each.
    """

    machine: Machine
    packages: dict[str, str | None]
    cache_folder: str
    cache_writable: bool
    engines: list[EngineReport]

    @property
    def status(self) -> int:
        """0 if an engine works and none that runs is wrong, else 1."""
        return 0 if any(e.works for e in self.engines) and all(e.sound for e in self.engines) else 1


# Gathering.


def examine(engines: Sequence[str] = ENGINES) -> Report:
    """Look at the machine and try the engines; nothing is printed, and what fails is part of the report."""
    return Report(
        machine=find_machine(),
        packages=find_packages(),
        cache_folder=str(Path(os.environ.get(cache.VARIABLE) or cache._user_folder()).expanduser().absolute()),
        cache_writable=cache.cache_dir() is not None,
        engines=[examine_engine(name) for name in engines],
    )


def find_machine() -> Machine:
    """The hardware, asked of whatever is there."""
    affinity = getattr(os, "sched_getaffinity", None)
    gpus, driver, source = find_gpus()
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        cpu=cpu_model(),
        processors=len(affinity(0)) if affinity else os.cpu_count() or 1,
        gpus=gpus,
        driver=driver,
        gpus_from=source,
    )


def cpu_model() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def find_packages() -> dict[str, str | None]:
    """The versions of ``PACKAGES``, without importing them."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def find_gpus() -> tuple[tuple[str, ...], str | None, str]:
    """The GPUs' names, the driver's version, and who told; if nobody did, why not."""
    silent = []
    for source, ask in (("nvidia-smi", _ask_nvidia_smi), ("cuda.bindings", _ask_cuda_bindings), ("cupy", _ask_cupy)):
        try:
            gpus, driver = ask()
        except Exception as error:  # a broken installation may raise anything, and is what the doctor is called for
            silent.append(f"{source}: {_one_line(error)}")
            continue
        if gpus:
            return gpus, driver, source
        silent.append(f"{source}: no GPU")
    return (), None, "; ".join(silent)


def _ask_nvidia_smi() -> tuple[tuple[str, ...], str | None]:
    program = shutil.which("nvidia-smi")
    if program is None:
        raise FileNotFoundError("not installed")
    command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr).strip())
    rows = [line.rsplit(", ", 1) for line in done.stdout.splitlines() if line.strip()]
    return tuple(row[0] for row in rows), rows[0][-1] if rows else None


def _ask_cuda_bindings() -> tuple[tuple[str, ...], str | None]:
    from cuda.bindings import driver

    def call(name: str, *arguments: Any) -> Any:
        status, *values = getattr(driver, name)(*arguments)
        if int(status):
            raise RuntimeError(f"{name}: {status.name}")
        return values[0] if values else None

    call("cuInit", 0)
    names = [call("cuDeviceGetName", 256, call("cuDeviceGet", k)) for k in range(call("cuDeviceGetCount"))]
    cuda = call("cuDriverGetVersion")
    return tuple(name.decode().rstrip("\0") for name in names), f"for CUDA {cuda // 1000}.{cuda % 1000 // 10}"


def _ask_cupy() -> tuple[tuple[str, ...], str | None]:
    from cupy.cuda import runtime

    names = [runtime.getDeviceProperties(k)["name"].decode() for k in range(runtime.getDeviceCount())]
    cuda = runtime.driverGetVersion()
    return tuple(names), f"for CUDA {cuda // 1000}.{cuda % 1000 // 10}"


_REMEDIES = {
    "cpu": "pip install --upgrade gpu_adam numba",
    "cupy": "pip install gpu_adam[cuda12] or gpu_adam[cuda13], by the CUDA version of your driver",
    "numba": "pip install gpu_adam[cuda12] or gpu_adam[cuda13], by the CUDA version of your driver",
}
"""What to try where an engine fails without a remedy of its own."""


def examine_engine(name: str) -> EngineReport:
    """Compile, compare and measure with one engine."""
    report = EngineReport(name)
    try:
        engine_named(name)
        library = _LIBRARIES[name]()
        start = perf_counter()
        _first_step(name, library)
        report.compile_seconds = perf_counter() - start
    except EngineUnavailable as error:
        report.unavailable = str(error)
        return report
    except ImportError as error:
        report.unavailable = f"{error}: {_REMEDIES[name]}"
        return report
    except Exception as error:
        report.error = f"{type(error).__name__}: {error} (what may help: {_REMEDIES[name]})"
        return report
    try:
        report.checks.extend(self_check(name, library))
    except Exception as error:
        report.error = f"the self-check failed: {type(error).__name__}: {error}"
        return report
    try:
        report.speed = measure(name, library)
    except Exception as error:  # too little memory, most likely
        report.speed_error = f"{type(error).__name__}: {_one_line(error)}"
    return report


def _first_step(engine: str, library: _Library) -> None:
    parameter = library.put(np.ones(1, np.float32))
    GpuAdam([parameter], engine=engine).step([library.put(np.ones(1, np.float32))])
    library.synchronize()


# The libraries in whose memory the engines work.


class _Library:
    """NumPy; the GPU's libraries differ in each of these."""

    half = BFLOAT16
    elements = CPU_ELEMENTS

    def put(self, array: Array) -> Any:
        """A copy in the library's memory."""
        return array.copy()

    def fill(self, view: Any, array: Array) -> None:
        """Write into an array of the library."""
        view[...] = array

    def copier(self, elements: int) -> Callable[[], object]:
        """What moves as many bytes as a step on so many float32 parameters and computes nothing, with as many threads."""
        # On a CPU a copy from one place to another would first read the place that it is going to overwrite. So three streams are turned
        # over where they are, and the fourth is only read. NumPy releases the GIL meanwhile.
        pool = engine_named("cpu").pool  # type: ignore[attr-defined]
        streams = [np.ones(elements, np.uint32) for _ in range(4)]
        cuts = [elements * k // pool.count // 1024 * 1024 for k in range(pool.count)] + [elements]
        parts = [tuple(stream[cuts[k] : cuts[k + 1]] for stream in streams) for k in range(pool.count)]
        return lambda: pool.run(_move, parts)

    def synchronize(self) -> None:
        """Wait until all that was queued is done."""


class _Cupy(_Library):
    elements = GPU_ELEMENTS

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy

    def put(self, array: Array) -> Any:
        if array.dtype == BFLOAT16.dtype:
            return self._cupy.asarray(array.view(np.int16)).view(BFLOAT16.dtype)
        return self._cupy.asarray(array)

    def fill(self, view: Any, array: Array) -> None:
        view[...] = self.put(array)

    def copier(self, elements: int) -> Callable[[], object]:
        # Each of the 14 bytes is read and written.
        source, to = (self._cupy.zeros(14 * elements, np.uint8) for _ in range(2))
        return lambda: to.data.copy_from_device_async(source.data, to.nbytes, self._cupy.cuda.get_current_stream())

    def synchronize(self) -> None:
        self._cupy.cuda.get_current_stream().synchronize()


class _Numba(_Library):
    half = FLOAT16  # its device arrays know no bfloat16
    elements = GPU_ELEMENTS

    def __init__(self) -> None:
        from numba import cuda

        self._cuda = cuda

    def put(self, array: Array) -> Any:
        return self._cuda.to_device(array)

    def fill(self, view: Any, array: Array) -> None:
        view.copy_to_device(array)

    def copier(self, elements: int) -> Callable[[], object]:
        source, to = (self._cuda.to_device(np.zeros(14 * elements, np.uint8)) for _ in range(2))
        return lambda: to.copy_to_device(source)

    def synchronize(self) -> None:
        self._cuda.synchronize()


def _move(p: Array, m: Array, v: Array, g: Array) -> None:
    for stream in (p, m, v):
        np.invert(stream, out=stream)
    np.bitwise_or.reduce(g)


_LIBRARIES: dict[str, Callable[[], _Library]] = {"cpu": _Library, "cupy": _Cupy, "numba": _Numba}


# The reference: DESIGN.md, section 3, one exact operation and one rounding a call.

LR, BETAS, EPS, WEIGHT_DECAY = 1e-2, (0.9, 0.999), 1e-8, 0.01
STEPS = 3

# ±0, subnormals, the smallest and the largest numbers, infinities, NaN; the rest is ordinary, of many sizes.
_SPECIAL = (0.0, -0.0, 1e-45, -3e-42, 1e-38, -1.2e-38, 1e19, -2e19, 1e38, -3e38, math.inf, -math.inf, math.nan)
VALUES = (*_SPECIAL, *(math.sin(k) * 10.0 ** (k % 9 - 6) for k in range(1, 32)))
SIZES = (1, 7, 17, 19)
"""Tensors that the values are split into: none a multiple of a vector, so that heads and tails are walked too."""

_PRECISION = {"float32": (24, -126, 127), "float16": (11, -14, 15), "bfloat16": (8, -126, 127)}
"""Bits of the significand, and the least and the greatest exponent."""


def nearest(value: Fraction, format: Format) -> float:
    """The number of a format nearest to an exact one, ties to even, past the largest infinity.

    >>> nearest(Fraction(1) + Fraction(1, 2**24), FLOAT32)  # half way between two: the even one
    1.0
    """
    if value == 0:
        return 0.0
    bits, least, greatest = _PRECISION[format.name]
    exponent = abs(value).numerator.bit_length() - value.denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, least) - bits + 1)
    rounded = round(value / unit) * unit  # Python rounds a half to even
    if abs(rounded) >= Fraction(2) ** (greatest + 1):
        return math.copysign(math.inf, value)
    return math.copysign(float(rounded), value)


def stored(value: float, format: Format) -> float:
    """A number as a format keeps it."""
    return nearest(Fraction(value), format) if math.isfinite(value) and value else value


def _fma(a: float, b: float, c: float) -> float:
    if math.isfinite(a) and math.isfinite(b) and math.isfinite(c):
        exact = Fraction(a) * Fraction(b) + Fraction(c)
        if exact:
            return nearest(exact, FLOAT32)
    # With infinities and NaN, and where the sum is exactly zero, float64 has the right answer, signs included.
    return a * b + c


def _divide(a: float, b: float) -> float:
    if a and b and math.isfinite(a) and math.isfinite(b):
        return nearest(Fraction(a) / Fraction(b), FLOAT32)
    if b == 0.0:
        return math.nan if a == 0.0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1.0, b)
    return a / b


def _sqrt(a: float) -> float:
    # Rounded to float64 first, which for a square root of 24 bits does no harm.
    return stored(math.sqrt(a), FLOAT32) if a >= 0 else math.nan


@dataclass
class Element:
    """One parameter of the reference, with its moments, in float32 held by Python's floats."""

    p: float
    m: float = 0.0
    v: float = 0.0

    def step(self, g: float, t: int) -> None:
        """Step ``t``, with L2 decay."""
        w1, w2 = (stored(1.0 - beta, FLOAT32) for beta in BETAS)
        c1, c2 = (1.0 - power(1.0 - w, t) for w in (w1, w2))
        r2, a = stored(1.0 / math.sqrt(c2), FLOAT32), stored(-LR / c1, FLOAT32)
        g = _fma(stored(WEIGHT_DECAY, FLOAT32), self.p, g)
        self.m = _fma(w1, g, _fma(-w1, self.m, self.m))
        # A product alone is the sum with a zero, but for the sign of a zero: -0 is what takes nothing away.
        self.v = _fma(_fma(w2, g, -0.0), g, _fma(-w2, self.v, self.v))
        d = _fma(_sqrt(self.v), r2, stored(EPS, FLOAT32))
        self.p = _fma(a, _divide(self.m, d), self.p)


def self_check(engine: str, library: _Library) -> Iterator[Check]:
    """Compare a few steps with the reference, bit by bit: each kernel family, in float32 and in 16 bits with master weights."""
    for format in (FLOAT32, library.half):
        start = [stored(value, format) for value in VALUES]
        # The gradients pass by the parameters, so that each step pairs other values.
        gradients = [start[5 * t :] + start[: 5 * t] for t in range(1, STEPS + 1)]
        elements = [Element(p) for p in start]
        for t, gradient in enumerate(gradients, 1):
            for element, g in zip(elements, gradient, strict=True):
                element.step(g, t)
        for pack in (False, True):
            family = "flat" if pack else "multi-tensor"
            master = " with master weights" if format.itemsize == 2 else ""
            found = _steps(engine, library, format, start, gradients, pack)
            expected = {
                "parameter": [stored(element.p, format) for element in elements],
                "exp_avg": [element.m for element in elements],
                "exp_avg_sq": [element.v for element in elements],
            }
            yield Check(f"{format}{master}, {family}", _difference(found, expected))


def _steps(
    engine: str, library: _Library, format: Format, start: list[float], gradients: list[list[float]], pack: bool
) -> dict[str, list[float]]:
    params = [library.put(part) for part in _split(start, format)]
    optimizer = GpuAdam(params, LR, BETAS, EPS, WEIGHT_DECAY, engine=engine, pack=pack)
    for gradient in gradients:
        parts = _split(gradient, format)
        if pack:
            for view, part in zip(optimizer.grads, parts, strict=True):
                library.fill(view, part)
            optimizer.step()
        else:
            optimizer.step([library.put(part) for part in parts])
    library.synchronize()
    states = optimizer.state_dict()["state"].values()
    return {
        "parameter": _joined(optimizer.params),
        "exp_avg": _joined([state["exp_avg"] for state in states]),
        "exp_avg_sq": _joined([state["exp_avg_sq"] for state in states]),
    }


def _split(values: list[float], format: Format) -> list[Array]:
    # The values are numbers of the format, so the conversion rounds nothing.
    whole = np.array(values, np.float32).astype(format.dtype)
    return np.split(whole, np.cumsum(SIZES)[:-1])


def _joined(arrays: Sequence[Any]) -> list[float]:
    return [float(x) for array in arrays for x in to_host(array).astype(np.float32)]


def _difference(found: dict[str, list[float]], expected: dict[str, list[float]]) -> str | None:
    wrong = [
        f"element {k} of {name} is {a!r} and must be {b!r}"
        for name, values in expected.items()
        for k, (a, b) in enumerate(zip(found[name], values, strict=True))
        if not (a == b and math.copysign(1.0, a) == math.copysign(1.0, b)) and not (math.isnan(a) and math.isnan(b))
    ]
    return f"{len(wrong)} of {3 * len(VALUES)} numbers are wrong; {wrong[0]}" if wrong else None


# The speed.


def measure(engine: str, library: _Library) -> Speed:
    """A step and a copy of as many bytes in turns; medians."""
    elements = library.elements
    parameter = library.put(np.ones(elements, np.float32))
    gradient = library.put(np.full(elements, 0.5, np.float32))
    optimizer = GpuAdam([parameter], engine=engine)
    optimizer.grads = [gradient]
    nbytes = optimizer.plan.bytes_moved
    copy = library.copier(elements)
    seconds: dict[Callable[[], object], list[float]] = {optimizer.step: [], copy: []}
    for timed in range(1 + ROUNDS):
        for run, times in seconds.items():
            library.synchronize()
            start = perf_counter()
            run()
            library.synchronize()
            if timed:
                times.append(perf_counter() - start)
    step_seconds, copy_seconds = (median(times) for times in seconds.values())
    return Speed(elements, nbytes / step_seconds, nbytes / copy_seconds)


# Printing.


def describe(report: Report) -> str:
    """The report as text."""
    machine = report.machine
    here = [f"{name} {found}" for name, found in report.packages.items() if found is not None]
    gone = [name for name, found in report.packages.items() if found is None]
    gpus = ", ".join(machine.gpus) if machine.gpus else f"none found ({machine.gpus_from})"
    unwritable = f"NOT writable: kernels are compiled again in each process; set {cache.VARIABLE} to another folder"
    lines = [
        f"gpu_adam {__version__}, Python {platform.python_version()}, {machine.system}",
        _entry("processor", f"{machine.cpu}, {machine.processors} usable"),
        _entry("GPUs", gpus),
        *([_entry("driver", machine.driver)] if machine.driver else []),
        _entry("packages", ", ".join(here)),
        _entry("not installed", ", ".join(gone)),
        _entry("cache", f"{report.cache_folder}, {'writable' if report.cache_writable else unwritable}"),
    ]
    for engine in report.engines:
        lines += ["", *_describe_engine(engine)]
    working = [engine.name for engine in report.engines if engine.works]
    wrong = [engine.name for engine in report.engines if not engine.sound]
    lines.append("")
    lines.append(f"can be used: {', '.join(working) or 'no engine'}")
    if wrong:
        lines.append(f"must not be used: {', '.join(wrong)}; please report it, with this page")
    return "\n".join(lines)


def _describe_engine(engine: EngineReport) -> Iterator[str]:
    if engine.unavailable is not None:
        yield f"engine {engine.name!r} cannot run"
        yield _entry("why", _one_line(engine.unavailable))
        return
    yield f"engine {engine.name!r} {'works' if engine.sound else 'IS BROKEN'}"
    if engine.error is not None:
        yield _entry("error", engine.error)  # with all its lines: a compiler's log is among them
    if engine.compile_seconds is not None:
        yield _entry("first kernel", f"{engine.compile_seconds:.2f} s, compiled or taken from the cache")
    for check in engine.checks:
        yield _entry("bits", f"{check.what}: {'as the reference' if check.difference is None else check.difference}")
    if engine.speed is not None:
        speed = engine.speed
        yield _entry(
            "speed",
            f"{speed.share:.0%} of a copy's: a step on {speed.elements:,} parameters moves {speed.step / 1e9:.1f} GB/s, "
            f"the copy {speed.copy / 1e9:.1f} GB/s",
        )
    if engine.speed_error is not None:
        yield _entry("speed", f"not measured ({engine.speed_error})")


def _entry(name: str, text: str) -> str:
    return f"  {name:14}{text}"


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def as_dict(report: Report) -> dict[str, Any]:
    """The report for JSON."""
    found = asdict(report)
    for told, engine in zip(found["engines"], report.engines, strict=True):
        told["works"] = engine.works
        if engine.speed is not None:
            told["speed"]["share"] = engine.speed.share
    return {"gpu_adam": __version__, "python": platform.python_version(), "status": report.status, **found}


def main(argv: Sequence[str] | None = None) -> int:
    """Examine and print.

    Args:
        argv: The arguments after ``doctor``.

    Returns:
        0 if an engine works and none that runs is wrong, else 1.
    """
    parser = argparse.ArgumentParser("gpu-adam doctor", description="What can run here, and what is missing.")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(argv)
    report = examine()
    print(json.dumps(as_dict(report), indent=1) if options.json else describe(report))
    return report.status
