"""The machine code itself: 16-byte accesses, nothing spilled, nothing contracted or flushed, and enough of it resident to fill the memory.

Disassembled with ``nvdisasm`` and ``cuobjdump`` from PyPI; no GPU is needed. It is Adam's; `test_ledger.py` counts that of every rule.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FORMATS, Format
from gpu_adam.engines.compile import nvrtc
from gpu_adam.errors import EngineUnavailable
from gpu_adam.kernels.abi import PROLOGUE_THREADS, ROW_THREADS
from gpu_adam.kernels.specialization import (
    HINTS,
    CoalesceKernel,
    Hint,
    Kernel,
    PrologueKernel,
    Specialization,
    UpdateKernel,
)
from gpu_adam.plan.policy import GPU_POLICY, Geometry
from tests.support.shipped import ADAM, AMSGRAD


@cache
def tool(name: str) -> str | None:
    try:
        from cuda.pathfinder import find_nvidia_binary_utility

        found = find_nvidia_binary_utility(name)
    except (ImportError, RuntimeError):
        found = None
    if found is None:
        import sysconfig

        found = next(map(str, Path(sysconfig.get_path("purelib")).glob(f"nvidia/*/bin/{name}*")), None)
    return found or shutil.which(name)


try:
    SUPPORTED = nvrtc.supported_architectures()
except EngineUnavailable as unavailable:
    pytest.skip(str(unavailable), allow_module_level=True)
if tool("nvdisasm") is None or tool("cuobjdump") is None:
    pytest.skip("nvdisasm or cuobjdump was not found", allow_module_level=True)

ARCHITECTURES = [n for n in (80, 90, 100) if n in SUPPORTED]

# The most registers of a thread, by family, formats, states and whether an average is kept, over the architectures: measured, so that
# growth is noticed.
REGISTERS = {
    ("flat", FLOAT32, FLOAT32, 2, False): 48,
    ("flat", FLOAT32, FLOAT32, 3, False): 56,
    ("flat", BFLOAT16, BFLOAT16, 2, False): 64,
    ("flat", BFLOAT16, BFLOAT16, 3, False): 80,
    ("flat", FLOAT16, FLOAT16, 2, False): 64,
    ("flat", FLOAT64, FLOAT64, 2, False): 64,
    ("multi_tensor", FLOAT32, FLOAT32, 2, False): 56,
    ("multi_tensor", FLOAT32, FLOAT32, 3, False): 64,
    ("multi_tensor", BFLOAT16, BFLOAT16, 2, False): 64,
    ("multi_tensor", BFLOAT16, BFLOAT16, 3, False): 80,
    ("multi_tensor", FLOAT16, FLOAT16, 2, False): 64,
    ("multi_tensor", FLOAT64, FLOAT64, 2, False): 80,
    ("multi_tensor", FLOAT32, BFLOAT16, 2, False): 80,
    ("flat", FLOAT32, FLOAT32, 2, True): 56,
    ("flat", BFLOAT16, BFLOAT16, 2, True): 80,
    ("flat", BFLOAT16, BFLOAT16, 3, True): 80,
    ("flat", FLOAT64, FLOAT64, 3, True): 80,
    ("multi_tensor", FLOAT32, FLOAT32, 2, True): 56,
    ("multi_tensor", BFLOAT16, BFLOAT16, 3, True): 88,
    ("multi_tensor", FLOAT64, FLOAT64, 3, True): 80,
    ("flat", FLOAT64, FLOAT16, 3, True): 144,
    ("rows", FLOAT32, FLOAT32, 2, False): 80,
    ("rows", BFLOAT16, FLOAT32, 2, False): 96,
    ("rows", FLOAT16, FLOAT32, 3, False): 96,
    ("rows", FLOAT64, FLOAT64, 3, False): 96,
}

IN_FLIGHT = 48 << 10
"""Bytes that a multiprocessor must be able to ask for at once. By Little's law the memory wants bandwidth times latency: 4.8 TB/s
and 0.7 µs on 132 multiprocessors (H200) are 25 KiB each, 8 TB/s and 0.8 µs on 148 (B200) are 42 KiB."""

REGISTER_FILE = 65_536


@dataclass(frozen=True)
class Sass:
    """What the disassembler says of one kernel."""

    operations: Counter[str]
    registers: int
    stack: int


@cache
def disassemble(kernel: Kernel, architecture: int, folder: Path) -> Sass:
    _, binary = nvrtc.build(nvrtc.files_of(kernel), [nvrtc.expression_of(kernel)], f"sm_{architecture}")
    file = folder / f"{kernel.name}-{hash(kernel):x}-{architecture}.cubin"
    file.write_bytes(binary)
    code = run(tool("nvdisasm"), file)
    usage = run(tool("cuobjdump"), "-res-usage", file)
    operations = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)", code, re.MULTILINE)
    (registers,) = re.findall(r"REG:(\d+)", usage)
    (stack,) = re.findall(r"STACK:(\d+)", usage)
    return Sass(Counter(operations), int(registers), int(stack))


def run(*command: object) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sass")


def instance(
    family: str, param: Format, grad: Format, states: int, average: bool = False, geometry: Geometry | None = None
) -> UpdateKernel:
    rule = {2: ADAM, 3: AMSGRAD}[states]
    kind = Specialization(family, rule, param, grad, param.itemsize == 2, average)  # type: ignore[arg-type]
    chosen = geometry or GPU_POLICY.geometry(param)
    if family == "rows":
        chosen = replace(chosen, threads=ROW_THREADS)
    return UpdateKernel(kind, chosen.threads, chosen.vectors, chosen.hint, chosen.persistent)


def count(operations: Counter[str], pattern: str) -> int:
    return sum(n for operation, n in operations.items() if re.fullmatch(pattern, operation))


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda n: f"sm_{n}")
@pytest.mark.parametrize("key", REGISTERS, ids=lambda key: "-".join(map(str, key)))
def test_machine_code(key: tuple[str, Format, Format, int, bool], architecture: int, folder: Path) -> None:
    kernel = instance(*key)
    kind = kernel.specialization
    sass = disassemble(kernel, architecture, folder)
    operations = sass.operations

    # Every stream in words of 16 bytes, whatever its format.
    assert count(operations, r"LDG\.E\.(EF\.)?128.*") == kind.bytes_read * kind.lanes // 16 * kernel.vectors
    assert count(operations, r"STG\.E\.(EF\.)?128.*") == kind.bytes_written * kind.lanes // 16 * kernel.vectors
    # Generic accesses would look up the kind of memory each time.
    assert not count(operations, r"(LD|ST)\..*")

    # Nothing spilled.
    assert not count(operations, r"(LDL|STL).*")
    assert sass.stack == 0
    assert sass.registers <= REGISTERS[key]

    # Flushing is left to the steps within division and square root, which know that nothing is lost; the sums are all fused.
    assert not count(operations, r"FFMA.*\.FTZ.*")
    if kind.working is FLOAT32:
        assert not count(operations, r"FADD(?!.*\.FTZ).*")
        assert not count(operations, r"D(ADD|MUL|FMA).*")
        scale, square = 1, 1
        assert count(operations, r"FMUL(?!.*\.FTZ).*") == (scale + square) * kind.lanes * kernel.vectors

    # Enough threads fit for the memory to be kept busy.
    blocks = REGISTER_FILE // (kernel.threads * -(-sass.registers // 8) * 8)
    assert blocks * kernel.threads * kernel.vectors * kind.lanes * kind.bytes_read >= IN_FLIGHT


@pytest.mark.parametrize("hint", HINTS)
@pytest.mark.parametrize(
    ("family", "param"),
    [("flat", FLOAT32), ("multi_tensor", BFLOAT16), ("strided", FLOAT32), ("rows", FLOAT32)],
    ids=str,
)
def test_the_caches_are_told_what_the_hint_says(family: str, param: Format, hint: Hint, folder: Path) -> None:
    kernel = instance(family, param, param, 2, geometry=Geometry(hint=hint))
    kind, operations = kernel.specialization, disassemble(kernel, ARCHITECTURES[0], folder).operations
    assert (count(operations, r"LDG\.E\.EF.*") > 0) == (hint != "plain")
    assert (count(operations, r"STG\.E\.EF.*") > 0) == (hint != "plain")
    # Neither generic accesses nor such as keep an order.
    assert not count(operations, r"(LD|ST)\..*|.*STRONG.*")
    # All stores are of streams, while table and coefficients are loaded too.
    if family == "strided":
        ordinary = count(operations, r"STG\.E(?!\.EF).*")
        assert (ordinary > 0) == (hint != "streaming")
        return
    words = param.itemsize * kind.lanes // 16
    written = kind.bytes_written * kind.lanes // 16
    ordinary = {"streaming": 0, "keep_param": words, "plain": written}[hint]
    assert count(operations, r"STG\.E\.128.*") == ordinary
    assert count(operations, r"STG\.E\.EF\.128.*") == written - ordinary
    read = kind.bytes_read * kind.lanes // 16
    assert count(operations, r"LDG\.E\.EF\.128.*") == (0 if hint == "plain" else read)
    assert count(operations, r"LDG\.E\.128.*") == (read if hint == "plain" else 0)


@pytest.mark.parametrize("family", ["flat", "multi_tensor"])
def test_a_persistent_kernel_is_fast_too(family: str, folder: Path) -> None:
    kernel = instance(family, FLOAT32, FLOAT32, 2, geometry=Geometry(blocks=4))
    kind, sass = kernel.specialization, disassemble(kernel, ARCHITECTURES[0], folder)
    assert count(sass.operations, r"LDG\.E\.EF\.128.*") == kind.bytes_read * kind.lanes // 16
    assert count(sass.operations, r"STG\.E\.EF\.128.*") == kind.bytes_written * kind.lanes // 16
    assert sass.stack == 0
    assert sass.registers <= 64


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda n: f"sm_{n}")
@pytest.mark.parametrize("param", [FLOAT32, BFLOAT16, FLOAT64], ids=str)
def test_strided_kernels_spill_nothing(param: Format, architecture: int, folder: Path) -> None:
    sass = disassemble(instance("strided", param, param, 3), architecture, folder)
    assert not count(sass.operations, r"(LDL|STL|LD|ST)\..*")
    assert sass.stack == 0
    assert sass.registers <= 128


@pytest.mark.parametrize("family", ["flat", "strided"])
def test_where_registers_are_bounded_larger_blocks_leave_a_thread_as_many(family: str, folder: Path) -> None:
    usual, large = (
        disassemble(instance(family, FLOAT32, FLOAT32, 2, geometry=Geometry(threads)), ARCHITECTURES[0], folder)
        for threads in (256, 512)
    )
    assert large.stack == 0
    assert large.registers == usual.registers


PROLOGUE_REGISTERS = 80


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda n: f"sm_{n}")
def test_the_prologue(architecture: int, folder: Path) -> None:
    sass = disassemble(PrologueKernel(ADAM), architecture, folder)
    operations = sass.operations

    # Eight vectors of every format are asked for before the first is waited for.
    in_flight = 8
    assert count(operations, r"LDG\.E\.128\.CONSTANT.*") == in_flight * len(FORMATS)
    # What other blocks wrote is read past the L1 cache.
    assert count(operations, r"LDG\.E\.64\.STRONG\.GPU") == 16
    # The loop that every element goes through, in four formats and for strides.
    accumulators = 8
    assert count(operations, r"DFMA") >= in_flight * sum(16 // format.itemsize for format in FORMATS) + accumulators
    assert count(operations, r"MEMBAR.*\.GPU") == 2
    assert count(operations, r"ATOMG\..*INC.*") == 1

    # All of it is in float64.
    assert not count(operations, r"F(ADD|MUL).*")

    assert not count(operations, r"(LDL|STL).*")
    assert sass.stack == 0
    assert sass.registers <= PROLOGUE_REGISTERS
    blocks = REGISTER_FILE // (PROLOGUE_THREADS * -(-sass.registers // 8) * 8)
    assert blocks * PROLOGUE_THREADS * in_flight * 16 >= IN_FLIGHT


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda n: f"sm_{n}")
@pytest.mark.parametrize("working", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("values", FORMATS, ids=str)
def test_the_sum_of_rows(values: Format, working: Format, architecture: int, folder: Path) -> None:
    sass = disassemble(CoalesceKernel(values, working), architecture, folder)
    # The first row of a run, and eight words of the rows that follow.
    words = max(values.itemsize // working.itemsize, 1) if values.itemsize > working.itemsize else 1
    assert count(sass.operations, r"LDG\.E\.(EF\.)?128.*") == words + 8
    assert not count(sass.operations, r"(LDL|STL|LD|ST)\..*")
    assert sass.stack == 0
    assert sass.registers <= 96
