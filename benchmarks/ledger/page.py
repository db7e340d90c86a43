"""The ledger as a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .beside import beside
from .entries import recorded
from .machines import ARCHITECTURES, MACHINES
from .model import bounds, idle_tail, wanted
from .subjects import ADAM, RULES
from .tables import Row, label, table

HERE = Path(__file__).parent
PAGE, DATA, FINDINGS = HERE / "LEDGER.md", HERE / "ledger.json", HERE / "findings.md"

COUNT = 1 << 28
SHOWN = 90
"""The architecture whose instructions the page shows; ``ledger.json`` has all."""

_HEAD = """# The ledger

What {compiler} made of the kernels, counted in the machine code, and the times that follow; no GPU took part.
`python -m benchmarks.ledger` writes this page and [ledger.json](ledger.json), which has every kernel on every architecture;
`tests/benchmarks/test_ledger.py` compiles anew and compares, so that a change of a kernel shows what it costs.
With `--page` it compiles nothing: for when results of a GPU have come.

- **Counted** is the fast path: aligned tensors, whole vectors, no subnormal, infinite or NaN operand. [paths.py](paths.py) says how it
  is found in the control flow of the disassembly and where the method ends.
- **Predicted** is the largest of the bounds in [model.py](model.py), with the figures in [machines.py](machines.py): the bytes at a plain
  copy's speed, the instructions at one a cycle and scheduler, the lanes for float32, float64, integers and special functions, and the
  latency of loads for the threads that fit, each of which is taken to run as one chain of dependent instructions. *Next* is the second
  largest as a share of it: how near anything else is to binding.
- What no bound has in it: the launch (2 to 4 µs), the last wave, the memory's refresh beyond what a copy loses, other kernels.
- Strided tensors are predicted at their best, as if the cache made every byte that is fetched useful; rows are of 4,096 elements; a list
  of tensors comes in chunks of 65,536; gradients are measured by leaves of 1,024. The sum of equal rows is left out: its work depends on
  the data.
"""

_OF_INSTRUCTIONS = """Setup is shared out over the elements. *Rest* is addresses, comparisons and moves, uniform ones too; *control* has the
branches around the slow paths of division and square root and around the accesses of single elements, and where they meet again.
"""

_OF_REGISTERS = """Registers of a thread, blocks of 256 threads that fit a multiprocessor, KiB of loads that these can ask for at once.
"""

CHUNKS, WAVES = (1024, 4096, 16_384, 65_536), (4, 8, 16, 32, 64)

_OF_CHUNKS = """By the elements of a chunk, the latency bound as a share of the memory's: what short chunks cost, each of which looks
itself up in the table first. By the chunks that each multiprocessor finds, its waves, the most that the last chunk may add to a step,
alone on the memory.
"""


def page(ledger: Mapping[str, Any], measured: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The page.

    Args:
        ledger: What ``ledger.json`` has.
        measured: Results from GPUs, by the name of their file.
    """
    rows: list[Row] = ledger["rows"]
    adams = [row for row in rows if row["kernel"].startswith(("adam_", "measure")) and "amsgrad" not in row["kernel"]]
    sections = [
        _HEAD.format(compiler=f"NVRTC {ledger['compiler']}"),
        f"## Predicted for {COUNT:,} elements\n",
        table(["", *(f"{machine.name}" for machine in MACHINES)], _predicted(adams)),
        "Milliseconds, the share of the memory's bandwidth by the datasheet, and what binds where it is not the memory.\n",
        _copies(),
        f"## Instructions for one element, sm_{SHOWN}\n",
        table(
            ["", "bytes read + written", "all", *_COLUMNS, "loads of 16 B", "stores", "next"],
            _instructions([row for row in adams if row["architecture"] == SHOWN]),
        ),
        _OF_INSTRUCTIONS,
        "## Registers, resident blocks and loads in flight\n",
        table(["", *(f"sm_{architecture}" for architecture in ARCHITECTURES)], _registers(adams)),
        _OF_REGISTERS + _spills(rows),
        table(["wanted by Little's law", *(machine.name for machine in MACHINES)], [_wanted()]),
        f"## The other rules, float32, sm_{SHOWN}\n",
        table(
            ["", "bytes", "instructions", "registers flat", "multi-tensor", "H100, ms", "next"],
            _rules([row for row in rows if row["architecture"] == SHOWN]),
        ),
        "## Chunks of multi-tensor float32\n",
        table(
            ["", *(f"{chunk:,}" for chunk in CHUNKS), *(f"{waves} waves" for waves in WAVES)],
            _chunks([row for row in rows if row["kernel"] == "adam_multi_tensor_float32_float32"]),
        ),
        _OF_CHUNKS,
        "## Prediction beside measurement\n",
        beside(rows, measured),
        FINDINGS.read_text(encoding="utf-8"),
    ]
    return "\n".join(sections)


def _grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["kernel"], []).append(row)
    return grouped


def _predicted(rows: Iterable[Row]) -> Iterator[list[str]]:
    for kernel, members in _grouped(rows).items():
        found = {name: one for row in members for name, one in row["predictions"].items()}
        yield [label(kernel), *(_cell(found[machine.name]) for machine in MACHINES)]


def _cell(one: Mapping[str, Any]) -> str:
    binds = "" if one["binds"] == "memory" else f", {one['binds']}"
    return f"{one['nanoseconds'] * COUNT / 1e6:.2f} ({one['share']:.0%}{binds})"


def _copies() -> str:
    shares = ", ".join(f"{machine.name} {machine.copied:.0%} of {machine.bandwidth:,} GB/s" for machine in MACHINES)
    return f"A plain copy reaches: {shares}.\n"


_COLUMNS = {
    "fp32": ("fp32", "half"),
    "fp64": ("fp64",),
    "MUFU, FCHK": ("special",),
    "convert": ("convert", "widen"),
    "IMAD": ("multiply",),
    "rest": ("integer", "uniform"),
    "other memory": ("other",),
    "control": ("control",),
}


def _instructions(rows: Iterable[Row]) -> Iterator[list[str]]:
    for row in rows:
        each = recorded(row).per_element
        columns = [_number(sum(each.get(kind, 0) for kind in kinds)) for kinds in _COLUMNS.values()]
        wide = [_number(each.get(kind, 0)) for kind in ("load", "store")]
        name, behind = next(iter(row["predictions"].values()))["next"]
        bytes_moved = f"{row['read']} + {row['written']}"
        yield [label(row["kernel"]), bytes_moved, _number(sum(each.values())), *columns, *wide, f"{name} {behind:.0%}"]


def _number(value: float) -> str:
    return f"{value:.3g}" if value else ""


def _registers(rows: Iterable[Row]) -> Iterator[list[str]]:
    for kernel, members in _grouped(rows).items():
        found = {row["architecture"]: row for row in members}
        yield [
            label(kernel),
            *(
                f"{row['registers']} · {row['blocks']} · {row['in_flight'] >> 10}"
                for row in (found[architecture] for architecture in ARCHITECTURES)
            ),
        ]


def _spills(rows: Iterable[Row]) -> str:
    spilled = [f"{row['kernel']} on sm_{row['architecture']} ({row['stack']} bytes)" for row in rows if row["stack"]]
    return f"Spilled: {', '.join(spilled)}.\n" if spilled else "Nothing is spilled.\n"


def _wanted() -> list[str]:
    return ["KiB for each multiprocessor", *(f"{wanted(machine) / 1024:.0f}" for machine in MACHINES)]


def _rules(rows: Sequence[Row]) -> Iterator[list[str]]:
    found = {row["kernel"]: row for row in rows}
    for rule in RULES.values():
        if rule is ADAM:
            continue
        flat, multi = (found[f"{rule.symbol}_{family}_float32_float32"] for family in ("flat", "multi_tensor"))
        one = flat["predictions"]["H100"]
        name, behind = one["next"]
        yield [
            rule.name,
            str(flat["read"] + flat["written"]),
            _number(sum(recorded(flat).per_element.values())),
            str(flat["registers"]),
            str(multi["registers"]),
            _cell(one),
            f"{name} {behind:.0%}",
        ]


def _chunks(rows: Iterable[Row]) -> Iterator[list[str]]:
    found = {row["architecture"]: recorded(row) for row in rows}
    for machine in MACHINES:
        work = found[machine.architecture]
        cut = [bounds(replace(work, turns=chunk / (work.threads * work.elements)), machine) for chunk in CHUNKS]
        latency = [f"{one['latency'] / one['memory']:.0%}" for one in cut]
        yield [machine.name, *latency, *(f"{idle_tail(work, machine, waves):.1%}" for waves in WAVES)]
