"""Groups that are added one by one, by the thousand: what a group costs does not grow with those that are there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_adam import GpuAdam, GpuSgd
from gpu_adam.arrays import overlap, probe
from gpu_adam.arrays.overlap import Occupied, shares_memory

Array = NDArray[Any]


def pieces(rng: np.random.Generator, count: int, memory: Array) -> list[Array]:
    """Stretches, columns and empty parts of one memory."""
    found = []
    for _ in range(count):
        start, size = int(rng.integers(len(memory) - 64)), int(rng.integers(0, 9))
        step = int(rng.choice([1, 1, 1, 2, 5]))
        found.append(memory[start : start + size * step : step])
    return found


@pytest.mark.parametrize("seed", range(8))
def test_memory_that_grows_is_looked_up_as_if_it_had_been_given_at_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    memory = np.zeros(4000, np.float32)
    refs = [probe(piece) for piece in pieces(rng, 120, memory)]
    grown = Occupied(refs[:20])
    k = 20
    while k < len(refs):
        count = int(rng.choice([1, 1, 2, 30]))
        grown.extend(refs[k : k + count])
        k += count
    at_once = Occupied(refs)
    for other in pieces(rng, 60, memory):
        ref = probe(other)
        expected = {
            k for k, one in enumerate(refs) if ref.shape != (0,) and one.shape != (0,) and shares_memory(one, ref)
        }
        assert set(grown.overlapping(ref)) == set(at_once.overlapping(ref)) == expected
        ends = [np.array([end]) for end in overlap.reach(ref)]
        assert grown.are_clear(*ends) == at_once.are_clear(*ends)


@pytest.mark.parametrize("pack", [False, True])
def test_the_cost_of_a_group(pack: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [0]
    inner = overlap.reach

    def counted(ref: Any) -> tuple[int, int]:
        calls[0] += 1
        return inner(ref)

    monkeypatch.setattr(overlap, "reach", counted)
    count = 1000
    arrays = [np.ones(3, np.float32) for _ in range(count)]
    opt = GpuSgd([arrays[0]], lr=0.5, pack=pack)
    for array in arrays[1:]:
        opt.add_param_group({"params": [array]})
    assert calls[0] < 40 * count
    opt.step([np.ones(3, np.float32) for _ in range(count)])
    assert all((group[0] == 0.5).all() for group in opt.params)


@pytest.mark.parametrize("pack", [False, True])
def test_overlaps_are_found_after_every_addition(pack: bool) -> None:
    rng = np.random.default_rng(0)
    memory = np.zeros(40_000, np.float32)
    places = rng.permutation(1000)[:200] * 40
    arrays = [memory[at : at + 30 : 1 + k % 2] for k, at in enumerate(places)]
    opt = GpuAdam([{"params": [arrays[0]]}], pack=pack)
    for k, array in enumerate(arrays[1:], start=1):
        opt.add_param_group({"params": [array]})
        if k % 20 == 0:
            # Packed, the parameters are no longer in the memory that they came in.
            taken = opt.params[int(rng.integers(k))][0]
            known = len(opt.param_groups)
            with pytest.raises(
                ValueError, match=f"parameter 0 of group {known} (overlap in memory|are the same array)"
            ):
                opt.add_param_group({"params": [taken[3:9]]})
            fresh = np.zeros(9, np.float32)
            with pytest.raises(
                ValueError, match=f"parameter 1 of group {known} (overlap in memory|are the same array)"
            ):
                opt.add_param_group({"params": [fresh, fresh[2:]]})
            assert len(opt.param_groups) == known
    opt.step([[np.ones_like(array) for array in group] for group in opt.params])


def test_memory_that_has_moved_is_followed() -> None:
    torch = pytest.importorskip("torch")
    first, second, third = (torch.nn.Parameter(torch.zeros(8)) for _ in range(3))
    opt = GpuAdam([{"params": [first]}])
    opt.add_param_group({"params": [second]})
    before = first.data
    first.data = torch.zeros(8)
    third.data = first.data[2:6]
    with pytest.raises(ValueError, match="parameter 0 of group 0 and parameter 0 of group 2 overlap in memory"):
        opt.add_param_group({"params": [third]})
    third.data = before
    opt.add_param_group({"params": [third]})


def test_a_group_that_is_refused_leaves_its_memory_free() -> None:
    array = np.zeros(4, np.float32)
    opt = GpuAdam([{"params": [np.zeros(4, np.float32)]}])
    with pytest.raises(ValueError, match="lr"):
        opt.add_param_group({"params": [array], "lr": -1.0})
    with pytest.raises(TypeError):
        opt.add_param_group({"params": [array, 3]})
    opt.add_param_group({"params": [array]})
