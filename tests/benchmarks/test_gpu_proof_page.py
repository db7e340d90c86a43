"""What ``python -m benchmarks --device cuda`` makes of its figures: goals, the page, README's table. All figures are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import goals, markdown, record
from benchmarks.gpu_proof import (
    page,
    prove,
    readme,
    sanitizers,
    sections,
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
        "pools": False,
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
    names = ("single-256Mi", "single-1Ki", "gpt2-124m", "3000x3500", "small-model")
    plain = [case(name, ours + others) for name in names]
    clipped = [row("GpuAdam cupy packed, clipping", f["clip"]), row("torch fused, clip_grad_norm_", 2.0)]
    count = {"launches": 1, "copies": 1, "synchronisations": 0, "allocations": f["allocations"]}
    profiler = {**count, "allocations": f["profiled"], "waits for an event": 1}
    found = {
        "bits": {"same": f["bits"], "of": 10, "table": []},
        "tests": {"passed": 5, "failed": f["failed"], "skipped": 0, "of": 5, "unfinished": 0,
                  "failures": {}, "uncollected": {}, "skips": {}},
        "sanitizers": {"tools": {tool: {"status": "done", "errors": f["errors"] if tool == "memcheck" else 0, "told": []}
                                 for tool in sanitizers.TOOLS}},
        "bench": {"cases": [*plain, *(case(name, ours + clipped, "clip") for name in goals.CLIPPED)], "kernels": [], "missing": []},
        "counts": {"rows": [{"engine": "cupy", "program": "packed", "a_step": count, "planned_launches": 1,
                             "pools_changed": f["pools"], "profiler": profiler}]},
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
    """The targets, each a row: those of proof, the copy, one tensor, two lists, clipping, the host, the replay, what a step asks for."""
    found = goals.gpu_goals(made_up())
    assert all(goal.reached for goal in found)
    assert len(found) == (1 + 2 + 3) + 2 + 4 + 4 + 3 + 2 + 2


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({"packed": 1.04}, 2),  # the copy's bandwidth, both ways
        ({"packed": 1.3}, 4),  # and 3,000 × 3,500
        ({"packed": 6.0}, 6),  # and GPT-2
        ({"packed": 26.0}, 10),  # and torch fused at any size
        ({"host": 21e-6}, 1),
        ({"replay": 11e-6}, 1),
        ({"clip": 1.4}, 3),
        ({"bits": 9}, 1),
        ({"failed": 1}, 1),
        ({"errors": 1}, 1),
        ({"allocations": 0.1}, 1),
        ({"profiled": 1}, 1),
        ({"pools": True}, 1),
    ],
)
def test_goals_can_be_missed(change: dict[str, Any], missed: int) -> None:
    found = goals.gpu_goals(made_up(**change))
    assert sum(not goal.reached for goal in found) == missed


def test_goals_without_figures_are_not_measured() -> None:
    found = goals.gpu_goals({"dry_run": False, "parts": {}})
    assert {goal.verdict for goal in found} == {"not measured"}
    assert len(found) == len(goals.gpu_goals(made_up()))
    part = {"status": "timed out", "seconds": 1.0, "why": "stopped after 9 s"}
    begun = {
        "sanitizers": {"tools": {"memcheck": {"status": "timed out", "errors": None, "told": []}}},
        "bench": {"cases": []},
    }
    unfinished = {
        name: {**part, "result": begun.get(name, {})} for name in ("bits", "bench", "tests", "sanitizers", "counts")
    }
    assert {goal.verdict for goal in goals.gpu_goals({"dry_run": False, "parts": unfinished})} == {"not measured"}


def test_a_missed_goal_says_by_how_much() -> None:
    assert goals.Goal("", 1.2, 1.5, False, "x").verdict == "NO, by 20.0%"
    assert goals.Goal("", 3, 0, True, "n").verdict == "NO, by 3"


def test_a_dry_run_has_no_goals() -> None:
    assert goals.gpu_goals({**made_up(), "dry_run": True}) == []


def test_a_list_s_goal_says_what_the_memory_allows() -> None:
    (one, _) = (goal for goal in goals.gpu_goals(made_up()) if goal.what.startswith("GPT-2"))
    assert one.what.endswith("torch fused's (a copy: 25.5 x)")


def test_the_page_tells_of_goals_and_of_what_is_missing() -> None:
    results = made_up(bits=9)
    results["goals"] = [goal.as_dict() for goal in goals.gpu_goals(results)]
    results["parts"]["bits"]["result"]["table"] = [
        {"engine": "cupy", "optimizer": "GpuAdam", "settings": "", "same": 9, "of": 10, "different": {"that one": "p differs"},
         "status": "died", "why": "by SIGSEGV"},
    ]  # fmt: skip
    told = page.page(results, ["a.png"])
    assert told.startswith("# GPU proof: Test GPU")
    assert "| programs with other bits than the cpu engine's, or not come to | at most 0 | 1 | NO, by 1 |" in told
    assert "| GpuAdam | cupy | 10 | 9 | 1 | 0 | died by SIGSEGV |" in told
    assert "- cupy: that one: p differs" in told
    assert "| sweep | not begun |" in told
    assert "![](a.png)" in told


def test_readme_has_the_newest_figures(tmp_path: Path) -> None:
    assert readme.block(tmp_path) == readme.NONE
    results = made_up()
    results["goals"] = [goal.as_dict() for goal in goals.gpu_goals(results)]
    record.write(tmp_path / "gpu-proof-test-gpu-2026-01-02.json", results)
    record.write(tmp_path / "gpu-proof-dry-run-2026-02-02.json", {**results, "dry_run": True, "date": "2026-02-02"})
    record.write(
        tmp_path / "gpu-proof-old-2025-01-02.json", {**results, "date": "2025-01-02", "machine": {"gpu": "Old"}}
    )
    block = readme.block(tmp_path)
    assert f"Of {len(results['goals'])} goals {len(results['goals'])} are reached, 0 missed and 0 not measured" in block
    assert "Test GPU, driver 1.2, torch 9.9" in block
    assert "| one tensor of 256 Mi float32 | 1 s | 98% | 1 s | 25 |" in block
    assert "| clipping, 64 Mi | 1 s | 98% | 1 s | 2 (torch fused, clip_grad_norm_) |" in block


def test_readmes_block_is_replaced_between_its_comments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"before\n\n{readme.BEGIN}\n\nold\n\n{readme.END}\n\nafter\n"
    assert markdown.replaced(text, readme.BEGIN, readme.END, "new") == text.replace("old", "new")
    for wrong in ("nothing", f"{readme.END}{readme.BEGIN}", text + text):
        with pytest.raises(ValueError, match="needs <!-- gpu figures"):
            markdown.replaced(wrong, readme.BEGIN, readme.END, "new")
    path = tmp_path / "README.md"
    path.write_text("nothing", encoding="utf-8")
    assert prove.update_readme(tmp_path, path) == 1
    path.write_text(text, encoding="utf-8")
    assert prove.update_readme(tmp_path, path) == 0
    assert readme.NONE in path.read_text(encoding="utf-8")
    assert readme.NONE in capsys.readouterr().out


def test_a_section_that_cannot_be_made_costs_no_other(tmp_path: Path) -> None:
    results = made_up()
    results["parts"]["tests"]["result"].pop("failures")
    prove.save(tmp_path / "gpu-proof-x.json", results)
    told = (tmp_path / "gpu-proof-x.md").read_text(encoding="utf-8")
    assert "Not shown, but in the JSON: KeyError: 'failures'" in told
    assert "### single-256Mi" in told


def test_goals_that_cannot_be_told_cost_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prove, "gpu_goals", lambda results: 1 / 0)
    prove.save(tmp_path / "gpu-proof-x.json", made_up())
    assert record.read(tmp_path / "gpu-proof-x.json")["parts"]["bits"]["result"]["same"] == 10
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_figures_that_json_does_not_have_are_left_out(tmp_path: Path) -> None:
    record.write(tmp_path / "r.json", {"losses": [1.0, float("nan")], "most": (float("inf"),)})
    assert record.read(tmp_path / "r.json") == {"losses": [1.0, None], "most": [None]}
    row = {
        "engine": "cupy",
        "way": "w",
        "accuracy": 0.1,
        "steps": 1,
        "seconds": 1.0,
        "step_seconds": 1.0,
        "first_loss": 2.0,
    }
    told = sections.training({"data": "digits", "images": 1, "rows": [{**row, "last_loss": None}]})
    assert "2 to not finite" in told[-1]
