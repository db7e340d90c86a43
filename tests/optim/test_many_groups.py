"""Groups that are added one by one, by the thousand: what a group costs does not grow with those that are there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_adam import GpuAdam, GpuSgd
from gpu_adam.arrays import overlap, probe, structs
from gpu_adam.arrays.overlap import Occupied, shares_memory
from gpu_adam.optim import groups
from gpu_adam.state import apart
from gpu_adam.state import residence as parameters

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


@pytest.mark.parametrize("options", [{}, {"pack": True}, {"max_grad_norm": 1.0, "group_norms": True}], ids=str)
def test_what_is_looked_at_grows_with_the_groups(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    looked = [0]

    def counting(module: Any, name: str, cost: Any = lambda *args: 1) -> None:
        inner = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            looked[0] += cost(*args)
            return inner(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    counting(parameters, "param_ref")
    counting(structs, "owner_of")
    counting(groups.Groups, "hold", lambda self, found: len(found))
    counting(apart.Apart, "_extend", lambda self, refs: len(refs))
    counting(apart.Apart, "_follow", lambda self, refs: len(refs))
    counting(parameters._Part, "is_unchanged", lambda self: len(self.params))

    def cost(count: int) -> int:
        looked[0] = 0
        arrays = [np.ones(2, np.float32) for _ in range(count)]
        opt = GpuAdam([arrays[0]], **options)
        for array in arrays[1:]:
            opt.add_param_group({"params": [array]})
        grads = [np.ones(2, np.float32) for _ in range(count)]
        opt.step(grads)
        opt.load_state_dict(opt.state_dict())
        opt.step(grads)
        assert len(opt.state_dict()["state"]) == count
        return looked[0]

    few, many = cost(350), cost(700)
    assert many - few < 80 * 350


def test_memory_that_moves_while_many_groups_are_added() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    tensors = [torch.nn.Parameter(torch.zeros(4)) for _ in range(700)]
    opt = GpuAdam([{"params": tensors[:300]}], lr=0.5)
    for k in range(300, 700):
        if rng.random() < 0.2:
            tensors[rng.integers(k)].data = torch.ones(4)
        opt.add_param_group({"params": [tensors[k]]})
    before = [t.detach().clone() for t in tensors]
    for t in tensors:
        t.grad = torch.ones(4)
    opt.step()
    for t, old in zip(tensors, before, strict=True):
        assert torch.allclose(t, old - 0.5)
    # In memory that a parameter has moved to: told by the addition, or by the next step, before anything has changed.
    fresh = torch.nn.Parameter(torch.zeros(4))
    opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(4))]})
    tensors[5].data = torch.zeros(8)[:4]
    before = [t.detach().clone() for t in tensors]
    fresh.data = tensors[5].data[1:3]

    def added_and_stepped() -> None:
        opt.add_param_group({"params": [fresh]})
        opt.step()

    with pytest.raises(ValueError, match="overlap in memory"):
        added_and_stepped()
    assert all(torch.equal(t, old) for t, old in zip(tensors, before, strict=True))


def test_memory_that_moved_and_was_looked_at_before_an_addition() -> None:
    torch = pytest.importorskip("torch")
    looks: list[Any] = [lambda opt: opt.reread_params(), lambda opt: opt.state_dict(), lambda opt: str(opt.plan)]
    for look in looks:
        tensors = [torch.nn.Parameter(torch.zeros(4)) for _ in range(300)]
        opt = GpuAdam([{"params": [t]} for t in tensors])
        for _ in range(2):
            opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(4))]})
        before = tensors[5].data
        tensors[5].data = torch.zeros(8)[:4]
        look(opt)
        # Where it was is free, and where it is now is not.
        opt.add_param_group({"params": [torch.nn.Parameter(before)]})
        with pytest.raises(ValueError, match="overlap in memory"):
            opt.add_param_group({"params": [torch.nn.Parameter(tensors[5].data[1:3])]})


def test_groups_that_are_edited_while_many_are_added() -> None:
    arrays = [np.zeros(2, np.float32) for _ in range(400)]
    opt = GpuSgd([{"params": [array]} for array in arrays[:300]], lr=1.0)
    opt.add_param_group({"params": [arrays[300]]})
    # Moved to another group, before the next is added.
    moved = opt.param_groups[0]["params"].pop()
    opt.param_groups[1]["params"].append(moved)
    opt.param_groups[1]["lr"] = 3.0
    opt.add_param_group({"params": [arrays[301]]})
    opt.step([np.ones(2, np.float32) for _ in range(302)])
    assert (arrays[0] == -3.0).all()
    assert (arrays[1] == -3.0).all()
    assert all((array == -1.0).all() for array in arrays[2:302])
    opt.add_param_group({"params": [arrays[302]]})
    gone = opt.param_groups.pop(7)
    with pytest.raises(ValueError, match="param_groups has groups of"):
        opt.add_param_group({"params": [arrays[303]]})
    opt.param_groups.insert(7, gone)
    opt.add_param_group({"params": [arrays[303]]})
    opt.step([np.ones(2, np.float32) for _ in range(304)])
    assert (arrays[303] == -1.0).all()


def test_loading_and_freezing_between_additions() -> None:
    torch = pytest.importorskip("torch")
    for options in ({}, {"pack": True}):
        tensors = [torch.nn.Parameter(torch.full((3,), float(k)), requires_grad=k % 3 > 0) for k in range(600)]
        opt = GpuSgd([{"params": tensors[:300]}], lr=1.0, **options)
        for k in range(300, 600):
            opt.add_param_group({"params": [tensors[k]]})
            if k == 400:
                opt.load_state_dict(opt.state_dict())
            if k % 50 == 0:
                tensors[k - 50].requires_grad_(True)
                with torch.no_grad():
                    tensors[k - 1].add_(1000.0)
        before = [t.detach().clone() for t in tensors]
        for t in tensors:
            if t.requires_grad:
                t.grad = torch.ones(3)
        opt.step()
        for t, old in zip(tensors, before, strict=True):
            assert torch.equal(t, old - 1.0 if t.requires_grad else old)


def strided(rng: np.random.Generator, memory: Array) -> Array:
    """A stretch, column, block or single element of a memory, in one of two formats."""
    size = int(rng.choice([4, 8]))
    whole = memory.view(np.float32 if size == 4 else np.float64)
    start = int(rng.integers(len(whole) - 1))
    shape = tuple(rng.integers(1, 5, rng.integers(0, 3)).tolist())
    strides = rng.choice([1, 2, 3, 6, 12, 24], len(shape))
    reach = int(sum((n - 1) * step for n, step in zip(shape, strides, strict=True)))
    start = max(0, min(start, len(whole) - 1 - reach))
    array = np.lib.stride_tricks.as_strided(whole[start:], shape, tuple((strides * size).tolist()))
    return array[(*(slice(None, None, -1 if rng.random() < 0.3 else 1) for _ in shape), ...)]


@pytest.mark.parametrize("seed", range(6))
def test_whether_any_of_some_arrays_share_memory(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = [0, 0]
    for _ in range(150):
        memory = np.zeros(int(rng.choice([60, 200, 1000])), np.float64)
        refs = [probe(strided(rng, memory)) for _ in range(rng.integers(2, 9))]
        expected = {(k, n) for n in range(len(refs)) for k in range(n) if shares_memory(refs[k], refs[n])}
        conflict = Occupied(refs).conflict()
        assert (conflict is None) == (not expected)
        assert conflict is None or tuple(sorted(conflict)) in expected
        found[bool(expected)] += 1
    assert min(found) > 10


@pytest.mark.parametrize("shape", [(2, 1000), (5, 400, 2)])
def test_columns_are_not_compared_with_each_other(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    compared = [0]
    inner = overlap.shares_memory

    def counted(*refs: Any) -> bool:
        compared[0] += 1
        return inner(*refs)

    monkeypatch.setattr(overlap, "shares_memory", counted)
    matrix = np.zeros(shape, np.float32)
    GpuAdam([matrix[:, k] for k in range(shape[1])])
    assert compared[0] < shape[1]
    with pytest.raises(ValueError, match="overlap in memory"):
        GpuAdam([*(matrix[:, k] for k in range(shape[1])), matrix[1:, 7:9]])
