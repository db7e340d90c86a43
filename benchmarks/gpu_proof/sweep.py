"""Other policies than the usual: which is the fastest for each family and format, by device time against a copy."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from gpu_adam.arrays import to_host
from gpu_adam.dtypes import Format, format_named
from gpu_adam.engines import engine_named
from gpu_adam.engines.cuda.arguments import update_kernel
from gpu_adam.kernels.specialization import HINTS
from gpu_adam.plan.policy import Policy

from ..cases import GPT2, Case, in_format, single
from ..clocks import HostClock, Timed, gpu_clock
from ..limit import limit as limit_of
from ..place import Place
from ..plain import bound
from ..record import Report
from ..start import Start
from ..timing import by_turns, median

SECONDS = 0.25
"""For the rounds of one policy."""

ROUNDS = 9
STEPS = 3
"""Of which the bits are compared with the usual policy's."""

MIN_GAIN = 0.02
"""What a policy must be faster by to be named instead of the usual one; less is noise."""

COMPILERS = 8


def policies(family: str, param: Format, usual: Policy) -> Iterator[Policy]:
    """The policies to try for a format, the usual first, then with one thing changed, by what is most likely to matter.

    A persistent grid of four blocks is about what a multiprocessor holds at once, one of eight balances better.
    """
    geometry = usual.geometry(param)

    def changed(**what: Any) -> Policy:
        return replace(usual, **{param.name: replace(geometry, **what)})

    found = [usual, changed(vectors=2), changed(blocks=4), changed(blocks=8)]
    found += [changed(hint=hint) for hint in HINTS]
    found += [changed(threads=512), changed(threads=128)]
    if family == "multi_tensor":
        found += [replace(usual, max_chunk=usual.max_chunk * k // 4) for k in (1, 2, 8)]
        found += [replace(usual, waves=waves) for waves in (16, 32, 128)]
    found += [changed(threads=threads, vectors=vectors) for vectors in (2, 4) for threads in (128, 256, 512)]
    yield from dict.fromkeys(found)


def told(family: str, param: Format, policy: Policy) -> dict[str, Any]:
    """What of a policy matters to a family and a format, for JSON."""
    chunks = {name: getattr(policy, name) for name in ("waves", "max_chunk")} if family == "multi_tensor" else {}
    return {**asdict(policy.geometry(param)), **chunks}


def cases(dry_run: bool) -> list[tuple[str, Case]]:
    """Families, and the case that each is measured on: about 1 GB a step where it is one tensor.

    The kernels of float16 are bfloat16's but for two conversions.
    """
    if dry_run:
        return [("flat", single(12)), ("multi_tensor", single(12, "bfloat16")), ("flat", single(12, "float64"))]
    half, double = (in_format(name, GPT2) for name in ("bfloat16", "float64"))
    single_cases = (single(25), single(25, "bfloat16"), single(24, "float64"))
    pairs = zip(single_cases, (GPT2, half, double), strict=True)
    return [found for flat, tensors in pairs for found in (("flat", flat), ("multi_tensor", tensors))]


def run(report: Report, arguments: dict[str, Any]) -> None:
    """Try them all, as far as the time goes."""
    place = Place.gpu(report.dry_run)
    clock = gpu_clock(place)
    engine = engine_named(place.engines[0])
    usual = engine.policy
    pending = cases(report.dry_run)
    tables: list[dict[str, Any]] = []
    report.result |= {"engine": engine.name, "tables": tables}
    for number, (family, case) in enumerate(pending):
        end = report.seconds_left * (1 - 1 / (len(pending) - number))
        chosen = list(policies(family, format_named(case.format), usual))[: 3 if report.dry_run else None]
        table: dict[str, Any] = {"family": family, "case": case.name, "format": case.format, "rows": []}
        tables.append(table)
        try:
            _sweep(table, family, case, chosen, place, clock, lambda end=end: report.seconds_left - end)
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
    limit = Timed(limit_of(case, place))
    limit.step()

    def made(policy: Policy) -> Any:
        engine.policy = policy
        return bound(start, engine.name, library, pack=family == "flat")

    _compile(engine, made(chosen[0]), chosen)
    expected = None
    for policy in chosen:
        row: dict[str, Any] = {"policy": told(family, format_named(case.format), policy)}
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
                "limit": replace(limit, samples={}),
                "step": Timed(optimizer.step),
            }
            by_turns(timed, clock, rounds=2 if place.dry_run else ROUNDS, seconds=SECONDS)
            seconds, copy = (timed[name].samples.get("device") for name in ("step", "limit"))
            if seconds and copy:
                row |= {"seconds": median(seconds), "to_limit": median(seconds) / median(copy)}
            (launch,) = optimizer.plan.launches
            row |= {"grid": launch.grid, "chunk": launch.chunk, "elements": launch.elements}
        except Exception as error:
            row["left_out"] = f"{type(error).__name__}: {error}"[:300]


def _compile(engine: Any, optimizer: Any, chosen: list[Policy]) -> None:
    """Compile the kernels several at a time; NVRTC lets other threads run meanwhile. One that cannot be is found out when it is used."""
    if engine.name != "cupy":
        return
    from gpu_adam.engines.compile import nvrtc

    (launch,) = optimizer.plan.launches
    capability = engine._cuda.capability(launch.device.index)
    param = launch.specialization.param
    kernels = {update_kernel(replace(launch, geometry=policy.geometry(param))) for policy in chosen}
    with ThreadPoolExecutor(COMPILERS) as pool:
        for done in [pool.submit(nvrtc.compile_kernel, kernel, capability) for kernel in kernels]:
            done.exception()


def best(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The policy with the least time over the copy's, among those with the right bits; the usual where no other is clearly faster."""
    timed = [row for row in rows if row.get("same_bits") and row.get("to_limit")]
    if not timed:
        return None
    usual, fastest = timed[0], min(timed, key=lambda row: row["to_limit"])
    return fastest if fastest["to_limit"] < (1 - MIN_GAIN) * usual["to_limit"] else usual
