"""Every specialization compiles for every architecture, with the options that the arithmetic needs; and NVRTC's absence is explained."""

from __future__ import annotations

import re

import pytest

from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from gpu_adam.engines.compile import nvrtc
from gpu_adam.engines.compile.nvrtc import CompileError
from gpu_adam.errors import EngineUnavailable
from gpu_adam.kernels.specialization import Kernel, PrologueKernel, Specialization, UpdateKernel
from tests.support.cuda_cpp.instances import (
    COALESCES,
    FAMILIES,
    PROLOGUES,
    ROWS,
    SPECIALIZATIONS,
    WITH_AVERAGE,
    instances,
)
from tests.support.shipped import ADAM, AMSGRAD

try:
    SUPPORTED = nvrtc.supported_architectures()
except EngineUnavailable as unavailable:
    pytest.skip(str(unavailable), allow_module_level=True)

ARCHITECTURES = [f"sm_{n}" for n in (70, 75, 80, 86, 89, 90, 100, 120) if n in SUPPORTED]
"""From Volta, which NVRTC 13 no longer knows, to Blackwell."""

FLAT = UpdateKernel(Specialization("flat", ADAM, FLOAT32, FLOAT32, False), 256, 1)


FILES: dict[str, list[Kernel]] = {
    **{
        family: [
            kernel
            for kind in SPECIALIZATIONS
            if kind.family == family and (kind.rule is not ADAM or not kind.average)
            for kernel in instances(kind)
        ]
        for family in FAMILIES
    },
    "rows": [kernel for kind in ROWS for kernel in instances(kind)],
    "coalesce": [*COALESCES],
    "prologue": [*PROLOGUES],
}
"""What is compiled together."""


OPTIMIZED = "sm_90"
QUICKLY = ("--Ofast-compile=max",) if nvrtc.version() >= (12, 8) else ()
"""What a compiler that knows it leaves optimizations out by. No source asks for the architecture, so what could fail is an instruction that
it does not have, and of that the assembler tells in any case. The optimized code of others is what `test_machine_code.py` and
`test_ledger.py` read."""


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "architecture",
    [OPTIMIZED, *(pytest.param(other, marks=pytest.mark.long) for other in ARCHITECTURES if other != OPTIMIZED)],
)
def test_every_specialization_compiles(file: str, architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if architecture != OPTIMIZED:
        monkeypatch.setattr(nvrtc, "OPTIONS", (*nvrtc.OPTIONS, *QUICKLY))
    _compile(FILES[file], architecture)


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_every_specialization_with_an_average_compiles(family: str) -> None:
    """For one architecture; for all of them those that are compiled above."""
    _compile([kernel for kind in WITH_AVERAGE if kind.family == family for kernel in instances(kind)], OPTIMIZED)


def _compile(kernels: list[Kernel], architecture: str) -> None:
    # One program for a whole family, so that its headers are parsed once and not once a kernel.
    files = sorted(
        {name for kernel in kernels for name in nvrtc.files_of(kernel)}, key=lambda name: name.endswith(".cu")
    )
    symbols, binary = nvrtc.build(files, [nvrtc.expression_of(kernel) for kernel in kernels], architecture)
    assert len(set(symbols)) == len(kernels)
    assert binary


def operations(kernel: Kernel) -> list[str]:
    """The instructions of a kernel in PTX."""
    oldest = f"compute_{min(n for n in SUPPORTED if n >= 75)}"
    _, binary = nvrtc.build(nvrtc.files_of(kernel), [nvrtc.expression_of(kernel)], oldest)
    return re.findall(r"^\s+(?:@%p\d+ )?([a-z]+\.[a-z0-9.:]+)\s", binary.decode(), re.MULTILINE)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("param", "grad", "master"),
    [(FLOAT32, FLOAT32, False), (BFLOAT16, BFLOAT16, True), (FLOAT16, FLOAT16, True), (FLOAT64, FLOAT64, False)],
)
def test_the_arithmetic_in_ptx(family, param, grad, master, average) -> None:  # type: ignore[no-untyped-def]
    """Roundings are named, nothing is flushed, and neither is wider than the working format."""
    kernel = UpdateKernel(Specialization(family, AMSGRAD, param, grad, master, average), 256, 1)
    found = operations(kernel)
    working, other = ("f64", "f32") if param is FLOAT64 else ("f32", "f64")
    arithmetic = {op for op in found if re.match(r"(fma|mul|add|sub|div|sqrt|rcp|rsqrt|neg|abs|cvt).*\.f\d\d", op)}
    assert {f"fma.rn.{working}", f"mul.rn.{working}", f"div.rn.{working}", f"sqrt.rn.{working}"} <= arithmetic
    assert not [op for op in found if "ftz" in op or "approx" in op]
    assert not [op for op in arithmetic if op.endswith(other)], "nothing is widened beyond the working format"
    assert not [op for op in arithmetic if op.startswith(("add.", "sub.")) and ".f" in op], "every sum is an fma"
    if param is FLOAT16:
        assert {"cvt.f32.f16", "cvt.rn.f16.f32"} <= arithmetic


@pytest.mark.parametrize("kernel", PROLOGUES, ids=lambda kernel: kernel.name)
def test_the_prologues_arithmetic_in_ptx(kernel: PrologueKernel) -> None:
    """In float64, but for formats that are widened and narrowed; products and quotients are rounded by themselves."""
    found = operations(kernel)
    assert {"fma.rn.f64", "mul.rn.f64", "div.rn.f64", "sqrt.rn.f64", "add.rn.f64", "cvt.f64.f32"} <= set(found)
    assert not [op for op in found if "ftz" in op or "approx" in op]
    assert not [op for op in found if re.match(r"(fma|mul|add|sub|div|sqrt|rcp|rsqrt).*\.f32", op)]
    # Without the "rn" a sum or product of the source may be contracted.
    assert not [op for op in found if op in ("add.f64", "sub.f64", "mul.f64")]


def test_a_gpu_that_the_compiler_does_not_know_gets_ptx() -> None:
    newest = max(SUPPORTED)
    assert nvrtc.target(newest + 7, SUPPORTED) == f"compute_{newest}"
    code = nvrtc.compile_kernel(FLAT, newest + 7)
    assert code.target == f"compute_{newest}"
    assert b".version" in code.binary
    assert code.symbol.encode() in code.binary
    assert code.binary.endswith(b"\0"), "the driver wants the terminator"


def test_a_gpu_that_is_too_old_is_refused() -> None:
    with pytest.raises(EngineUnavailable, match=r"the GPU has 3\.5: pip .*'gpu_adam\[cuda12\]'"):
        nvrtc.target(35, SUPPORTED)


def test_a_failing_compile_shows_the_compilers_log(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {**nvrtc.sources(), "adam.cuh": nvrtc.sources()["adam.cuh"].replace("row[kW2]", "row[kW3]")}
    monkeypatch.setattr(nvrtc, "sources", lambda: texts)
    with pytest.raises(CompileError) as caught:
        nvrtc.build(nvrtc.files_of(FLAT), [nvrtc.expression_of(FLAT)], "sm_90")
    message = str(caught.value)
    assert 'identifier "kW3" is undefined' in message
    assert "adam.cuh(" in message
    assert nvrtc.expression_of(FLAT) in message


def test_without_cuda_bindings_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "find_spec", lambda name: None)
    nvrtc._nvrtc.cache_clear()
    try:
        with pytest.raises(EngineUnavailable, match=r"pip install 'gpu_adam\[cuda1[23]\]'"):
            nvrtc._nvrtc()
    finally:
        nvrtc._nvrtc.cache_clear()


def test_the_options_keep_subnormals_and_roundings() -> None:
    assert {"--ftz=false", "--prec-div=true", "--prec-sqrt=true", "--fmad=false"} <= set(nvrtc.OPTIONS)
