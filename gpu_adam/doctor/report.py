"""All that was found, as text and for JSON."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .. import __version__
from ..engines.compile import disk as cache
from ..engines.threads import VARIABLE
from .examination import EngineReport
from .machine import Machine


@dataclass(frozen=True)
class Report:
    """All that was found.

    Attributes:
        machine: The hardware.
        packages: The version of each of ``PACKAGES``, ``None`` where it is not installed.
        conflict: Which packages cannot stand side by side and do, and what to do.
        cache_folder: Where compiled kernels are kept.
        cache_writable: Whether they can be.
        cache_fault: Why they cannot be, and what to do.
        engines: What became of each.
    """

    machine: Machine
    packages: dict[str, str | None]
    conflict: str | None
    cache_folder: str
    cache_writable: bool
    cache_fault: str | None
    engines: list[EngineReport]

    @property
    def status(self) -> int:
        """0 if an engine works and none that runs is wrong, else 1."""
        return 0 if any(e.works for e in self.engines) and all(e.sound for e in self.engines) else 1


def describe(report: Report) -> str:
    """The report as text."""
    machine = report.machine
    here = [f"{name} {found}" for name, found in report.packages.items() if found is not None]
    reason = f" ({report.cache_fault})" if report.cache_fault else ""
    unwritable = (
        f"NOT writable{reason}: kernels that cannot be read from it are compiled again in each process; "
        f"set {cache.VARIABLE} to another folder"
    )
    asked = "" if machine.threads is None else f"; {VARIABLE}={machine.threads}"
    lines = [
        f"gpu_adam {__version__}, Python {platform.python_version()}, {machine.system}",
        _entry("processor", f"{machine.cpu}, {machine.processors} usable ({machine.processors_source}){asked}"),
        _entry("GPUs", ", ".join(machine.gpus) or f"none: {machine.no_gpu}"),
        *([_entry("driver", machine.driver)] if machine.driver else []),
        _entry("packages", ", ".join(here)),
        *([_entry("conflict", report.conflict)] if report.conflict else []),
        _entry("cache", f"{report.cache_folder}, {'writable' if report.cache_writable else unwritable}"),
    ]
    for engine in report.engines:
        lines += ["", *_describe_engine(engine, machine)]
    working = [engine.name for engine in report.engines if engine.works]
    wrong = [engine.name for engine in report.engines if not engine.sound]
    lines.append("")
    lines.append(f"can be used: {', '.join(working) or 'no engine'}")
    if wrong:
        lines.append(f"must not be used: {', '.join(wrong)}; please report it, with this page")
    return "\n".join(lines)


def _describe_engine(engine: EngineReport, machine: Machine) -> Iterator[str]:
    if engine.unavailable is not None:
        yield f"engine {engine.name!r} cannot run"
        yield _entry("why", "no GPU, see above" if engine.unavailable == machine.no_gpu else engine.unavailable)
        return
    yield f"engine {engine.name!r} {'works' if engine.sound else 'IS BROKEN'}"
    if engine.error is not None:
        yield _entry("error", engine.error)  # with all its lines: a compiler's log is among them
    if engine.compile_seconds is not None:
        yield _entry("first kernel", f"{engine.compile_seconds:.2f} s, compiled or taken from the cache")
    for check in engine.checks:
        yield _entry("bits", f"{check.what}: {'as the reference' if check.difference is None else check.difference}")
    if engine.speed is not None:
        speed = engine.speed
        yield _entry(
            "speed",
            f"{speed.share:.0%} of a copy's: a step on {speed.elements:,} parameters moves {speed.step / 1e9:.1f} GB/s, "
            f"the copy {speed.copy / 1e9:.1f} GB/s",
        )
    if engine.speed_error is not None:
        yield _entry("speed", f"not measured ({' '.join(engine.speed_error.split())})")


def _entry(name: str, text: str) -> str:
    return f"  {name:14}{text}"


def as_dict(report: Report) -> dict[str, Any]:
    """The report for JSON."""
    found = asdict(report)
    for told, engine in zip(found["engines"], report.engines, strict=True):
        told["works"] = engine.works
        if engine.speed is not None:
            told["speed"]["share"] = engine.speed.share
    return {"gpu_adam": __version__, "python": platform.python_version(), "status": report.status, **found}
