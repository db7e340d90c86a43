"""The benchmarks' goals, tables and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as program
from benchmarks import clocks, cpu, goals, overhead, report, startup, variants
from benchmarks.cases import QUICK
from tests.benchmarks.tiny_cases import TINY, TINY_OTHERS, TINY_VARIANTS


def results(**changes: float) -> dict[str, Any]:
    """Made-up figures that reach every goal, but for the changes."""
    figures = {
        "to_limit": 1.0,
        "to_torch": 0.01,
        "clipping": 1.1,
        "averaging": 1.3,
        "clipping to_torch": 0.01,
        "rows": 0.02,
        "packed": 1e-5,
        "import": 0.1,
        "step": 0.5,
        "peak": 0.0,
        **changes,
    }
    row = {"to_limit": figures["to_limit"], "to_torch": figures["to_torch"]}
    names = ("single-16Mi", "thousand", "gpt2-124m", "resnet50")

    def added(name: str, what: str, **ratios: float) -> dict[str, Any]:
        variant = name.partition("-")[0]
        rows = [{"label": f"{way}, {what}", **ratios} for way in goals.WAYS]
        return {"name": name, "rows": [*rows, {"label": variants.PAIRS[variant]}]}  # type: ignore[index]

    clipping = {"to_plain": figures["clipping"], "to_torch": figures["clipping to_torch"]}
    return {
        "cases": [
            *({"name": n, "rows": [{"label": label, **row} for label in (*goals.WAYS, "torch fused")]} for n in names),
            added("clip-single-16Mi", "clipping", **clipping),
            added("clip-thousand", "clipping", **clipping),
            added("average-single-16Mi", "averaging", to_plain=figures["averaging"]),
            added("rows-100000x256", "rows", to_plain=figures["rows"]),
        ],
        "overhead": [
            {"label": label, "tensors": tensors, "median": seconds}
            for label in overhead.PACKED
            for tensors, seconds in ((1, 1e-5), (10_000, figures["packed"]))
        ],
        "startup": {
            "import GpuAdam": figures["import"],
            "first step warm": figures["step"],
            "peak": {"GpuAdam in place": figures["peak"], "GpuAdam packed": figures["peak"]},
        },
    }


def test_goals_are_all_there() -> None:
    found = goals.cpu_goals(results())
    assert len(found) == 2 + 2 * 4 + 2 * 4 + 1 + 4 * 2 + 2 + 2
    assert all(goal.reached for goal in found)


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({"to_limit": 1.06}, 2),
        ({"to_torch": 0.06}, 2),  # the thousand alone
        ({"to_torch": 1.01}, 8),
        ({"clipping": 1.26}, 2),
        ({"clipping to_torch": 0.06}, 2),
        ({"clipping to_torch": 0.67}, 4),
        ({"averaging": 1.36}, 2),
        ({"rows": 0.031}, 1),
        ({"packed": 1.6e-5}, 4),
        ({"packed": 3.1e-5}, 8),
        ({"import": 0.21}, 1),
        ({"step": 1.6}, 1),
        ({"peak": 1.0}, 2),
    ],
)
def test_goals_can_be_missed(change: dict[str, float], missed: int) -> None:
    found = goals.cpu_goals(results(**change))
    assert sum(not goal.reached for goal in found) == missed
    assert report.goals_table(found).count("  NO") == missed


def test_without_figures_there_are_no_goals() -> None:
    assert goals.cpu_goals({"cases": [], "overhead": [], "startup": None}) == []


def test_a_case_is_checked_timed_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "MIN_SAMPLE", 0.0)
    result = cpu.run_case(TINY, repeats=2, budget=0.0)
    table = report.case_table(result)
    assert "tiny: 4 tensors, 33 elements of float32" in table
    for row in result["rows"]:
        assert row["label"] in table
        assert row["rounds"] == 2


def test_a_ratio_is_to_the_step_without_the_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "MIN_SAMPLE", 0.0)
    result = cpu.run_case(TINY_VARIANTS[3], repeats=2, budget=0.0)
    table = report.case_table(result)
    assert "1 tensor, 240 elements of float32, of which 66 change" in table
    assert "x torch: torch SparseAdam" in table
    ratios = {row["label"]: row["to_plain"] for row in result["rows"]}
    assert ratios["GpuAdam cpu in place, rows"] > 0
    assert ratios["GpuAdam cpu in place"] is None


def test_a_ratio_is_to_the_same_optimizer_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(clocks, "MIN_SAMPLE", 0.0)
    for name, torch in (("sgd", "torch fused"), ("nadam", "torch foreach")):
        (case,) = (case for case in TINY_OTHERS if case.optimizer == name)
        result = cpu.run_case(case, repeats=2, budget=0.0)
        assert (result["optimizer"], result["torch"]) == (name, torch)
        assert all(row["to_torch"] > 0 for row in result["rows"])
        assert f"x torch: {torch})" in report.case_table(result)


def test_a_run_prints_and_saves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(clocks, "MIN_SAMPLE", 0.0)
    figures = {"import": 0.0, "import GpuAdam": 0.1, "first step cold": 2.0, "first step warm": 0.5}
    peak = {"GpuAdam in place": 0.0, "GpuAdam packed": 0.0, "NumPy": None}
    monkeypatch.setattr(startup, "measure", lambda *arguments: {**figures, "peak": peak})
    assert program.main(["--quick", "--only", "arrays", "--repeats", "1", "--budget", "0", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "step outside the kernel" in said
    assert "goals" in said
    saved = json.loads((tmp_path / "cpu-quick.json").read_text(encoding="utf-8"))
    assert [case["name"] for case in saved["cases"]] == [case.name for case in QUICK]
    assert saved["machine"]["cores"] >= 1
    assert "numpy" in saved["versions"]
    assert (tmp_path / "cpu-quick.png").read_bytes().startswith(b"\x89PNG")


def test_options_that_make_no_sense_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--cases", "nosuch"], ["--repeats", "0"], ["--dry-run"], ["--device", "cuda", "--quick"]):
        with pytest.raises(SystemExit):
            program.main(arguments)
        assert arguments[-1 if "--device" in arguments else 0] in capsys.readouterr().err or "nosuch" in arguments
