"""Other launch geometries than the policy's: which is the fastest for each family and format, by device time against a copy."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from gpu_adam.arrays import to_host
from gpu_adam.engines import engine_named
from gpu_adam.engines.gpu_kernels import update_kernel
from gpu_adam.plan import Policy

from ..cases import Case, gpt2_124m
from ..plain import bound
from ..start import Start
from .bench_cases import single
from .clocks import HostClock, clock_of
from .contenders import _copy as copy_of
from .place import Place
from .record import Report
from .timing import Timed, by_turns

SECONDS = 0.25
"""For the rounds of one geometry."""

ROUNDS = 9
STEPS = 3
"""Of which the bits are compared with the usual geometry's."""

MIN_GAIN = 0.02
"""What a geometry must be faster by to be named instead of the usual one; less is noise."""

COMPILERS = 8


def policies(family: str, usual: Policy) -> Iterator[Policy]:
    """The geometries to try, the usual first, by what is most likely to matter."""
    found = [usual]
    for threads in (128, 256, 512):
        for vectors in (1, 2, 4) if family == "flat" else (1, 2):
            found.append(replace(usual, threads=threads, vectors=vectors))
    if family == "multi_tensor":
        found += [replace(usual, max_chunk=usual.max_chunk * k // 4) for k in (1, 2, 8)]
        found += [replace(usual, waves=waves) for waves in (4, 16, 32)]
    yield from dict.fromkeys(found)


def cases(dry_run: bool) -> list[tuple[str, Case]]:
    """Families, and the case that each is measured on."""
    if dry_run:
        return [("flat", single(12)), ("multi_tensor", single(12, "bfloat16"))]
    gpt2 = Case("gpt2-124m", "list", tuple(gpt2_124m()))
    half = replace(gpt2, name="gpt2-124m-bfloat16", format="bfloat16")
    return [("flat", single(26)), ("multi_tensor", gpt2), ("flat", single(26, "bfloat16")), ("multi_tensor", half)]


def run(report: Report, arguments: dict[str, Any]) -> None:
    """Try them all, as far as the time goes."""
    place = Place.of(report.dry_run)
    clock = clock_of(place)
    engine = engine_named(place.engines[0])
    usual = engine.policy
    pending = cases(report.dry_run)
    tables: list[dict[str, Any]] = []
    report.result |= {"engine": engine.name, "tables": tables}
    for number, (family, case) in enumerate(pending):
        end = report.seconds_left * (1 - 1 / (len(pending) - number))
        chosen = list(policies(family, usual))[: 3 if report.dry_run else None]
        table: dict[str, Any] = {"family": family, "case": case.name, "format": case.format, "rows": []}
        tables.append(table)
        try:
            _sweep(table, family, case, chosen, place, clock, lambda end=end: report.seconds_left - end)  # type: ignore[misc]
        finally:
            engine.policy = usual
        table["best"] = best(table["rows"])
        report.save()


def _sweep(
    table: dict[str, Any],
    family: str,
    case: Case,
    chosen: list[Policy],
    place: Place,
    clock: HostClock,
    seconds_left: Any,
) -> None:
    engine, library = engine_named(place.engines[0]), place.native(place.engines[0])
    start = Start.of(case)
    limit = Timed(copy_of(start, place))
    limit.step()

    def made(policy: Policy) -> Any:
        engine.policy = policy
        return bound(start, engine.name, library, pack=family == "flat")

    _compile(engine, made(chosen[0]), chosen)
    expected = None
    for policy in chosen:
        row: dict[str, Any] = {"policy": asdict(policy)}
        table["rows"].append(row)
        if seconds_left() < 1.0:
            row["left_out"] = "the time was over"
            continue
        try:
            optimizer = made(policy)
            for _ in range(STEPS):
                optimizer.step()
            found = to_host(optimizer.params[0]).copy()
            expected = found if expected is None else expected
            word = f"u{found.dtype.itemsize}"
            row["same_bits"] = bool(np.array_equal(found.view(word), expected.view(word)))
            timed = {
                "limit": replace(limit, samples={name: [] for name in limit.samples}),
                "step": Timed(optimizer.step),
            }
            by_turns(timed, clock, rounds=2 if place.dry_run else ROUNDS, seconds=SECONDS)
            seconds, copy = (timed[name].samples["device"] for name in ("step", "limit"))
            if seconds and copy:
                row |= {"seconds": float(np.median(seconds)), "to_limit": float(np.median(seconds) / np.median(copy))}
            (launch,) = optimizer.plan.launches
            row |= {"grid": launch.grid, "chunk": launch.chunk, "elements": launch.elements}
        except Exception as error:
            row["left_out"] = f"{type(error).__name__}: {error}"[:300]


def _compile(engine: Any, optimizer: Any, chosen: list[Policy]) -> None:
    """Compile the kernels several at a time; NVRTC lets other threads run meanwhile. One that cannot be is found out when it is used."""
    if engine.name != "cupy":
        return
    from gpu_adam.engines import nvrtc

    (launch,) = optimizer.plan.launches
    capability = engine._cuda.capability(launch.device.index)
    lanes = launch.specialization.lanes
    launches = [
        replace(launch, block=policy.threads, chunk=policy.threads * policy.vectors * lanes) for policy in chosen
    ]
    kernels = {update_kernel(one, policy) for one, policy in zip(launches, chosen, strict=True)}
    with ThreadPoolExecutor(COMPILERS) as pool:
        for done in [pool.submit(nvrtc.compile_kernel, kernel, capability) for kernel in kernels]:
            done.exception()


def best(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The geometry with the least time over the copy's, among those with the right bits; the usual where no other is clearly faster."""
    timed = [row for row in rows if row.get("same_bits") and row.get("to_limit")]
    if not timed:
        return None
    usual, fastest = timed[0], min(timed, key=lambda row: row["to_limit"])
    return fastest if fastest["to_limit"] < (1 - MIN_GAIN) * usual["to_limit"] else usual
