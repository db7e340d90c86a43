"""What both languages agree on is spelled in Python alone: CUDA C++ has it from the header that Python writes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from gpu_adam.dtypes import FLOAT32, FORMATS
from gpu_adam.engines.compile import nvrtc
from gpu_adam.errors import CompileError, EngineUnavailable
from gpu_adam.kernels import abi, header, row
from gpu_adam.kernels.abi import ROLES
from gpu_adam.kernels.rules import nadam, rmsprop, shipped
from gpu_adam.kernels.specialization import CoalesceKernel
from gpu_adam.plan.tables import Gradient, MeasureTable, Table
from gpu_adam.strides import Walk
from tests.support.cuda_cpp import build

FILES = {name: text for name, text in nvrtc.sources().items() if name != header.NAME}

STRUCT = re.compile(r"^struct (\w+)Numbers \{\n(.*?)^\};\n", re.MULTILINE | re.DOTALL)

NUMBER = re.compile(r"\b(k[A-Z]\w*) = ([-+.\w]+)[,;]")


def defined(text: str) -> dict[str, float]:
    """The numbers that a part of the header defines."""
    found = [(name, float.fromhex(value) if "p" in value else int(value)) for name, value in NUMBER.findall(text)]
    assert len(dict(found)) == len(found), "no name comes twice"
    return dict(found)


COMMON = defined(STRUCT.sub("", header.text()))
OWN = {name: defined(text) for name, text in STRUCT.findall(header.text())}


def test_a_number_has_the_same_name_and_value_in_both() -> None:
    wanted = {
        header.cpp_name(name): value
        for module in (row, abi)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, int | float)
    }
    assert wanted.items() <= COMMON.items()
    assert (COMMON["kRowWords"], COMMON["kScale"], COMMON["kNorms"], COMMON["kLargestDouble"]) == (
        abi.ROW_WORDS, abi.SCALE, abi.NORMS, float(np.finfo(np.float64).max)
    )  # fmt: skip
    assert {header.cpp_name(format.name): place for place, format in enumerate(FORMATS)}.items() <= COMMON.items()


def test_every_rule_has_its_own_numbers() -> None:
    assert OWN.keys() == {rule.cuda.partition("<")[0] for rule in shipped().values()}
    assert OWN["RmsProp"] == {
        "kW": rmsprop.W, "kEps": rmsprop.EPS, "kMu": rmsprop.MU, "kA": rmsprop.A,
        "kAlpha": abi.OWN_0, "kMomentum": abi.OWN_1, "kEpsilon": abi.OWN_SETTINGS,
    }  # fmt: skip
    assert (OWN["NAdam"]["kProduct"], OWN["NAdam"]["kFaded"]) == (nadam.PRODUCT, 2.0**-53)


def test_the_rows_of_a_table_of_chunks() -> None:
    table = Table(2, 3, strided=True)
    rows = [COMMON[f"k{role.capitalize()}Row"] for role in ROLES]
    assert rows == [*range(len(ROLES))]
    assert (COMMON["kState1Row"], COMMON["kState2Row"]) == (COMMON["kState0Row"] + 1, COMMON["kState0Row"] + 2)
    table.pointers[:], table.begins[:], table.ends[:], table.rows[:] = 1, 2, 3, 4
    found = table.words[: COMMON["kTableRows"] * 2].reshape(-1, 2).tolist()
    assert [found[COMMON[f"k{name}Row"]] for name in ("Master", "Begin", "End", "Coefficients")] == [
        [1, 1], [2, 2], [3, 3], [4, 4]
    ]  # fmt: skip
    assert len(table.words) == COMMON["kTableRows"] * 2 + 2 * 3 + COMMON["kWalkWords"] * 2


def test_the_rows_of_a_table_of_gradients() -> None:
    walk = Walk((2500,), (1,), (2,))
    table = MeasureTable([Gradient(pointer, 2500, FLOAT32, walk, slot) for pointer, slot in ((64, 5), (128, 9))])
    found = table.words[: COMMON["kMeasureRows"] * 2].reshape(-1, 2).tolist()
    assert [found[COMMON[f"k{name}Row"]] for name in ("Pointer", "Size", "FirstLeaf", "Slot", "Format")] == [
        [64, 128], [2500, 2500], [0, 3], [5, 9], [COMMON["kFloat32"] + COMMON["kStrided"]] * 2
    ]  # fmt: skip
    assert len(table.words) == COMMON["kMeasureRows"] * 2 + table.leaves + COMMON["kMeasureWalkWords"] * 2


def test_no_file_spells_such_a_number_itself() -> None:
    names = {*COMMON, *(name for numbers in OWN.values() for name in numbers)}
    for file, text in FILES.items():
        assert "enum" not in text, file
        declared = set(re.findall(r"\b(?:bool|double|float|int|long) (k[A-Z]\w*)\b", text))
        assert not declared & names, file


@pytest.mark.parametrize(
    "name", ["kRowWords", "kSkips", "kLossScale", "kScalerTracker", "kBfloat16", "kMasterRow", "kLeaf"]
)
def test_the_files_use_them(name: str) -> None:
    assert any(re.search(rf"\b{name}\b", text) for text in FILES.values())


# ---- Compilers get the text

KERNEL = CoalesceKernel(FLOAT32, FLOAT32)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that no compiler takes."""
    texts = {**nvrtc.sources(), header.NAME: "#error the header was read\n"}
    for module in (nvrtc, build):
        monkeypatch.setattr(module, "sources", lambda: texts)


def test_nvrtc_reads_it(refused: None) -> None:
    try:
        nvrtc.version()
    except EngineUnavailable as unavailable:
        pytest.skip(str(unavailable))
    with pytest.raises(CompileError, match="the header was read"):
        nvrtc.build(nvrtc.files_of(KERNEL), [nvrtc.expression_of(KERNEL)], "sm_90")


@pytest.mark.skipif(build.missing is not None, reason=str(build.missing))
def test_gcc_reads_it(refused: None, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the header was read"):
        build.build([KERNEL], build.FAST, tmp_path)


@pytest.mark.skipif(build.missing is not None, reason=str(build.missing))
def test_gcc_and_nvrtc_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = {}

    def compiled(text: str, file: Path, flags: object) -> Path:
        read.update({one.name: one.read_text() for one in file.parent.iterdir()})
        raise InterruptedError

    monkeypatch.setattr(build, "_compile", compiled)
    with pytest.raises(InterruptedError):
        build.build([KERNEL], build.FAST, tmp_path)
    assert read == nvrtc.sources()
