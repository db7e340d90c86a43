"""Every specialization compiles for every architecture, with the options that the arithmetic needs; and NVRTC's absence is explained."""

from __future__ import annotations

import re

import pytest
from cuda_cpp.instances import FAMILIES, SHIPPED

from gpu_adam.engines import EngineUnavailable, nvrtc
from gpu_adam.engines.nvrtc import CompileError, Instance
from gpu_adam.formats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from gpu_adam.plan import Specialization

try:
    SUPPORTED = nvrtc.supported_architectures()
except EngineUnavailable as unavailable:
    pytest.skip(str(unavailable), allow_module_level=True)

ARCHITECTURES = [f"sm_{n}" for n in (70, 75, 80, 86, 89, 90, 100, 120) if n in SUPPORTED]
"""From Volta, which NVRTC 13 no longer knows, to Blackwell."""

FLAT = Instance(Specialization("flat", "adam", 2, FLOAT32, FLOAT32, False), 256, 1)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_specialization_compiles(family: str, architecture: str) -> None:
    # One program for a whole family, so that its headers are parsed once and not once a kernel.
    kernels = [kernel for kernel in SHIPPED if kernel.specialization.family == family]
    symbols, binary = nvrtc.build(kernels[0].source, [kernel.expression for kernel in kernels], architecture)
    assert len(set(symbols)) == len(kernels)
    assert binary


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("param", "grad", "master"),
    [(FLOAT32, FLOAT32, False), (BFLOAT16, BFLOAT16, True), (FLOAT16, FLOAT16, True), (FLOAT64, FLOAT64, False)],
)
def test_the_arithmetic_in_ptx(family, param, grad, master) -> None:  # type: ignore[no-untyped-def]
    """Roundings are named, nothing is flushed, and neither is wider than the working format."""
    kernel = Instance(Specialization(family, "adam_amsgrad", 3, param, grad, master), 256, 1)
    _, binary = nvrtc.build(kernel.source, [kernel.expression], f"compute_{min(n for n in SUPPORTED if n >= 75)}")
    operations = re.findall(r"^\s+(?:@%p\d+ )?([a-z]+\.[a-z0-9.:]+)\s", binary.decode(), re.MULTILINE)
    working, other = ("f64", "f32") if param is FLOAT64 else ("f32", "f64")
    arithmetic = {op for op in operations if re.match(r"(fma|mul|add|sub|div|sqrt|rcp|rsqrt|neg|abs|cvt).*\.f\d\d", op)}
    assert {f"fma.rn.{working}", f"mul.rn.{working}", f"div.rn.{working}", f"sqrt.rn.{working}"} <= arithmetic
    assert not [op for op in operations if "ftz" in op or "approx" in op]
    assert not [op for op in arithmetic if op.endswith(other)], "nothing is widened beyond the working format"
    assert not [op for op in arithmetic if op.startswith(("add.", "sub.")) and ".f" in op], "every sum is an fma"
    if param is FLOAT16:
        assert {"cvt.f32.f16", "cvt.rn.f16.f32"} <= arithmetic


def test_a_gpu_that_the_compiler_does_not_know_gets_ptx() -> None:
    newest = max(SUPPORTED)
    assert nvrtc.target(newest + 7, SUPPORTED) == f"compute_{newest}"
    code = nvrtc.compile_kernel(FLAT, newest + 7)
    assert code.target == f"compute_{newest}"
    assert b".version" in code.binary
    assert code.symbol.encode() in code.binary
    assert code.binary.endswith(b"\0"), "the driver wants the terminator"


def test_a_gpu_that_is_too_old_is_refused() -> None:
    with pytest.raises(EngineUnavailable, match=r"the GPU has 3\.5: install an older NVRTC"):
        nvrtc.target(35, SUPPORTED)


def test_a_failing_compile_shows_the_compilers_log(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {**nvrtc.sources(), "adam.cuh": nvrtc.sources()["adam.cuh"].replace("kW2, kR2", "kR2")}
    monkeypatch.setattr(nvrtc, "sources", lambda: texts)
    with pytest.raises(CompileError) as caught:
        nvrtc.build(FLAT.source, [FLAT.expression], "sm_90")
    message = str(caught.value)
    assert 'identifier "kW2" is undefined' in message
    assert "adam.cuh(" in message
    assert FLAT.expression in message


def test_without_cuda_bindings_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "find_spec", lambda name: None)
    nvrtc._nvrtc.cache_clear()
    try:
        with pytest.raises(EngineUnavailable, match=r"pip install gpu_adam\[cuda1[23]\]"):
            nvrtc._nvrtc()
    finally:
        nvrtc._nvrtc.cache_clear()


def test_the_options_keep_subnormals_and_roundings() -> None:
    assert {"--ftz=false", "--prec-div=true", "--prec-sqrt=true", "--fmad=false"} <= set(nvrtc.OPTIONS)
