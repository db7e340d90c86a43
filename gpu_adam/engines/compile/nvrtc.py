"""From a specialization to machine code: NVRTC with our own options, and a cache on disk.

NVRTC is called through ``cuda.bindings`` and not through CuPy, which appends ``-ftz=true`` to every compilation: subnormals would be
flushed to zero, and the bits would no longer be the CPU's. It needs neither a GPU nor a driver nor a CUDA toolkit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from ...cuda.driver import remedy
from ...errors import CompileError, EngineUnavailable
from ...kernels import header
from ...kernels.specialization import CoalesceKernel, Hint, Kernel, PrologueKernel, UpdateKernel
from .binaries import kept
from .fingerprint import digest, environment, library

OPTIONS = ("--std=c++17", "--ftz=false", "--prec-div=true", "--prec-sqrt=true", "--fmad=false")
"""What the arithmetic needs: subnormals kept, division and square root rounded correctly, nothing contracted."""

SOURCES = {"flat": "flat.cu", "multi_tensor": "multi_tensor.cu", "strided": "strided.cu", "rows": "sparse.cu"}
"""The file that holds each family's kernel."""

_C_TYPES = {"float64": "double", "float32": "float", "float16": "gpu_adam::float16", "bfloat16": "gpu_adam::bfloat16"}
_HINTS: dict[Hint, str] = {
    "streaming": "gpu_adam::Streaming",
    "keep_param": "gpu_adam::KeepParam",
    "plain": "gpu_adam::Plain",
}


def files_of(kernel: Kernel) -> list[str]:
    """The files that a kernel is made of besides what they include: that of its rule, if it has one, and its own."""
    match kernel:
        case UpdateKernel(specialization):
            return [specialization.rule.header, SOURCES[specialization.family]]
        case PrologueKernel(rule):
            return [rule.header, "prologue.cu"]
        case CoalesceKernel():
            return ["sparse.cu"]


def expression_of(kernel: Kernel) -> str:
    """A kernel's name in C++, template arguments and all: naming it to NVRTC instantiates it.

    >>> from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32
    >>> from gpu_adam.plan.launches import Specialization
    >>> from gpu_adam.kernels.rules.adam import ADAM, AMSGRAD
    >>> kind = Specialization("flat", ADAM, BFLOAT16, FLOAT32, True)
    >>> expression_of(UpdateKernel(kind, 256, 1))
    'gpu_adam::flat<gpu_adam::Kind<gpu_adam::Adam<false>, gpu_adam::bfloat16, float, true, false, 256, 1, gpu_adam::Streaming, false>>'
    >>> expression_of(PrologueKernel(AMSGRAD))
    'gpu_adam::prologue<gpu_adam::Adam<true>>'
    >>> expression_of(CoalesceKernel(FLOAT16, FLOAT32))
    'gpu_adam::coalesce<gpu_adam::float16, float>'
    """
    match kernel:
        case UpdateKernel(s, threads, vectors, hint, persistent):
            arguments = [
                f"gpu_adam::{s.rule.cuda}",
                _C_TYPES[s.param.name],
                _C_TYPES[s.grad.name],
                "true" if s.master else "false",
                "true" if s.average else "false",
                str(threads),
                str(vectors),
                _HINTS[hint],
                "true" if persistent else "false",
            ]
            return f"gpu_adam::{s.family}<gpu_adam::Kind<{', '.join(arguments)}>>"
        case PrologueKernel(rule):
            return f"gpu_adam::prologue<gpu_adam::{rule.cuda}>"
        case CoalesceKernel(values, working):
            return f"gpu_adam::coalesce<{_C_TYPES[values.name]}, {_C_TYPES[working.name]}>"


@dataclass(frozen=True)
class Code:
    """A compiled kernel.

    Attributes:
        symbol: Its name in the binary.
        target: ``"sm_90"`` for machine code, ``"compute_90"`` for PTX.
        binary: The binary.
    """

    symbol: str
    target: str
    binary: bytes


def target(capability: int, supported: Sequence[int]) -> str:
    """The architecture to compile for: the device's own, else PTX of the newest that the compiler knows and the device can run.

    Args:
        capability: Ten times the device's compute capability, such as 90.
        supported: The architectures that the compiler knows.

    >>> target(90, [75, 80, 90])
    'sm_90'
    >>> target(121, [75, 80, 90, 120])
    'compute_120'

    Raises:
        EngineUnavailable: If the compiler knows none that the device can run.
    """
    if capability in supported:
        return f"sm_{capability}"
    older = [known for known in supported if known < capability]
    if not older:
        raise EngineUnavailable(
            f"NVRTC {'.'.join(map(str, version()))} compiles for compute capability {min(supported) / 10} and up, "
            f"the GPU has {capability / 10}: {remedy(12)}"
        )
    return f"compute_{max(older)}"


def compile_kernel(kernel: Kernel, capability: int) -> Code:
    """The machine code of a kernel for a device, from memory, from the cache folder, or compiled now and kept in both.

    Args:
        kernel: What to compile.
        capability: Ten times the device's compute capability, such as 90.

    Raises:
        CompileError: If NVRTC refuses it; the message carries the compiler's log.
        EngineUnavailable: If there is no NVRTC, or none that knows the device.
    """
    return _compiled(kernel, target(capability, supported_architectures()))


@cache
def _compiled(kernel: Kernel, architecture: str) -> Code:
    name = f"{kernel.name}-{key(kernel, architecture)}.{'ptx' if architecture[0] == 'c' else 'cubin'}"

    def build_one() -> tuple[str, bytes]:
        symbols, binary = build(files_of(kernel), [expression_of(kernel)], architecture)
        return symbols[0], binary

    symbol, binary = kept(name, build_one)
    return Code(symbol, architecture, binary)


def key(kernel: Kernel, architecture: str) -> str:
    """What a cache entry goes by: a digest of all that the machine code depends on."""
    parts = [
        expression_of(kernel),
        *files_of(kernel),
        architecture,
        *OPTIONS,
        *map(str, version()),
        library("nvrtc"),
        *environment("NVCC_", "NVRTC_", "NVVM_", "LIBNVVM_"),
    ]
    for name, text in sorted(sources().items()):
        parts += [name, text]
    return digest(parts)


def build(files: Sequence[str], expressions: Iterable[str], architecture: str) -> tuple[list[str], bytes]:
    """Compile files of ``kernels/``, one after the other, with these instantiations, past every cache.

    Returns:
        The symbol of each expression, and the binary: machine code for ``sm_*``, PTX for ``compute_*``.
    """
    nvrtc = _nvrtc()
    expressions = list(expressions)
    texts = sources()
    unit = "".join(f'#include "{name}"\n' for name in files)
    # The files are handed over with it: what was digested is what is compiled, and the package may lie in a zip file.
    program = _check(
        nvrtc.nvrtcCreateProgram(
            unit.encode(),
            b"gpu_adam",
            len(texts),
            [text.encode() for text in texts.values()],
            [name.encode() for name in texts],
        )
    )
    try:
        for expression in expressions:
            _check(nvrtc.nvrtcAddNameExpression(program, expression.encode()))
        options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={architecture}")]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
            names = ", ".join(expressions)
            raise CompileError(
                f"NVRTC {'.'.join(map(str, version()))} could not compile {files[-1]} for {architecture} ({names}): "
                f"{status.name}\n{log.decode(errors='replace').rstrip(chr(0))}"
            )
        symbols = [
            _check(nvrtc.nvrtcGetLoweredName(program, expression.encode())).decode() for expression in expressions
        ]
        if architecture.startswith("sm_"):
            return symbols, _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
        return symbols, _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


@cache
def sources() -> dict[str, str]:
    """All of the CUDA C++ by name, the files and the header that Python writes: the text that is digested is the text that is compiled."""
    kernels = files("gpu_adam.kernels")
    entries = (entry for folder in ("cuda", "rules") for entry in (kernels / folder).iterdir())
    texts = {entry.name: entry.read_text(encoding="utf-8") for entry in entries if entry.name.endswith((".cu", ".cuh"))}
    return {header.NAME: header.text(), **texts}


@cache
def version() -> tuple[int, int]:
    """NVRTC's version, such as ``(12, 9)``."""
    major, minor = _check(_nvrtc().nvrtcVersion())
    return major, minor


@cache
def supported_architectures() -> tuple[int, ...]:
    """The architectures that this NVRTC compiles for, such as ``(75, 80, 90)``."""
    return tuple(_check(_nvrtc().nvrtcGetSupportedArchs()))


@cache
def _nvrtc() -> Any:
    if find_spec("cuda") is None:
        raise EngineUnavailable(f"cuda.bindings is not installed, through which NVRTC compiles the kernels: {remedy()}")
    try:
        from cuda.bindings import nvrtc

        # The library itself is looked for at the first call.
        _check(nvrtc.nvrtcVersion())
    except ImportError as error:
        raise EngineUnavailable(f"cuda.bindings cannot be imported ({error}): {remedy()}") from error
    except Exception as error:
        raise EngineUnavailable(f"NVRTC cannot be loaded ({error}): {remedy()}") from error
    return nvrtc


def _check(answer: tuple[Any, ...]) -> Any:
    status, *values = answer
    if int(status) != 0:
        raise CompileError(f"NVRTC: {status.name}")
    return values[0] if len(values) == 1 else values


def _text(size_of: Any, fetch: Any, program: Any) -> bytes:
    buffer = bytes(_check(size_of(program)))
    # cuda.bindings fills the buffer that it is given, bytes though it is.
    _check(fetch(program, buffer))
    return buffer
