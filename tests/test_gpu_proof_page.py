"""What ``python -m benchmarks.gpu_proof`` makes of its figures: goals, the page, README's table. All figures are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_proof import __main__ as program
from benchmarks.gpu_proof import (
    goals,
    page,
    readme,
    record,
)
from benchmarks.start import LIMIT

# ---- Goals, the page and README ------------------------------------------------------------------------------------------------------


def made_up(**changes: Any) -> dict[str, Any]:
    """Results that reach every goal, but for the changes."""
    f = {
        "packed": 1.0,
        "host": 1e-5,
        "replay": 5e-6,
        "clip": 1.0,
        "bits": 10,
        "failed": 0,
        "errors": 0,
        "allocations": 0,
        "profiled": 0,
    }
    f |= changes

    def row(label: str, seconds: float, **more: Any) -> dict[str, Any]:
        times = {"device": seconds, "host": f["host"], "wall": seconds, "steady": f["replay"]}
        spread = {f"{name}_quartiles": [value, value] for name, value in times.items()}
        return {
            "label": label,
            "rounds": 5,
            **times,
            **spread,
            "bytes_per_second": 1e12,
            "to_limit": seconds / 0.98,
            **more,
        }

    def case(name: str, rows: list[dict[str, Any]], variant: str = "plain") -> dict[str, Any]:
        return {
            "name": name, "kind": "single", "format": "float32", "variant": variant, "tensors": 1, "elements": 1024, "bytes": 28672,
            "rows": rows, "left_out": {},
        }  # fmt: skip

    ours = [row(f"GpuAdam cupy {way}", f["packed"]) for way in ("packed", "in place")]
    others = [row(LIMIT, 0.98), row("torch fused", 25.0), row("GpuAdam cupy packed, graph replay", 1.0)]
    plain = [
        case(name, ours + others) for name in ("single-256Mi", "single-1Ki", "gpt2-124m", "3000x3500", "small-model")
    ]
    clipped = [row("GpuAdam cupy packed, clipping", f["clip"]), row("torch fused, clip_grad_norm_", 2.0)]
    count = {"launches": 1, "copies": 1, "synchronisations": 0, "allocations": f["allocations"]}
    profiler = {**count, "allocations": f["profiled"], "waits for an event": 1}
    found = {
        "bits": {"same": f["bits"], "of": 10, "table": [], "unfinished": 0},
        "tests": {"passed": 5, "failed": f["failed"], "skipped": 0, "of": 5, "unfinished": 0, "failures": {}, "skips": {}},
        "sanitizers": {"tools": {"memcheck": {"status": "done", "errors": f["errors"], "told": []}}},
        "bench": {"cases": [*plain, case("clip-single-64Mi", ours + clipped, "clip")], "kernels": [], "missing": []},
        "counts": {"rows": [{"engine": "cupy", "program": "packed", "a_step": count, "planned_launches": 1, "pools_changed": False,
                             "profiler": profiler}]},
    }  # fmt: skip
    return {
        "dry_run": False,
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"gpu": "Test GPU", "driver": "1.2"},
        "versions": {"torch": "9.9"},
        "commit": "abc",
        "source": "def",
        "kernels": [],
        "goals": [],
        "parts": {
            name: {"status": "done", "seconds": 1.0, "dry_run": False, "result": part} for name, part in found.items()
        },
    }


def test_goals_are_all_there() -> None:
    found = goals.goals(made_up())
    assert all(goal.reached for goal in found)
    assert len(found) == 1 + 2 + 1 + 2 + 4 + 4 + 2 + 1 + 2


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({"packed": 1.04}, 2),  # the copy's bandwidth
        ({"packed": 1.3}, 4),  # and 3,000 × 3,500
        ({"packed": 6.0}, 6),  # and GPT-2
        ({"packed": 26.0}, 10),  # and torch fused at any size
        ({"host": 21e-6}, 1),
        ({"replay": 11e-6}, 1),
        ({"clip": 1.4}, 1),
        ({"bits": 9}, 1),
        ({"failed": 1}, 1),
        ({"errors": 1}, 1),
        ({"allocations": 0.1}, 1),
        ({"profiled": 1}, 1),
    ],
)
def test_goals_can_be_missed(change: dict[str, Any], missed: int) -> None:
    found = goals.goals(made_up(**change))
    assert sum(not goal.reached for goal in found) == missed


def test_without_figures_and_in_a_dry_run_there_are_no_goals() -> None:
    assert goals.goals({"dry_run": False, "parts": {}}) == []
    assert goals.goals({**made_up(), "dry_run": True}) == []


def test_the_page_tells_of_goals_and_of_what_is_missing() -> None:
    results = made_up(bits=9)
    results["goals"] = [goal.as_dict() for goal in goals.goals(results)]
    results["parts"]["bits"]["result"]["table"] = [
        {"engine": "cupy", "optimizer": "GpuAdam", "settings": "", "same": 9, "of": 10, "different": {"that one": "p differs"},
         "missing": [], "status": "died", "why": "by SIGSEGV"},
    ]  # fmt: skip
    told = page.page(results, ["a.png"])
    assert told.startswith("# GPU proof: Test GPU")
    assert "| programs whose bits are the cpu engine's | at least 10 | 9 | **no** |" in told
    assert "- cupy: that one: p differs" in told
    assert "| sweep | not begun |" in told
    assert "![](a.png)" in told


def test_readme_has_the_newest_figures(tmp_path: Path) -> None:
    assert readme.block(tmp_path) == readme.NONE
    results = made_up()
    results["goals"] = [goal.as_dict() for goal in goals.goals(results)]
    record.write(tmp_path / "gpu-proof-test-gpu-2026-01-02.json", results)
    record.write(tmp_path / "gpu-proof-dry-run-2026-02-02.json", {**results, "dry_run": True, "date": "2026-02-02"})
    record.write(
        tmp_path / "gpu-proof-old-2025-01-02.json", {**results, "date": "2025-01-02", "machine": {"gpu": "Old"}}
    )
    block = readme.block(tmp_path)
    assert "Test GPU, driver 1.2, torch 9.9" in block
    assert "| one tensor of 256 Mi float32 | 1 s | 98% | 1 s | 25 |" in block
    assert "| clipping, 64 Mi | 1 s | 98% | 1 s | 2 (torch fused, clip_grad_norm_) |" in block


def test_readmes_block_is_replaced_between_its_comments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"before\n\n{readme.BEGIN}\n\nold\n\n{readme.END}\n\nafter\n"
    assert readme.updated(text, "new") == text.replace("old", "new")
    for wrong in ("nothing", f"{readme.END}{readme.BEGIN}", text + text):
        with pytest.raises(ValueError, match="needs <!-- gpu figures"):
            readme.updated(wrong, "new")
    path = tmp_path / "README.md"
    path.write_text("nothing", encoding="utf-8")
    assert program.update_readme(tmp_path, path) == 1
    path.write_text(text, encoding="utf-8")
    assert program.update_readme(tmp_path, path) == 0
    assert readme.NONE in path.read_text(encoding="utf-8")
    assert readme.NONE in capsys.readouterr().out
