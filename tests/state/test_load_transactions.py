"""A load is whole or not done, whatever stops it and wherever."""

from __future__ import annotations

import copy
import itertools
from collections import UserDict
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from gpu_adam.engines import cpu
from tests.state.snapshots import everything, unchanged
from tests.support.fault_injection import injected
from tests.support.libraries import address_of
from tests.support.reference import DTYPES, assert_same_bits
from tests.support.strategies import values

FORMATS = ("float16", "float32", "float64", "bfloat16")


def full(pack: bool) -> tuple[GpuAdam, dict[str, Any]]:
    """An optimizer with everything that can be kept, and the state of another one."""

    def made() -> GpuAdam:
        params = [values(DTYPES[name], 20, k, special=0.0) for k, name in enumerate(FORMATS)]
        groups = [{"params": params[:2], "lr": 0.5}, {"params": params[2:], "amsgrad": True}]
        return GpuAdam(groups, pack=pack, ema_decay=0.5, max_grad_norm=1e9, skip_nonfinite=True)

    optimizer, other = made(), made()
    other.param_groups[1].update(lr=0.25, initial_lr=1.0)
    for one, times in ((optimizer, 1), (other, 3)):
        one.step([[np.full(20, np.inf)] * 2, [np.ones(20)] * 2])
        for k in range(times):
            one.step([[np.full(20, k + 1.0)] * 2, [np.full(20, 0.5)] * 2])
    return optimizer, other.state_dict()


class Unreadable:
    """An array that looks well until its numbers are wanted."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **_: Any) -> Any:
        raise self.error


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("error", [BufferError("gone"), RuntimeError("gone"), MemoryError("gone"), KeyboardInterrupt()])
def test_an_array_that_cannot_be_read_changes_nothing(error: BaseException, pack: bool) -> None:
    optimizer, saved = full(pack)
    saved["state"][3]["average"] = Unreadable(error)
    wanted = ValueError if isinstance(error, BufferError) else type(error)
    unchanged(optimizer, lambda: optimizer.load_state_dict(saved), wanted)


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("method", ["allocate", "upload"])
def test_memory_that_runs_out_changes_nothing(pack: bool, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, saved = full(pack)
    works = getattr(cpu.CpuEngine, method)
    for allowed in itertools.count():
        calls = itertools.count()

        def fails(self: Any, *arguments: Any, calls: Any = calls, allowed: int = allowed) -> Any:
            if next(calls) >= allowed:
                raise MemoryError("no more")
            return works(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(cpu.CpuEngine, method, fails)
            try:
                before = everything(optimizer)
                optimizer.load_state_dict(saved)
                break
            except MemoryError:
                pass
        assert everything(optimizer) == before
    assert allowed > 8
    assert optimizer.steps_skipped == 1
    assert optimizer.param_groups[1]["initial_lr"] == 1.0


def test_an_interrupt_at_any_line_finds_the_old_state_or_the_new_one() -> None:
    optimizer, saved = full(pack=False)
    old = optimizer.state_dict()
    reference, _ = full(pack=False)
    reference.load_state_dict(saved)
    new = everything(reference)

    def interrupted_at(line: int) -> int:
        """Load, with an interrupt at one of the lines that run; how many were run."""
        return injected(lambda: optimizer.load_state_dict(saved), line, kind=KeyboardInterrupt)

    optimizer.load_state_dict(old)
    total = interrupted_at(0)
    assert total > 1000
    found = []
    for line in (*range(1, total - 20, 7), *range(total - 20, total + 1)):
        optimizer.load_state_dict(old)
        before = everything(optimizer)
        with pytest.raises(KeyboardInterrupt):
            interrupted_at(line)
        after = everything(optimizer)
        found.append(after["steps"])
        if after["steps"] == before["steps"]:
            assert after == before
        else:
            assert after == {**new, "params": before["params"], "memory": after["memory"]}
    assert before["steps"] in found
    assert new["steps"] in found


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
def test_a_load_that_failed_does_not_show_in_the_next_steps(pack: bool) -> None:
    (one, saved), (other, _) = full(pack), full(pack)
    saved["state"][3]["exp_avg"] = np.ones(3)
    with pytest.raises(ValueError, match="shape"):
        one.load_state_dict(saved)
    for optimizer in (one, other):
        optimizer.step([[np.full(20, 3.0)] * 2, [np.full(20, 0.5)] * 2])
    assert [np.array(p).tobytes() for group in one.params for p in group] == [
        np.array(p).tobytes() for group in other.params for p in group
    ]


@pytest.mark.parametrize("format", DTYPES)
@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float32", "float64"])
def test_what_a_cast_rounds_away_stops_no_load(format: str, stored: str) -> None:
    """Subnormals, and NaN that signal, in every format, for somebody who has all of NumPy's errors raised."""
    numbers = values(DTYPES[stored], 300, 5)
    with np.errstate(all="ignore"):
        fits = np.isfinite(numbers.astype(np.float32)) | ~np.isfinite(numbers)
        numbers[~fits] = 0
        signalling = np.array([1], "u4").view(np.float32) + np.float32(0)
        numbers[0] = signalling[0]
        wanted = numbers.astype(np.float64 if format == "float64" else np.float32)
    p = np.ones(300, DTYPES[format])
    optimizer = GpuAdam([p], ema_decay=0.5)
    optimizer.step([np.ones(300, np.float32)])
    saved = optimizer.state_dict()
    for key in ("exp_avg", "average", *(("master",) if "master" in saved["state"][0] else ())):
        saved["state"][0][key] = numbers
    with np.errstate(all="raise"):
        optimizer.load_state_dict(saved)
        state = optimizer.state_dict()["state"][0]
        copy.deepcopy(optimizer)
        optimizer.reread_params()
        with optimizer.averaged():
            pass
    for key in ("exp_avg", "average"):
        assert_same_bits(state[key], wanted, key)


def test_memory_of_its_own_and_the_callers_views_stay_apart() -> None:
    optimizer, saved = full(pack=True)
    params = [address_of(p) for group in optimizer.params for p in group]
    grads = [address_of(g) for group in optimizer.grads for g in group]
    optimizer.load_state_dict(saved)
    assert [address_of(p) for group in optimizer.params for p in group] == params
    assert [address_of(g) for group in optimizer.grads for g in group] == grads
    averages = [one for group in optimizer.averaged_params for one in group]
    kept = [one.copy() for one in averages]
    optimizer.load_state_dict(saved)  # views of the state of before are nobody's memory but their own
    optimizer.step([[np.ones(20)] * 2, [np.ones(20)] * 2])
    for one, value in zip(averages, kept, strict=True):
        assert_same_bits(one, value)


@pytest.mark.parametrize("place", [0, 1])
def test_a_group_that_is_no_dict_changes_nothing(place: int) -> None:
    params = [np.ones(3, np.float32), np.ones(4, np.float32)]
    opt = GpuAdam([{"params": [w]} for w in params], lr=0.1)
    saved = opt.state_dict()
    opt.step([w.copy() for w in params])
    opt.param_groups[place] = UserDict(opt.param_groups[place])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=rf"param_groups\[{place}\] is a collections.UserDict: must be a dict"):
        opt.load_state_dict(saved)
    assert [entry["step"] for entry in opt.state_dict()["state"].values()] == [1, 1]
