"""What Numba compiles the CUDA kernels to, read in PTX and machine code: the arithmetic of DESIGN.md section 3 and nothing beside it.

No GPU and no driver is needed. The bits themselves are compared where there is a GPU (`test_gpu_numba.py`); here every operation of
every specialization is counted, so that a promotion to float64, a lost fma or a narrow access cannot slip in.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, files
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from gpu_adam.formats import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FORMATS, Format
from gpu_adam.plan import Family, Specialization

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
engines_numba = pytest.importorskip("gpu_adam.engines.numba")
pytest.importorskip("cuda.core", reason="cuda-core is not installed")

FAMILIES: tuple[Family, ...] = ("flat", "multi_tensor", "strided")
RULES = {"adam": 2, "adam_amsgrad": 3}
HOPPER = (9, 0)
ARCHITECTURES = [(7, 5), (8, 0), (8, 6), (8, 9), HOPPER, (10, 0), (12, 0)]
THREADS = 256

# Of one element: 8 fused multiply-adds (decay of either kind, two for each moment, the denominator, the step), 2 products (the scaled
# gradient, w2*g), a root and a quotient. No sum stands alone, so nothing is left to contract.
FUSED, PRODUCTS = 8, 2


def specializations() -> list[Specialization]:
    """All of them: every family, rule, pair of formats, and master weights where there can be some."""
    return [
        Specialization(family, rule, states, param, grad, master)
        for family, (rule, states), param, grad in product(FAMILIES, RULES.items(), FORMATS, FORMATS)
        for master in ((False, True) if param.itemsize == 2 else (False,))
    ]


def by_name(kind: Specialization) -> str:
    return kind.name


class Ptx:
    """The instructions of a kernel."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.counts = Counter(re.findall(r"^\s+(?:@!?%\w+\s+)?([a-z]\w*(?:\.[\w:]+)*)", text, re.MULTILINE))

    def count(self, pattern: str) -> int:
        return sum(n for instruction, n in self.counts.items() if re.fullmatch(pattern, instruction))

    def spelled(self, pattern: str) -> set[str]:
        return {instruction for instruction in self.counts if re.fullmatch(pattern, instruction)}


def compiled(kind: Specialization, vectors: int = 1) -> Ptx:
    return Ptx(engines_numba.compile_ptx(kind, vectors, THREADS, HOPPER)[1])


# ---- Every specialization ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", specializations(), ids=by_name)
def test_every_specialization(kind: Specialization) -> None:
    # One test for all that is asked of it: to compile it costs more than to read it.
    ptx = compiled(kind)
    check_arithmetic(ptx, kind, elements=kind.lanes)
    check_conversions(ptx, kind)
    check_memory(ptx, kind, vectors=1)


def check_arithmetic(ptx: Ptx, kind: Specialization, elements: int) -> None:
    working = {"float32": "f32", "float64": "f64"}[kind.working.name]
    if kind.family == "strided":
        # The compiler repeats the loop's body as it sees fit, and may let copies share the two that depend on the kind of decay.
        elements = ptx.count(rf"sqrt\.rn\.{working}")
        assert elements > 0
        assert (FUSED - 2) * elements <= ptx.count(rf"fma\.rn\.{working}") <= FUSED * elements
    else:
        assert ptx.count(rf"fma\.rn\.{working}") == FUSED * elements
    assert ptx.count(rf"mul(\.rn)?\.{working}") == PRODUCTS * elements
    assert ptx.count(rf"div\.rn\.{working}") == elements
    assert ptx.count(rf"sqrt\.rn\.{working}") == elements
    arithmetic = r"(?:add|sub|mul|mad|fma|div|sqrt|rsqrt|rcp|min|max|ex2|lg2)\b.*\.(?:f16x2|f16|bf16|f32|f64)"
    allowed = rf"(?:fma\.rn|mul|mul\.rn|div\.rn|sqrt\.rn)\.{working}"
    assert ptx.spelled(arithmetic) == ptx.spelled(allowed)
    # No flush to zero, nothing approximate, no call of a library.
    assert not ptx.spelled(r".*\.(?:ftz|approx|full)\b.*")
    assert not ptx.spelled(r"call.*")


def check_conversions(ptx: Ptx, kind: Specialization) -> None:
    """Widening is exact, and nothing is rounded but what is stored, or a gradient wider than the arithmetic."""
    expected: set[str] = set()
    read = {kind.grad} | (set() if kind.master else {kind.param})
    for format in read:
        expected |= widening(format, kind.working)
    if kind.param is FLOAT16:
        expected.add("cvt.rn.f16.f32")
    assert ptx.spelled(r"cvt\b.*\.b?f\d+.*") == expected


def widening(format: Format, working: Format) -> set[str]:
    if format is FLOAT64:
        return set() if working is FLOAT64 else {"cvt.rn.f32.f64"}
    if working is FLOAT32:
        return {"cvt.f32.f16"} if format is FLOAT16 else set()
    # bfloat16 is the upper half of a float32, to which it is widened by a shift.
    return {"cvt.f64.f16"} if format is FLOAT16 else {"cvt.f64.f32"}


def check_memory(ptx: Ptx, kind: Specialization, vectors: int) -> None:
    whole = r"\.(?:v4\.(?:f32|u32|b32)|v2\.(?:f64|u64|b64))"
    formats = [kind.working] * kind.states + [kind.working if kind.master else kind.param, kind.grad]
    read = vectors * sum(kind.lanes * format.itemsize // 16 for format in formats)
    formats = [kind.working] * (kind.states + kind.master) + [kind.param]
    written = vectors * sum(kind.lanes * format.itemsize // 16 for format in formats)
    if kind.family == "strided":
        read = written = 0
    assert ptx.count(r"ld\.global" + whole) == read
    assert ptx.count(r"st\.global" + whole) == written
    # Nothing in local memory, and no load that has to find out first which memory it is.
    assert ".local" not in ptx.text
    assert ptx.spelled(r"(?:ld|st)\..*") == ptx.spelled(r"(?:ld\.(?:global|param)|st\.global)\..*")


@pytest.mark.parametrize("family", ["flat", "multi_tensor"])
@pytest.mark.parametrize("formats", [(FLOAT32, FLOAT32), (BFLOAT16, BFLOAT16), (FLOAT64, FLOAT64)], ids=str)
def test_several_vectors_are_in_flight(family: Family, formats: tuple[Format, Format]) -> None:
    kind = Specialization(family, "adam", 2, *formats, master=formats[0] is BFLOAT16)
    ptx = compiled(kind, vectors=2)
    check_arithmetic(ptx, kind, elements=2 * kind.lanes)
    check_memory(ptx, kind, vectors=2)
    if kind.working is FLOAT32:
        first_use = ptx.text.index("fma.rn.f32")
        assert not re.search(r"ld\.global\.v4", ptx.text[first_use:])


def test_the_kernels_compile_the_rule_that_all_engines_share(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_adam.kernels import rules

    def make(fma: Any, sqrt: Any) -> Any:
        def update(p, g, s0, s1, s2, c):  # type: ignore[no-untyped-def]
            return sqrt(sqrt(p)), s0, s1, s2

        return update

    monkeypatch.setitem(rules.RULES, "adam", rules.Rule("adam", ("exp_avg", "exp_avg_sq"), make, "Adam<false>"))
    ptx = compiled(Specialization("flat", "adam", 2, FLOAT32, FLOAT32, False))
    assert ptx.count(r"sqrt\.rn\.f32") == 2 * 4
    assert ptx.count(r"div\..*") == 0


# ---- Every architecture ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids="sm_{0[0]}{0[1]}".format)
def test_every_architecture(architecture: tuple[int, int]) -> None:
    kind = Specialization("multi_tensor", "adam_amsgrad", 3, BFLOAT16, FLOAT16, True)
    _, ptx = engines_numba.compile_ptx(kind, 1, THREADS, architecture)
    assert engines_numba.link(ptx, architecture)[:4] == b"\x7fELF"


@pytest.mark.parametrize(
    "kind",
    [
        Specialization("flat", "adam", 2, FLOAT32, FLOAT32, False),
        Specialization("multi_tensor", "adam", 2, FLOAT32, FLOAT32, False),
        Specialization("multi_tensor", "adam_amsgrad", 3, BFLOAT16, BFLOAT16, True),
        Specialization("multi_tensor", "adam_amsgrad", 3, FLOAT64, FLOAT64, False),
        Specialization("strided", "adam_amsgrad", 3, FLOAT16, FLOAT16, True),
    ],
    ids=by_name,
)
def test_machine_code(kind: Specialization, tmp_path: Path) -> None:
    _, ptx = engines_numba.compile_ptx(kind, 1, THREADS, HOPPER)
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(engines_numba.link(ptx, HOPPER))
    sass = subprocess.run([disassembler(), binary], capture_output=True, text=True, check=True).stdout
    if kind.family != "strided":
        assert "LDG.E.128" in sass
        assert "STG.E.128" in sass
    assert not re.findall(r"\b(?:LDL|STL)\b.*", sass)


def disassembler() -> str:
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


# ---- The cache, and what happens without a GPU -------------------------------------------------------------------------------------

SMALL = Specialization("strided", "adam", 2, FLOAT32, FLOAT32, False)


@pytest.fixture
def compile_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`compile_kernel` past its memory, over a cache folder of its own."""
    monkeypatch.setenv("GPU_ADAM_CACHE_DIR", str(tmp_path))
    return lambda: engines_numba.compile_kernel.__wrapped__(SMALL, 1, THREADS, HOPPER)


def test_a_kernel_is_compiled_once(compile_kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compile_kernel()
    monkeypatch.setattr(engines_numba, "compile_ptx", None)
    assert compile_kernel() == first


def test_a_damaged_entry_is_compiled_again(compile_kernel: Any, tmp_path: Path) -> None:
    compile_kernel()
    (entry,) = tmp_path.glob("*.cubin")
    entry.write_bytes(entry.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match="damaged"):
        again = compile_kernel()
    assert compile_kernel() == again


@pytest.mark.parametrize("changed", ["_sources", "_versions"])
def test_a_change_is_another_entry(
    compile_kernel: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: str
) -> None:
    compile_kernel()
    monkeypatch.setattr(engines_numba, changed, lambda: ("changed",))
    compile_kernel()
    assert len(list(tmp_path.glob("*.cubin"))) == 2


def test_the_compilers_log_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_adam.kernels import rules

    def make(fma: Any, sqrt: Any) -> Any:
        return lambda p, g, s0, s1, s2, c: fma(p, 1.0, g)

    monkeypatch.setitem(rules.RULES, "adam", rules.Rule("adam", (), make, "Adam<false>"))
    with pytest.raises(engines_numba.CompileError, match=r"(?s)adam_strided_float32_float32 for sm_90.*fma"):
        engines_numba.compile_ptx(SMALL, 1, THREADS, HOPPER)
    with pytest.raises(engines_numba.CompileError, match="could not be linked for sm_90"):
        engines_numba.link(".version 8.0\n.target sm_90\nnonsense", HOPPER)


def refusal(before: str, **environment: str) -> str:
    """What the engine says in a process of its own, after some preparation."""
    script = f"""
import json, sys
{before}
from gpu_adam.engines import EngineUnavailable, engine_named
try:
    engine_named("numba")
except EngineUnavailable as error:
    print(json.dumps(str(error)))
"""
    child = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    message: str = json.loads(child.stdout)
    return message


def test_without_a_gpu_the_reason_is_given() -> None:
    message = refusal("", CUDA_VISIBLE_DEVICES="-1")
    assert re.search("needs an NVIDIA GPU and its driver", message)


def test_without_numba_cuda_the_package_is_named() -> None:
    before = "import importlib.util as u; find = u.find_spec; u.find_spec = lambda n, *a: None if n == 'numba_cuda' else find(n, *a)"
    message = refusal(before)
    assert "numba-cuda is not installed" in message
    assert "gpu_adam[cuda12]" in message


def test_a_numpy_without_row_stack_is_lent_it_and_keeps_nothing() -> None:
    message = refusal("import numpy; vars(numpy).pop('row_stack', None)", CUDA_VISIBLE_DEVICES="-1")
    assert "needs an NVIDIA GPU and its driver" in message


def test_versions_that_do_not_fit_together_are_named() -> None:
    message = refusal("import numba.cuda, numpy; del numpy.vstack")
    assert "vstack" in message
    assert re.search(r"numba-cuda \S+, NumPy \S+ and cuda-core", message)
    assert "gpu_adam[cuda12]" in message
