"""What a kernel is compiled to: its PTX, counted, and its machine code, disassembled."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest

from gpu_adam.engines.compile import nvvm
from gpu_adam.kernels.specialization import Kernel

HOPPER = (9, 0)
ARCHITECTURES = [(7, 5), (8, 0), (8, 6), (8, 9), HOPPER, (10, 0), (12, 0)]
THREADS = 256
ARITHMETIC = r"(?:add|sub|mul|mad|fma|div|sqrt|rsqrt|rcp|min|max|ex2|lg2)\b.*\.(?:f16x2|f16|bf16|f32|f64)"
CONVERSIONS = r"cvt\b.*\.b?f\d+.*"


class Ptx:
    """The instructions of a kernel."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.counts = Counter(re.findall(r"^\s+(?:@!?%\w+\s+)?([a-z]\w*(?:\.[\w:]+)*)", text, re.MULTILINE))

    def count(self, pattern: str) -> int:
        return sum(n for instruction, n in self.counts.items() if re.fullmatch(pattern, instruction))

    def spelled(self, pattern: str) -> set[str]:
        return {instruction for instruction in self.counts if re.fullmatch(pattern, instruction)}


def compiled(kernel: Kernel) -> Ptx:
    return Ptx(nvvm.compile_ptx(kernel, HOPPER)[1])


def disassembled(ptx: str, folder: Path) -> str:
    """The machine code of PTX; the test is skipped where there is no disassembler."""
    binary = folder / "kernel.cubin"
    binary.write_bytes(nvvm.link(ptx, HOPPER))
    return subprocess.run([_disassembler(), binary], capture_output=True, text=True, check=True).stdout


def spills(sass: str) -> list[str]:
    """The accesses to local memory."""
    return re.findall(r"\b(?:LDL|STL)\b.*", sass)


def _disassembler() -> str:
    found = shutil.which("nvdisasm")
    if found:
        return found
    try:
        packaged = [file for file in files("nvidia-cuda-nvdisasm") or () if file.stem == "nvdisasm"]
    except PackageNotFoundError:
        packaged = []
    if not packaged:
        pytest.skip("nvidia-cuda-nvdisasm is not installed")
    return str(packaged[0].locate())
