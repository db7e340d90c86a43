"""What Numba compiles the prologue and the sum of rows to: every rounding as it is stated, wide accesses, nothing in local memory."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from gpu_adam.dtypes import BFLOAT16, FLOAT32, FLOAT64, FORMATS, Format
from gpu_adam.kernels.abi import PROLOGUE_THREADS, VECTOR_BYTES
from tests.support.shipped import ADAM

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
pytest.importorskip("cuda.core", reason="cuda-core is not installed")

from gpu_adam.engines.compile import nvvm
from gpu_adam.kernels.numba_cuda.measure import IN_FLIGHT, OWN
from gpu_adam.kernels.numba_cuda.prologue import SLOTS_IN_FLIGHT
from gpu_adam.kernels.specialization import CoalesceKernel, PrologueKernel
from tests.support.ptx import (
    ARCHITECTURES,
    ARITHMETIC,
    CONVERSIONS,
    HOPPER,
    Ptx,
    compiled,
    disassembled,
    spills,
)

SUMMED = [(format, working) for format, working in product(FORMATS, (FLOAT32, FLOAT64))]


def test_prologue(tmp_path: Path) -> None:
    # One test for all that is asked of it: to compile it takes ten seconds.
    _, text = nvvm.compile_ptx(PrologueKernel(ADAM), HOPPER)
    check_arithmetic(Ptx(text))
    check_memory(Ptx(text))
    check_machine_code(disassembled(text, tmp_path))


def check_arithmetic(ptx: Ptx) -> None:
    # A square for each element that is in flight in each format, and for those that go one by one: not one more, so nothing was
    # contracted that the text does not fuse.
    elements = sum(IN_FLIGHT * VECTOR_BYTES // format.itemsize for format in FORMATS)
    assert ptx.count(r"fma\.rn\.f64") == elements + OWN
    # A multiplication that says how it is rounded is left alone by the assembler too.
    assert ptx.spelled(r"mul\b.*\.f64") == {"mul.rn.f64"}
    rounded = {f"{name}.rn.f64" for name in ("fma", "mul", "div", "rcp", "sqrt")}
    # The maximum is what is left of a coefficient that is 0 and is held within the format.
    assert ptx.spelled(ARITHMETIC) <= {*rounded, "add.f64", "sub.f64", "max.f64"}
    assert ptx.count(r"max\.f64") <= 1
    assert not ptx.spelled(r".*\.(?:ftz|approx|full)\b.*")
    assert not ptx.spelled(r"call.*")
    assert ptx.spelled(CONVERSIONS) == {"cvt.f64.f32", "cvt.f64.f16", "cvt.rn.f32.f64", "cvt.rn.f64.s64"}


def check_memory(ptx: Ptx) -> None:
    assert ptx.count(r"ld\.global\.v4\.[ub]32") == IN_FLIGHT * len(FORMATS)
    # What other blocks have written is read past the L1 cache, after a fence; they fenced before they were counted.
    assert ptx.count(r"ld\.relaxed\.gpu\.global\.f64") == SLOTS_IN_FLIGHT
    assert ptx.count(r"atom\..*add.*") == 1
    assert ptx.count(r"(?:membar|fence)\..*") == 2
    first, last = (match.start() for match in re.finditer(r"membar|fence\.", ptx.text))
    assert first < ptx.text.index("atom.") < last < ptx.text.index("ld.relaxed")
    assert ".local" not in ptx.text
    allowed = r"(?:ld\.(?:global|param|shared|relaxed\.gpu\.global)|st\.(?:global|shared))\..*"
    assert ptx.spelled(r"(?:ld|st)\..*") == ptx.spelled(allowed)


# Compiling takes seconds, so the oldest and the newest stand for all.
@pytest.mark.parametrize("architecture", [ARCHITECTURES[0], ARCHITECTURES[-1]], ids="sm_{0[0]}{0[1]}".format)
def test_prologue_for_other_architectures(architecture: tuple[int, int]) -> None:
    _, ptx = nvvm.compile_ptx(PrologueKernel(ADAM), architecture)
    assert nvvm.link(ptx, architecture)[:4] == b"\x7fELF"


def check_machine_code(sass: str) -> None:
    assert not spills(sass)
    # Two blocks share the 65,536 registers of a multiprocessor.
    assert max(int(number) for number in re.findall(r"\bR(\d+)\b", sass)) < 65_536 // (2 * PROLOGUE_THREADS)
    # Between the first access of a round and its last no branch and no use: all are in flight together.
    accesses = [match.start() for match in re.finditer(r"LDG\.E\.128", sass)]
    assert len(accesses) == IN_FLIGHT * len(FORMATS)
    for k in range(0, len(accesses), IN_FLIGHT):
        assert not re.search(r"\b(?:BRA|DFMA|F2F)\b", sass[accesses[k] : accesses[k + IN_FLIGHT - 1]])


@pytest.mark.parametrize(("values", "working"), SUMMED, ids=str)
def test_coalesce(values: Format, working: Format) -> None:
    ptx = compiled(CoalesceKernel(values, working))
    number = {"float32": "f32", "float64": "f64"}[working.name]
    # Sums and nothing else, in the working format.
    assert ptx.spelled(ARITHMETIC) <= {f"add.{number}", f"add.rn.{number}"}
    assert ptx.count(r"add\..*f\d+") > 0
    assert not ptx.spelled(r".*\.(?:ftz|approx|full)\b.*|call.*")
    assert ".local" not in ptx.text


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids="sm_{0[0]}{0[1]}".format)
def test_coalesce_for_every_architecture(architecture: tuple[int, int]) -> None:
    _, ptx = nvvm.compile_ptx(CoalesceKernel(BFLOAT16, FLOAT32), architecture)
    assert nvvm.link(ptx, architecture)[:4] == b"\x7fELF"


def test_coalesce_machine_code(tmp_path: Path) -> None:
    _, ptx = nvvm.compile_ptx(CoalesceKernel(BFLOAT16, FLOAT32), HOPPER)
    assert not spills(disassembled(ptx, tmp_path))
