"""What Numba compiles the update kernels to, read in PTX and machine code: the arithmetic of docs/arithmetic.md and nothing beside it.

No GPU and no driver is needed. The bits themselves are compared where there is a GPU (`test_numba_engine.py`); here every operation of
every specialization is counted, so that a promotion to float64, a lost fma or a narrow access cannot slip in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from gpu_adam.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Format
from gpu_adam.kernels.specialization import HINTS, Family, Specialization
from gpu_adam.kernels.streams import Storage, Stream
from tests.support.shipped import ADAM, AMSGRAD, RULES, formats_of

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
pytest.importorskip("cuda.core", reason="cuda-core is not installed")

from gpu_adam.engines.compile import nvvm
from gpu_adam.kernels.specialization import UpdateKernel
from tests.support.ptx import (
    ARCHITECTURES,
    ARITHMETIC,
    CONVERSIONS,
    HOPPER,
    THREADS,
    Ptx,
    compiled,
    disassembled,
    spills,
)

FAMILIES: tuple[Family, ...] = ("flat", "multi_tensor", "strided")


@dataclass(frozen=True)
class Operations:
    """Those of one element: fused multiply-adds, products, quotients, roots, and sums that stand alone; and sums of coefficients.

    Two of the first are the decay of either kind, one of the products scales the gradient. No product is summed by itself, so nothing is
    left to contract.
    """

    fused: int
    products: int = 2
    quotients: int = 1
    roots: int = 1
    sums: int = 0
    hoisted: int = 0


OPERATIONS = {
    "adam": Operations(fused=8),
    "adam_amsgrad": Operations(fused=8),
    "adamax": Operations(fused=5, roots=0, sums=1),
    "nadam": Operations(fused=8, products=3, sums=3),
    "sgd": Operations(fused=3, products=1, quotients=0, roots=0),
    "sgd_momentum": Operations(fused=5, quotients=0, roots=0),
    "adagrad": Operations(fused=4, products=1, sums=1),
    "adadelta": Operations(fused=7, products=4, roots=2, sums=3, hoisted=1),
    "rmsprop": Operations(fused=5, sums=1),
    "rmsprop_momentum": Operations(fused=6, sums=1),
    "rmsprop_centered": Operations(fused=8, sums=1, hoisted=1),
    "rmsprop_centered_momentum": Operations(fused=9, sums=1, hoisted=1),
}
AVERAGED = 2
"""Fused multiply-adds that an average of the parameters takes."""


AVERAGES = [
    ("adam", FLOAT32, FLOAT32, False),
    ("adam_amsgrad", FLOAT32, BFLOAT16, False),
    ("adam_amsgrad", FLOAT64, FLOAT64, False),
    ("adam", FLOAT64, FLOAT16, False),
    ("adam", FLOAT16, FLOAT16, False),
    ("adam_amsgrad", BFLOAT16, BFLOAT16, True),
]


def specializations() -> list[Specialization]:
    """Every family, pair of formats, and master weights where there can be some, with Adam; every rule and averages with some of them.

    Rows have gradients in the working format, and no average.
    """
    plain = [
        Specialization(family, ADAM, param, grad, master)
        for family in (*FAMILIES, "rows")
        for param, grad, master in formats_of(ADAM, family)
    ]
    plain += [
        Specialization("rows", AMSGRAD, FLOAT16, FLOAT32, True),
        Specialization("rows", AMSGRAD, FLOAT64, FLOAT64, False),
    ]
    # Of the other rules what they compute, and not how memory is reached.
    others: list[tuple[Family, Format, bool]] = [
        ("flat", FLOAT32, False),
        ("multi_tensor", BFLOAT16, True),
        ("strided", FLOAT64, False),
    ]
    plain += [
        Specialization(family, rule, param, param, master)
        for rule in RULES.values()
        for family, param, master in others
        if rule is not ADAM
    ]
    averaged = [
        Specialization(family, RULES[rule], param, grad, master, average=True)
        for family, (rule, param, grad, master) in product(FAMILIES, AVERAGES)
    ]
    return plain + averaged


def by_name(kind: Specialization) -> str:
    return kind.name


# ---- Every specialization ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", specializations(), ids=by_name)
def test_every_specialization(kind: Specialization) -> None:
    # One test for all that is asked of it: to compile it costs more than to read it.
    ptx = compiled(UpdateKernel(kind, THREADS, 1))
    check_arithmetic(ptx, kind, elements=kind.lanes)
    check_conversions(ptx, kind)
    check_memory(ptx, kind, vectors=1)


def check_arithmetic(ptx: Ptx, kind: Specialization, elements: int) -> None:
    working = {"float32": "f32", "float64": "f64"}[kind.working.name]
    each = OPERATIONS[kind.rule.name]
    fused = each.fused + AVERAGED * kind.average
    if kind.family == "strided":
        # The compiler repeats the loop's body as it sees fit, and may let copies share the two that depend on the kind of decay.
        elements = ptx.count(rf"mul(\.rn)?\.{working}") // each.products
        assert elements > 0
        assert (fused - 2) * elements <= ptx.count(rf"fma\.rn\.{working}") <= fused * elements
    else:
        assert ptx.count(rf"fma\.rn\.{working}") == fused * elements
    assert ptx.count(rf"mul(\.rn)?\.{working}") == each.products * elements
    assert ptx.count(rf"div\.rn\.{working}") == each.quotients * elements
    assert ptx.count(rf"sqrt\.rn\.{working}") == each.roots * elements
    assert ptx.count(rf"(add|sub)(\.rn)?\.{working}") == each.sums * elements + each.hoisted
    allowed = rf"(?:fma\.rn|mul|mul\.rn|div\.rn|sqrt\.rn|add|add\.rn|sub|sub\.rn)\.{working}"
    assert ptx.spelled(ARITHMETIC) == ptx.spelled(allowed)
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
    assert ptx.spelled(CONVERSIONS) == expected


def widening(format: Format, working: Format) -> set[str]:
    if format is FLOAT64:
        return set() if working is FLOAT64 else {"cvt.rn.f32.f64"}
    if working is FLOAT32:
        return {"cvt.f32.f16"} if format is FLOAT16 else set()
    # bfloat16 is the upper half of a float32, to which it is widened by a shift.
    return {"cvt.f64.f16"} if format is FLOAT16 else {"cvt.f64.f32"}


def check_memory(ptx: Ptx, kind: Specialization, vectors: int) -> None:
    whole = r"\.(?:v4\.(?:f32|u32|b32)|v2\.(?:f64|u64|b64))"
    formats = [kind.working] * (kind.states + kind.average) + [kind.working if kind.master else kind.param, kind.grad]
    read = vectors * sum(kind.lanes * format.itemsize // 16 for format in formats)
    formats = [kind.working] * (kind.states + kind.master + kind.average) + [kind.param]
    written = vectors * sum(kind.lanes * format.itemsize // 16 for format in formats)
    if kind.family == "strided":
        read = written = 0
    # All of them tell the caches that they will not be wanted again.
    assert ptx.count(r"ld\.global\.cs" + whole) == read
    assert ptx.count(r"st\.global\.cs" + whole) == written
    assert not ptx.count(r"(?:ld|st)\.global" + whole)
    assert not ptx.spelled(r"st\.global(?!\.cs).*")
    # Nothing in local memory, and no load that has to find out first which memory it is.
    assert ".local" not in ptx.text
    assert ptx.spelled(r"(?:ld|st)\..*") == ptx.spelled(r"(?:ld\.(?:global|param)|st\.global)\..*")


@pytest.mark.parametrize("family", ["flat", "multi_tensor", "rows"])
@pytest.mark.parametrize("formats", [(FLOAT32, FLOAT32), (BFLOAT16, BFLOAT16), (FLOAT64, FLOAT64)], ids=str)
def test_several_vectors_are_in_flight(family: Family, formats: tuple[Format, Format]) -> None:
    param, grad = formats
    kind = Specialization(family, ADAM, param, param.working if family == "rows" else grad, param is BFLOAT16)
    ptx = compiled(UpdateKernel(kind, THREADS, 2))
    check_arithmetic(ptx, kind, elements=2 * kind.lanes)
    check_memory(ptx, kind, vectors=2)
    if kind.working is FLOAT32:
        first_use = ptx.text.index("fma.rn.f32")
        assert not re.search(r"ld\.global\.cs\.v4", ptx.text[first_use:])


@pytest.mark.parametrize(
    "kind",
    [
        Specialization("flat", ADAM, FLOAT32, FLOAT32, False),
        Specialization("multi_tensor", ADAM, BFLOAT16, BFLOAT16, True),
        Specialization("strided", ADAM, FLOAT32, FLOAT32, False),
        Specialization("rows", ADAM, FLOAT64, FLOAT64, False),
    ],
    ids=by_name,
)
def test_the_caches_are_told_what_the_hint_says(kind: Specialization) -> None:
    found = {hint: compiled(UpdateKernel(kind, THREADS, 1, hint)) for hint in HINTS}
    streaming, keep_param, plain = (found[hint] for hint in ("streaming", "keep_param", "plain"))
    assert not plain.spelled(r".*\.cs\..*")
    loads, stores = r"ld\.global\.cs\..*", r"st\.global\.cs\..*"
    assert keep_param.count(loads) == streaming.count(loads) > 0
    assert streaming.count(stores) == streaming.count(r"st\.global\..*")
    # The parameter is stored in words of 16 bytes or in single elements.
    whole = 0 if kind.family == "strided" else kind.lanes * kind.param.itemsize // 16
    single = 1 if kind.family == "strided" else 2 * kind.lanes
    assert keep_param.count(r"st\.global(?!\.cs).*") == whole + single
    assert {ptx.count(r"fma\..*") for ptx in (streaming, keep_param)} == {streaming.count(r"fma\..*")}


@pytest.mark.parametrize("streamed", ["load", "store"])
@pytest.mark.parametrize("format", [FLOAT32, FLOAT64], ids=str)
def test_words_keep_their_order_in_inline_ptx(format: Format, streamed: str) -> None:
    """The one thing of a streamed access that is not the same LLVM as another's, which `test_numba_cuda_intrinsics.py` runs on the CPU.

    A vector that is loaded in the one way and stored in the other goes through the same registers, in the same order.
    """
    from numba import cuda

    from gpu_adam.kernels.numba_cuda import stream as on

    lanes, dtype = 16 // format.itemsize, format.dtype.type
    streams = (Stream("param", Storage.of(format), read=True, written=True),)
    load = on.load_streams(streams, format, lanes, "streaming" if streamed == "load" else "plain")
    store = on.store_streams(streams, format, lanes, "streaming" if streamed == "store" else "plain")

    def copy(source, to):  # type: ignore[no-untyped-def]
        values = cuda.local.array(lanes, dtype)
        load((source, 0, 0, 0, 0, 0, 0), (0, 0, 0), (values, values, values, values, values, values), 0)
        store((to, 0, 0, 0, 0, 0, 0), (0, 0, 0), (values, values, values, values, values, values), 0)

    text, _ = cuda.compile(copy, "void(int64, int64)", device=False, abi="numba", cc=HOPPER)
    kind = rf"v{lanes}\.f{8 * format.itemsize}"
    (loaded,), (stored,) = (
        re.findall(rf"{name}\.global(?:\.cs)?\.{kind}\s.*\{{(.*?)\}}", text) for name in ("ld", "st")
    )
    assert ("ld.global.cs" in text, "st.global.cs" in text) == (streamed == "load", streamed == "store")
    assert loaded.replace(" ", "").split(",") == stored.replace(" ", "").split(",")


def test_streamed_accesses_keep_their_place_among_ordinary_ones() -> None:
    """A parameter may be its own gradient, and one of its accesses streamed while another is not."""
    from numba import cuda

    from gpu_adam.kernels.numba_cuda import intrinsics as on

    load, streamed_load = (on.load(FLOAT32, FLOAT32, streamed) for streamed in (False, True))
    store, streamed_store = (on.store(FLOAT32, FLOAT32, streamed) for streamed in (False, True))

    def there_and_back(at, to):  # type: ignore[no-untyped-def]
        store(at, streamed_load(to))
        streamed_store(to, streamed_load(at))
        store(at, load(to))

    text, _ = cuda.compile(there_and_back, "void(int64, int64)", device=False, abi="numba", cc=HOPPER)
    assert re.findall(r"((?:ld|st)\.global(?:\.cs)?)\.", text) == [
        "ld.global.cs", "st.global", "ld.global.cs", "st.global.cs", "ld.global", "st.global",
    ]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_persistent_grid_changes_nothing_of_the_arithmetic(family: Family) -> None:
    kind = Specialization(family, ADAM, FLOAT32, FLOAT32, False)
    ptx = compiled(UpdateKernel(kind, THREADS, 1, persistent=True))
    check_arithmetic(ptx, kind, elements=kind.lanes)
    check_memory(ptx, kind, vectors=1)
    assert "%nctaid.x" in ptx.text
    assert "%nctaid.x" not in compiled(UpdateKernel(kind, THREADS, 1)).text


def test_the_kernels_compile_the_rule_that_all_engines_share() -> None:
    def make(fma: Any, sqrt: Any) -> Any:
        def update(p, g, s0, s1, s2, c):  # type: ignore[no-untyped-def]
            return sqrt(sqrt(p)), s0, s1, s2

        return update

    kind = Specialization("flat", replace(ADAM, make=make), FLOAT32, FLOAT32, False)
    ptx = compiled(UpdateKernel(kind, THREADS, 1))
    assert ptx.count(r"sqrt\.rn\.f32") == 2 * 4
    assert ptx.count(r"div\..*") == 0


# ---- Machine code ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["multi_tensor", "rows"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids="sm_{0[0]}{0[1]}".format)
def test_every_architecture(family: Family, architecture: tuple[int, int]) -> None:
    grad = FLOAT32 if family == "rows" else FLOAT16
    kind = Specialization(family, AMSGRAD, BFLOAT16, grad, True, average=family != "rows")
    _, ptx = nvvm.compile_ptx(UpdateKernel(kind, THREADS, 1), architecture)
    assert nvvm.link(ptx, architecture)[:4] == b"\x7fELF"


@pytest.mark.parametrize(
    "kind",
    [
        Specialization("flat", ADAM, FLOAT32, FLOAT32, False),
        Specialization("multi_tensor", ADAM, FLOAT32, FLOAT32, False),
        Specialization("multi_tensor", AMSGRAD, BFLOAT16, BFLOAT16, True),
        Specialization("multi_tensor", AMSGRAD, FLOAT64, FLOAT64, False),
        Specialization("multi_tensor", AMSGRAD, BFLOAT16, BFLOAT16, True, average=True),
        Specialization("multi_tensor", AMSGRAD, FLOAT64, FLOAT64, False, average=True),
        Specialization("strided", AMSGRAD, FLOAT16, FLOAT16, True, average=True),
        Specialization("rows", ADAM, FLOAT32, FLOAT32, False),
        Specialization("rows", AMSGRAD, FLOAT16, FLOAT32, True),
    ],
    ids=by_name,
)
def test_machine_code(kind: Specialization, tmp_path: Path) -> None:
    _, ptx = nvvm.compile_ptx(UpdateKernel(kind, THREADS, 1), HOPPER)
    sass = disassembled(ptx, tmp_path)
    if kind.family != "strided":
        assert "LDG.E.EF.128" in sass
        assert "STG.E.EF.128" in sass
    assert not spills(sass)
