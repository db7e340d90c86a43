"""The ledger: its counts are what the rules ask for, its table what the compiler makes of the kernels, its page what the table says."""

from __future__ import annotations

import doctest
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu_proof import profiled
from benchmarks.ledger import __main__ as program
from benchmarks.ledger import beside as besides
from benchmarks.ledger import entries, model, paths, sass, tables
from benchmarks.ledger.beside import measurements
from benchmarks.ledger.entries import entry
from benchmarks.ledger.machines import ARCHITECTURES, MACHINES
from benchmarks.ledger.model import Work, bounds, predict, resident_blocks
from benchmarks.ledger.page import DATA, PAGE, page
from benchmarks.ledger.subjects import ADAM, Subject, subjects
from benchmarks.ledger.subjects import RULES as COUNTED
from gpu_adam import GpuAdam
from gpu_adam.dtypes import FLOAT32, FLOAT64
from gpu_adam.engines.compile import nvrtc
from gpu_adam.errors import EngineUnavailable
from gpu_adam.kernels.specialization import UpdateKernel
from tests.support.shipped import RULES

LEDGER = json.loads(DATA.read_text(encoding="utf-8"))
ROWS = {(row["kernel"], row["architecture"]): row for row in LEDGER["rows"]}

SHOWN = 90
"""The architecture of which every kernel is compiled anew; of the others the first one is."""

REGISTERS, INSTRUCTIONS = 16, 0.25
"""How far another compiler than the recorded one may be off: in registers, and in the share of a turn's instructions. Releases of NVRTC
differ by a few; more than this means that a kernel has changed, or that the path was not found."""

COMPILED = [(subject, SHOWN) for subject in subjects()]
COMPILED += [(next(subjects()), architecture) for architecture in ARCHITECTURES if architecture != SHOWN]


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    try:
        nvrtc.supported_architectures()
        sass.tool("nvdisasm"), sass.tool("cuobjdump")
    except (EngineUnavailable, FileNotFoundError) as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize(("subject", "architecture"), COMPILED, ids=lambda value: getattr(value, "name", f"sm_{value}"))
def test_the_table_is_what_the_compiler_makes(subject: Subject, architecture: int) -> None:
    """Where it differs, ``python -m benchmarks.ledger --publish`` writes it anew: the diff then shows what a change costs."""
    if architecture not in nvrtc.supported_architectures():
        pytest.skip(f"NVRTC {'.'.join(map(str, nvrtc.version()))} does not know sm_{architecture}")
    now, then = entry(subject, architecture), ROWS[subject.name, architecture]
    if now.pop("compiler") == LEDGER["compiler"]:
        assert json.loads(json.dumps(now)) == then
        return
    for same in ("threads", "elements", "turns", "read", "written"):
        assert now[same] == then[same]
    for kind in ("load", "store"):
        assert now["turn"].get(kind) == then["turn"].get(kind)
    assert abs(now["registers"] - then["registers"]) <= REGISTERS
    instructions = sum(then["turn"].values())
    assert abs(sum(now["turn"].values()) - instructions) <= INSTRUCTIONS * instructions


def test_the_table_holds_every_rule_and_architecture() -> None:
    assert set(RULES) == set(COUNTED)
    assert set(ROWS) == {(subject.name, architecture) for subject in subjects() for architecture in ARCHITECTURES}


def test_the_page_is_what_the_table_says() -> None:
    """Where it differs, ``python -m benchmarks.ledger --page --publish`` writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == page(LEDGER, measurements())


def test_the_page_can_be_written_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a GPU's results have come."""
    (tmp_path / "gpu-proof-h100.json").write_text(json.dumps(result()), encoding="utf-8")
    monkeypatch.setattr(besides, "RESULTS", tmp_path)
    monkeypatch.setattr(program, "entry", None)
    assert program.main(["--page", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "LEDGER.md").read_text(encoding="utf-8") == page(LEDGER, [("gpu-proof-h100.json", result())])


UPDATES = [subject for subject in subjects() if isinstance(subject.kernel, UpdateKernel)]


@pytest.mark.parametrize("subject", UPDATES, ids=lambda subject: subject.name)
def test_the_counts_are_those_of_the_rule(subject: Subject) -> None:
    """Known without looking at machine code: bytes in words of 16, one division and root a rule, and the rule's own sums."""
    kind = subject.kernel.specialization  # type: ignore[union-attr]
    for architecture in ARCHITECTURES:
        row = ROWS[subject.name, architecture]
        turn, elements = Counter(row["turn"]), row["elements"]
        if kind.family != "strided":
            assert turn["load"] * 16 == kind.bytes_read * elements
            assert turn["store"] * 16 == kind.bytes_written * elements
        if kind.rule is ADAM and kind.family != "strided":
            scaled, decayed, moments, step, averaged = 1, 2, 5, 2, 2 * kind.average
            arithmetic = scaled + decayed + moments + step + averaged
            if kind.working is FLOAT32:
                root, quotient = 4, 5
                assert turn["fp32"] == (arithmetic + root + quotient) * elements
                # Two special functions and the check of the division's operands.
                assert turn["special"] == 3 * elements
                assert not turn["fp64"]
            elif kind.working is FLOAT64:
                assert turn["fp64"] > arithmetic * elements
                assert turn["special"] == 2 * elements


def test_the_fast_paths_are_fast() -> None:
    assert {row["strays"] for row in LEDGER["rows"]} == {0}


@pytest.mark.parametrize("family", ["flat", "multi_tensor"])
def test_the_fast_path_is_part_of_the_code(family: str) -> None:
    subject = next(subject for subject in subjects() if subject.family == family)
    code = entries.compiled(subject.kernel, SHOWN)
    path, loop = entries.fast_path(subject, paths.Graph(code.instructions))
    # The rest is for single elements, subnormal numbers and infinities.
    assert len(path) < len(code.instructions) / 2
    assert (loop is None) == (family == "flat")


def instructions(*lines: str) -> tuple[sass.Instruction, ...]:
    parsed = []
    for line in lines:
        guard, _, rest = line.rpartition("@")[2].partition(" ") if line.startswith("@") else ("", "", line)
        opcode, _, operands = rest.partition(" ")
        parsed.append(sass.Instruction(opcode, tuple(operands.split(",")) if operands else (), guard))
    return tuple(parsed)


def test_a_predicate_stays_decided_until_it_is_written_again() -> None:
    graph = paths.Graph(
        instructions(
            "ISETP.GE P0,PT,R1,R2,PT",
            "@P0 BRA 0x40",
            "LDG.E.EF.128 R4,[R8]",
            "BRA 0x50",
            "LDG.E.EF R4,[R8]",
            "@!P0 STG.E.EF.128 [R8],R4",
            "@P0 STG.E.EF [R8],R4",
            "ISETP.GE P0,PT,R3,R2,PT",
            "@P0 EXIT",
            "@!P0 STG.E.EF.128 [R8],R4",
            "EXIT",
        )
    )
    path = graph.fast_path(entries.WIDE, entries.NARROW)
    works = [step.instruction.opcode for step in path if step.works and ".EF" in step.instruction.opcode]
    assert works == ["LDG.E.EF.128", "STG.E.EF.128", "STG.E.EF.128"]
    assert len(path) == 10
    assert paths.count(path)["control"] == 1 + 1 + 1 + 1 + 1


def test_loops_are_gone_round_once() -> None:
    graph = paths.Graph(
        instructions(
            "MOV R1,RZ",
            "LDG.E.EF.128 R4,[R8]",
            "LDC R2,c[0x0]",
            "@P1 BRA 0x20",
            "@P0 CALL.REL.NOINC 0x60",
            "BRA 0x10",
            "EXIT",
        )
    )
    path = graph.fast_path(entries.WIDE, entries.NARROW)
    assert [step.instruction.base for step in path] == ["MOV", "LDG", "LDC", "BRA", "CALL", "EXIT"]
    assert [step.loops for step in path] == [(), (1,), (1, 2), (1, 2), (1,), ()]


@pytest.mark.parametrize("module", [sass, model, tables], ids=lambda module: module.__name__)
def test_the_examples_in_docstrings(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


WORK = Work(
    threads=256,
    registers=40,
    shared=0,
    elements=4,
    turns=1,
    read=16,
    written=12,
    asked=64,
    setup={},
    turn={"load": 4, "store": 3, "fp32": 76, "special": 12, "integer": 50},
    chain=1,
)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_the_largest_bound_is_the_prediction(machine: Any) -> None:
    found = predict(WORK, machine)
    assert found.binds == "memory"
    assert found.nanoseconds == max(bounds(WORK, machine).values())
    assert found.of_copy == pytest.approx(1)
    assert 0 < found.next[1] < 1


def test_float64_binds_where_there_is_little_of_it() -> None:
    work = replace(WORK, turn={"fp64": 400})
    binding = {machine.name: predict(work, machine).binds for machine in MACHINES}
    assert binding["RTX 4090"] == "fp64"
    assert binding["H100"] == "memory"


@pytest.mark.parametrize(
    ("architecture", "threads", "registers", "blocks"),
    [
        (90, 256, 32, 8),
        (90, 256, 33, 6),
        (90, 256, 255, 1),
        (90, 1024, 32, 2),
        (86, 256, 32, 6),
        (75, 128, 64, 8),
        (90, 32, 32, 32),
        (80, 256, 40, 6),
        (89, 256, 40, 6),
        (100, 256, 44, 5),
        (120, 256, 64, 4),
    ],
)
def test_occupancy(architecture: int, threads: int, registers: int, blocks: int) -> None:
    """As NVIDIA's occupancy calculator has it."""
    assert resident_blocks(architecture, threads, registers) == blocks


def test_shared_memory_limits_the_blocks_too() -> None:
    """Of 228 KiB on sm_90 a block takes its own and one more; on sm_75 of 64 KiB its own alone."""
    assert resident_blocks(90, 256, 32, shared=37 << 10) == 6
    assert resident_blocks(75, 128, 32, shared=16 << 10) == 4


def result(**more: Any) -> dict[str, Any]:
    """Made-up results of a GPU: an update, the norm of its gradients, and a step that is too short to be compared."""
    flat = "adam_flat_float32_float32"
    kernels = [
        {"name": flat, "case": "single-256Mi", "label": "GpuAdam cupy packed", "how": "events", "elements": 1 << 28,
         "seconds": 2.6e-3, "bytes": 28 << 28},
        {"name": "measure_float32", "case": "single-64Mi", "how": "ncu", "elements": 1 << 26, "seconds": 100e-6, "bytes": 4 << 26},
        {"name": flat, "case": "single-1Ki", "label": "GpuAdam cupy packed", "how": "events", "elements": 1 << 10,
         "seconds": 3e-6, "bytes": 28 << 10},
    ]  # fmt: skip
    machine = {"gpu": "NVIDIA H100 80GB HBM3", "multiprocessors": 132}
    return {"dry_run": False, "machine": machine, "kernels": kernels, "parts": {}, **more}


def beside(found: dict[str, Any]) -> list[list[str]]:
    text = page(LEDGER, [("gpu-proof-example.json", found)])
    lines = [line for line in text.splitlines() if "gpu-proof-example.json" in line]
    return [line.strip("| ").split(" | ") for line in lines]


def test_measurements_stand_beside_predictions() -> None:
    flat, measured = beside(result())
    assert flat[:6] == [
        "flat float32, single-256Mi, GpuAdam cupy packed, events", "268,435,456", "2,491.3", "2,600.0", "1.04", "2,891"
    ]  # fmt: skip
    one = ROWS["measure_float32", 90]["predictions"]["H100"]["nanoseconds"] * (1 << 26) / 1e9
    assert measured[0].startswith("measure float32, single-64Mi")
    assert measured[2:5] == [f"{one * 1e6:,.1f}", "100.0", f"{100e-6 / one:.2f}"]


def test_cards_that_share_a_name_are_told_apart() -> None:
    for machine in ({"gpu": "NVIDIA H100 PCIe", "multiprocessors": 114}, {"gpu": "NVIDIA GH200 480GB"}):
        assert {line[2] for line in beside(result(machine=machine))} == {"not predicted"}


def test_dry_runs_are_no_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(besides, "RESULTS", tmp_path)
    for name, dry_run in (("gpu-proof-dry-run.json", True), ("gpu-proof-h100.json", False)):
        (tmp_path / name).write_text(json.dumps(result(dry_run=dry_run)), encoding="utf-8")
    assert [name for name, _ in measurements()] == ["gpu-proof-h100.json"]


def test_the_names_are_those_that_a_gpu_proof_writes() -> None:
    """Of updates and of norms: the page finds a prediction by its kernel's name."""
    optimizer = GpuAdam([np.zeros(1000, np.float32)], max_grad_norm=1.0, engine="cpu", pack=True)
    optimizer.step()
    names = [launch["name"] for launch in profiled.launches(optimizer)]
    assert names == ["measure_float32", "adam_flat_float32_float32"]
    assert all((name, 90) in ROWS for name in names)
