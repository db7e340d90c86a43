"""The container images' lock files fit pyproject.toml, and the Dockerfile fits the checkout. `make image-check` builds and runs them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from gpu_adam.cli import main

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
EXTRAS = {"cpu": "proof", "cuda12": "train-cuda12", "cuda13": "train-cuda13"}
"""What each lock file pins; the one called "build" pins what the wheel is built with."""

ENVIRONMENTS = [
    {
        "python_version": version,
        "python_full_version": f"{version}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
    }
    for version in ("3.11", "3.12", "3.13", "3.14")
    for machine in ("x86_64", "aarch64")
]

if not DOCKER.is_dir():
    pytest.skip("needs a checkout", allow_module_level=True)


def pyproject() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python reads TOML from 3.11 on")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def wanted(lock: str) -> Iterator[Requirement]:
    """The requirements in pyproject.toml that a lock file answers, those of extras that an extra names included."""
    told = pyproject()
    if lock == "build":
        yield from map(Requirement, told["build-system"]["requires"])
        return
    project = told["project"]
    waiting = [*project["dependencies"], f"{project['name']}[{EXTRAS[lock]}]"]
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.name == project["name"]:
            waiting += [one for extra in requirement.extras for one in project["optional-dependencies"][extra]]
        else:
            yield requirement


def entries(lock: str) -> list[str]:
    """A lock file's entries, each with its hashes."""
    text = (DOCKER / f"requirements-{lock}.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("lock", [*EXTRAS, "build"])
def test_every_entry_of_a_lock_is_a_version_with_hashes(lock: str) -> None:
    for entry in entries(lock):
        assert re.fullmatch(r"[\w.-]+==[\w.+!]+( ; [^#@]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*", entry), entry


@pytest.mark.parametrize("lock", [*EXTRAS, "build"])
def test_locks_answer_the_requirements(lock: str) -> None:
    pins = [Requirement(entry.partition("--hash")[0]) for entry in entries(lock)]
    for environment in ENVIRONMENTS:
        here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(environment)]
        versions = {pin.name: str(pin.specifier).removeprefix("==") for pin in here}
        assert len(versions) == len(here), f"two versions of one package on {environment}"
        for requirement in wanted(lock):
            if requirement.marker is None or requirement.marker.evaluate(environment):
                name = re.sub(r"[-_.]+", "-", requirement.name).lower()
                assert requirement.specifier.contains(versions[name]), f"{requirement} on {environment}: run make lock"


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    let_through = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DOCKER / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert "gpu_adam" in names
    for name in names:
        assert (ROOT / name).exists()
        assert name in let_through


def test_bench_is_a_command_where_the_benchmarks_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["bench", "--help"])
    assert exit.value.code == 0
    assert "--device" in capsys.readouterr().out


def test_bench_says_where_the_benchmarks_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks", None)
    monkeypatch.delitem(sys.modules, "benchmarks.__main__", raising=False)
    assert main(["bench"]) == 1
    assert "not in the wheel" in capsys.readouterr().err
