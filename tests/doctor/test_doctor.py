"""The doctor: what it says of engines that cannot run, that are broken, and of the machine; and that its reference is right."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gpu_adam import doctor, engines
from gpu_adam.doctor import examination, libraries, rehearsal
from gpu_adam.doctor import reference as exact
from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Format
from gpu_adam.engines import cpu
from gpu_adam.errors import EngineUnavailable
from tests.support import reference

FORMATS = ("float64", "float32", "float16 with master weights", "bfloat16 with master weights")
CHECKS = [f"{format}, {way}" for format in FORMATS for way in ("flat", "multi-tensor", "clipped")]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement that only shows that it runs, and no process that tries the engine first."""
    monkeypatch.setattr(libraries.Library, "elements", 1 << 10)
    monkeypatch.setattr(examination, "rehearse", lambda engine: None)


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Examine no other engines."""
    examine = doctor.examine
    monkeypatch.setattr(doctor, "examine", lambda: examine(names))


def test_the_cpu_engine_passes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "cpu")
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    assert "engine 'cpu' works" in said
    for kernel in CHECKS:
        assert f"  {kernel}: as the reference" in said
    assert "can be used: cpu" in said
    assert np.__version__ in said


def test_json_says_the_same(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "cpu")
    assert doctor.main(["--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["engines"]
    assert (told["name"], told["works"], told["unavailable"]) == ("cpu", True, None)
    assert [check["what"] for check in told["checks"]] == CHECKS
    assert [check["difference"] for check in told["checks"]] == [None] * len(CHECKS)
    assert told["speed"]["share"] > 0


def test_an_unavailable_engine_is_no_fault_while_another_works(monkeypatch: pytest.MonkeyPatch) -> None:
    unavailable(monkeypatch, "numba", EngineUnavailable("there is no GPU: buy one"))
    report = doctor.examine(("cpu", "numba"))
    assert report.status == 0
    assert report.engines[1].unavailable == "there is no GPU: buy one"


def test_no_working_engine_is_status_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    unavailable(monkeypatch, "cpu", EngineUnavailable("it is too hot: cool it"))
    only(monkeypatch, "cpu")
    assert doctor.main([]) == 1
    said = capsys.readouterr().out
    assert "it is too hot: cool it" in said
    assert "can be used: no engine" in said


def test_a_failure_to_compile_shows_the_log_and_is_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(kind: Any) -> Any:
        raise RuntimeError("could not compile\nline 7: semicolon expected")

    monkeypatch.setattr(cpu, "compiled", compiled)
    only(monkeypatch, "cpu")
    assert doctor.main([]) == 1
    said = capsys.readouterr().out
    assert "engine 'cpu' IS BROKEN" in said
    assert "line 7: semicolon expected" in said


@pytest.mark.parametrize("family", ["flat", "multi_tensor"])
def test_wrong_bits_are_status_1(
    family: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = cpu.compiled

    def wrong(kind: Any) -> Any:
        return (lambda *arguments: None) if kind.family == family else compiled(kind)

    monkeypatch.setattr(cpu, "compiled", wrong)
    only(monkeypatch, "cpu")
    assert doctor.main([]) == 1
    said = capsys.readouterr().out
    assert "engine 'cpu' IS BROKEN" in said
    other = {"flat": "multi-tensor", "multi_tensor": "flat"}[family]
    assert f"float32, {family.replace('_', '-')}: as the reference" not in said
    assert f"float32, {other}: as the reference" in said
    assert "must be" in said
    assert "must not be used: cpu" in said


@pytest.mark.parametrize("name", ["measuring", "compiled"])
def test_what_cannot_be_run_is_told_and_the_rest_is_tried(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = getattr(cpu, name)

    def broken(*kind: Any) -> Any:
        if kind and kind[0].param is not FLOAT16:
            return kernel(*kind)
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(cpu, name, broken)
    report = doctor.examine(("cpu",))
    assert report.status == 1
    wrong = {check.what for check in report.engines[0].checks if check.difference is not None}
    assert wrong == {what for what in CHECKS if "clipped" in what if name == "measuring"} | {
        what for what in CHECKS if what.startswith("float16") if name == "compiled"
    }
    assert "could not be run: RuntimeError: no such instruction" in doctor.describe(report)
    assert len(report.engines[0].checks) == len(CHECKS)


# What LLVM does where a function is not in the process.
ABORT = "import os, sys; print('LLVM ERROR: Symbol not found', file=sys.stderr, flush=True); os.abort()"


def test_an_engine_that_ends_the_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "_PROGRAM", ABORT)
    monkeypatch.setattr(examination, "rehearse", rehearsal.rehearse)
    report = doctor.examine(("cpu",))
    assert report.status == 1
    assert "a process that tried it was ended by signal 6: LLVM ERROR: Symbol not found" in doctor.describe(report)


def test_an_engine_that_never_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "_PROGRAM", "import time; time.sleep(60)")
    monkeypatch.setattr(rehearsal, "SECONDS", 0.5)
    assert "did not end" in str(rehearsal.rehearse("cpu"))


def test_an_engine_that_works_or_raises_is_left_to_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rehearsal.rehearse("cpu") is None
    monkeypatch.setattr(rehearsal, "_PROGRAM", "raise SystemExit(1)")
    assert rehearsal.rehearse("cpu") is None


def test_the_last_bit_counts() -> None:
    start = {name: [1.0, 0.0, math.nan] for name in ("parameter", "exp_avg", "exp_avg_sq")}
    assert examination._difference(start, start) is None
    for k, other in ((0, float(np.nextafter(np.float32(1), np.float32(2)))), (1, -0.0), (2, 1.0)):
        changed = {name: list(values) for name, values in start.items()}
        changed["exp_avg"][k] = other
        assert f"element {k} of exp_avg" in str(examination._difference(changed, start))


def test_too_little_memory_for_the_measurement_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*arguments: Any) -> Any:
        raise MemoryError("unable to allocate")

    monkeypatch.setattr(examination, "measure", measure)
    report = doctor.examine(("cpu",))
    assert report.status == 0
    assert "not measured (MemoryError: unable to allocate)" in doctor.describe(report)


def test_an_unwritable_cache_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.cache, "cache_dir", lambda: None)
    said = doctor.describe(doctor.examine(()))
    assert "NOT writable" in said
    assert "GPU_ADAM_CACHE_DIR" in said


def unavailable(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    def engine_named(asked: str) -> Any:
        if asked == name:
            raise error
        return engines.engine_named(asked)

    monkeypatch.setattr(examination, "engine_named", engine_named)


# The reference.


@pytest.mark.parametrize("format", [FLOAT32, FLOAT16, BFLOAT16], ids=str)
def test_numbers_are_rounded_as_numpy_rounds_them(format: Format) -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate((rng.standard_normal(300) * 10.0 ** rng.integers(-48, 40, 300), exact.VALUES)).tolist()
    if format is BFLOAT16:  # whose conversion starts from float32
        with np.errstate(over="ignore"):
            values = np.array(values).astype(np.float32).astype(float).tolist()
    with np.errstate(all="ignore"):
        expected = np.array(values, np.float64 if format is not BFLOAT16 else np.float32).astype(format.dtype)
    found = np.array([exact.stored(value, format) for value in values])
    np.testing.assert_array_equal(found, expected.astype(float))
    np.testing.assert_array_equal(np.signbit(found[:-1]), np.signbit(expected.astype(float)[:-1]))


def test_a_half_goes_to_the_even_neighbour() -> None:
    for numerator, expected in ((1, 1.0), (3, 1.0 + 2.0**-22)):
        assert exact.nearest(1 + Fraction(numerator, 2**24), FLOAT32) == expected


def test_the_squares_of_what_is_clipped_have_an_exact_sum() -> None:
    assert len(exact.CLIPPED) == len(exact.VALUES)
    assert sum(Fraction(g) ** 2 for g in exact.CLIPPED) == Fraction(sum(g * g for g in exact.CLIPPED))
    for format in (FLOAT64, FLOAT32, FLOAT16, BFLOAT16):
        assert [exact.stored(g, format) for g in exact.CLIPPED] == list(exact.CLIPPED)
    assert exact.clip_factor(exact.CLIPPED, 1.0) < 0.5
    assert exact.clip_factor(exact.CLIPPED, None) == 1.0


@pytest.mark.parametrize("format", [FLOAT64, FLOAT32, FLOAT16, BFLOAT16], ids=str)
def test_both_references_agree(format: Format) -> None:
    """The doctor's, which is shipped, and the tests'."""
    start = np.array([exact.stored(value, format) for value in exact.VALUES]).astype(format.dtype)
    theirs = reference.Reference(start)
    options = reference.Options(lr=exact.LR, betas=exact.BETAS, eps=exact.EPS, weight_decay=exact.WEIGHT_DECAY)
    ours = [exact.Element(float(p), working=format.working) for p in start]
    for t in range(1, 6):
        gradient = np.roll(start, -3 * t)
        theirs.step(gradient, options)
        for element, g in zip(ours, gradient, strict=True):
            element.step(float(g), t)
    with np.errstate(all="ignore"):
        params = np.array([exact.stored(element.p, format) for element in ours]).astype(format.dtype)
    reference.assert_same_bits(params, theirs.p)
    reference.assert_same_bits(np.array([element.m for element in ours], theirs.m.dtype), theirs.m)
    reference.assert_same_bits(np.array([element.v for element in ours], theirs.v.dtype), theirs.v)
