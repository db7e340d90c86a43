"""The CPU engine on processors that lack instructions: the same bits, and no function is called that need not be in the process.

What this machine's processor cannot do is kept from the compiler. Other machines' kernels are compiled and not run.
"""

from __future__ import annotations

import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernels import cpu_features
from tests.kernels.cpu_features import ARMS, PROCESSORS, Processor, ask, digest, every, few, kernels

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="needs Linux on x86-64: object files are read as ELF",
)

LIBRARY = {"memset", "memcpy", "memmove", "sqrt", "sqrtf"}
"""What every C library has; old versions of Numba call the roots. Where there is no fused multiply-add, that of float64 is called too."""


@cache
def expected(case: cpu_features.Case) -> str:
    """What this process computes, with all that its processor has."""
    return digest(case)


def assert_nothing_is_missing(processor: Processor, answer: dict[str, Any]) -> None:
    assert (answer["converts"], answer["fuses"]) == (processor.converts, processor.fuses)
    allowed = LIBRARY if processor.fuses else LIBRARY | {"fma"}
    assert answer["symbols"]
    wrong = {name: symbols for name, symbols in answer["symbols"].items() if not allowed.issuperset(symbols)}
    assert not wrong


def assert_the_same_bits(processor: Processor, folder: Path, cases: list[cpu_features.Case]) -> None:
    missing = processor.missing()
    if missing:
        names = [name for name in kernels() if "float16" in name and name.startswith(("adam_flat", "coalesce"))]
        assert_nothing_is_missing(processor, ask(processor, folder, compile=["measure", *names[:4]]))
        pytest.skip(f"compiled for {processor.name} and not run: this machine lacks {', '.join(sorted(missing))}")
    answer = ask(processor, folder, run=cpu_features.as_job(cases))
    assert_nothing_is_missing(processor, answer)
    assert answer["wrong"] == []
    right = [expected(case) for case in cases]
    assert [case for case, one, other in zip(cases, answer["digests"], right, strict=True) if one != other] == []
    flushed = zip(cases, answer["flushed"], right, strict=True)
    assert [case for case, one, other in flushed if one != other] == [], "in a thread that flushes subnormals"


FEW = ("x86-64-v2", "x86-64-v3 without F16C and FMA")


@pytest.mark.parametrize(
    "name", [*FEW, *(pytest.param(name, marks=pytest.mark.long) for name in PROCESSORS if name not in FEW)]
)
def test_a_processor_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    # The kernel that measures, of all formats, takes as long to compile as all others here.
    assert_the_same_bits(PROCESSORS[name], tmp_path, list(few(clipped=name == "x86-64-v2")))


@pytest.mark.long
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_gives_the_same_bits_with_every_rule(name: str, tmp_path: Path) -> None:
    assert_the_same_bits(PROCESSORS[name], tmp_path, every(list(PROCESSORS).index(name) % 2))


def test_the_cases_meet_every_rule_format_and_way() -> None:
    halves = [every(half) for half in (0, 1)]
    rules = cpu_features.rules().values()
    for cases in halves:
        assert {(case.optimizer, case.settings) for case in cases} == set(rules)
    cases = halves[0] + halves[1]
    assert {(*rule, way) for rule in rules for way in cpu_features.WAYS} == {
        (case.optimizer, case.settings, case.way) for case in cases
    }
    others = {(case.param, case.way) for case in cases if case.optimizer != "GpuAdam"}
    assert others == {(name, way) for name in cpu_features.DTYPES for way in cpu_features.WAYS}


PARTS = 4


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_no_kernel_calls_what_need_not_be_there(part: int, tmp_path: Path) -> None:
    """Compiled for the processor that has least: what it does not call nobody calls."""
    processor = PROCESSORS["x86-64"]
    answer = ask(processor, tmp_path, compile=sorted(kernels())[part::PARTS], seconds=1200)
    assert_nothing_is_missing(processor, answer)
    assert len(answer["symbols"]) == len(sorted(kernels())[part::PARTS])


# ---- aarch64, compiled and not run --------------------------------------------------------------------------------------------------


def assert_arm(processor: Processor, folder: Path, names: list[str]) -> None:
    answer = ask(processor, folder, compile=names, seconds=1200)
    assert_nothing_is_missing(processor, answer)
    # Read once and written twice: IEEE's mode before the work, the thread's own after it.
    for name, (reads, writes, *of_x86) in answer["modes"].items():
        assert reads >= 1, name
        assert writes >= 2, name
        assert of_x86 == [0, 0], name


def test_kernels_of_each_family_compile_for_aarch64(tmp_path: Path) -> None:
    names = ["adam_flat_float16_float16_master", "adam_strided_float64_float16", "adam_rows_bfloat16_float32_master"]
    assert_arm(ARMS["aarch64"], tmp_path, [*names, "coalesce_float16_float32"])


@pytest.mark.long
@pytest.mark.parametrize("name", ARMS)
def test_every_kernel_compiles_for_aarch64(name: str, tmp_path: Path) -> None:
    """A third of them for each of three processors, and for all of them those that the others share."""
    third = sorted(kernels())[list(ARMS).index(name) :: len(ARMS)]
    assert_arm(ARMS[name], tmp_path, sorted({*third, "measure", "adam_finish", "coalesce_float16_float64"}))


# ---- The checks themselves ----------------------------------------------------------------------------------------------------------


def test_a_call_of_the_compilers_library_is_seen(tmp_path: Path) -> None:
    """Were float16 converted as LLVM does it without F16C, which ended the process, these tests would say so."""
    answer = ask(
        PROCESSORS["x86-64-v2"], tmp_path, compile=["coalesce_float16_float32"], as_if={"converts_float16": True}
    )
    assert "__extendhfsf2" in answer["symbols"]["coalesce_float16_float32"]
    with pytest.raises(AssertionError):
        assert_nothing_is_missing(PROCESSORS["x86-64-v2"], answer)


@pytest.mark.long
def test_every_float32_is_rounded_to_float16_as_the_processor_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All 2³² of them, in integers and by F16C."""
    import llvmlite.binding
    from numba import njit

    from gpu_adam.kernels.cpu import half as cpu_half

    if not llvmlite.binding.get_host_cpu_features().get("f16c"):
        pytest.skip("this machine has no F16C to compare with")

    def rounder(converts: bool) -> Any:
        @njit(no_cfunc_wrapper=True)  # type: ignore[untyped-decorator,unused-ignore]
        def run(given, out):  # type: ignore[no-untyped-def]
            for k in range(given.size):
                out[k] = cpu_half.round_float16(given[k])

        monkeypatch.setattr(cpu_half, "converts_float16", lambda codegen: converts)
        run(np.zeros(1, np.float32), np.zeros(1, np.uint16))
        (assembly,) = run.inspect_asm().values()
        assert ("vcvtps2ph" in assembly) == converts
        return run

    in_integers, by_instruction = rounder(False), rounder(True)
    block = 1 << 22
    places, out, expected = np.arange(block, dtype=np.uint32), *(np.zeros(block, np.uint16) for _ in range(2))
    for first in range(0, 1 << 32, block):
        patterns = (places + np.uint32(first)).view(np.float32)
        in_integers(patterns, out)
        by_instruction(patterns, expected)
        assert np.array_equal(out, expected), hex(first)
