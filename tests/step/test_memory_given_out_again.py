"""A step updates what a name means now, or says what changed: memory that was freed, cut or resized, and given out again."""

from __future__ import annotations

import gc

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from gpu_adam import GpuAdam, GpuSgd  # noqa: E402
from gpu_adam.arrays import Lifetime, libraries  # noqa: E402
from tests.step.watched_memory import DEPRECATED, FORMATS, PACK, READING, Watched, dtype_of  # noqa: E402
from tests.support.torch_tensors import as_torch  # noqa: E402

pytestmark = DEPRECATED


def test_the_first_example() -> None:
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    optimizer = GpuSgd([p], lr=0.1)
    p.data = p.data.view(torch.bfloat16)
    p.data.fill_(1.0)
    with pytest.raises(ValueError, match=r"was float16 \(4,\) on cpu and is now bfloat16 \(4,\) on cpu: make a new"):
        optimizer.step([torch.ones(4)])
    assert (p == 1).all()


@PACK
@pytest.mark.parametrize("nbytes", [0, 4, 23, 24, 100])
@pytest.mark.parametrize("times", [1, 2])
def test_a_storage_that_is_resized(nbytes: int, times: int, pack: bool) -> None:
    p = torch.nn.Parameter(torch.ones(6))
    optimizer = GpuSgd({"p": p}, lr=1.0, pack=pack)
    optimizer.step([torch.ones(6)])
    if pack:
        with pytest.raises(RuntimeError, match="resizable"):
            p.untyped_storage().resize_(nbytes)
        return
    for _ in range(times):
        p.untyped_storage().resize_(nbytes)
        p.untyped_storage().resize_(nbytes)
    if nbytes < 24:
        with pytest.raises(ValueError, match=r"parameter 'p' has no memory"):
            optimizer.step([torch.ones(6)])
        p.untyped_storage().resize_(24)
    with torch.no_grad():
        p.fill_(5.0)
    optimizer.step([torch.ones(6)])
    assert (p == 4).all()


def test_a_storage_that_is_cut_at_the_same_address() -> None:
    # Torch's own allocator may or may not give the same address again; a storage over memory that is held does.
    watched = Watched("torch", "float32")
    memory = watched.numbers(1, 8)
    p = torch.nn.Parameter(as_torch(memory)[:6])
    optimizer = GpuSgd({"p": p}, lr=1.0)
    optimizer.step([torch.ones(6)])
    look = libraries.TORCH.seen([p], Lifetime.HELD)
    p.data = as_torch(memory[:6])
    assert look.look([p]) is None
    optimizer.step([torch.ones(6)])
    assert memory.tolist() == [-1, 0, 1, 2, 3, 4, 7, 8]


@PACK
@pytest.mark.parametrize("there", ["double", "half", "bfloat16", "float"])
@pytest.mark.parametrize("start", ["double", "half", "bfloat16", "float"])
@pytest.mark.parametrize("back", [False, True])
def test_a_module_that_is_converted_between_steps(start: str, there: str, back: bool, pack: bool) -> None:
    module = getattr(torch.nn.Linear(37, 5), start)()
    optimizer = GpuSgd(module.named_parameters(), lr=1.0, pack=pack)
    for _ in range(4):
        with torch.no_grad():
            for p in module.parameters():
                p.fill_(9.0)
        optimizer.step([torch.ones(5, 37), torch.ones(5)])
        assert all((p == 8).all() for p in module.parameters())
        getattr(module, there)()
        if back:
            getattr(module, start)()
        elif there != start:
            with pytest.raises(ValueError, match=r"parameter 'weight' was .* and is now"):
                optimizer.step([torch.ones(5, 37), torch.ones(5)])
            assert all((p == 8).all() for p in module.parameters())
            getattr(module, start)()


@pytest.mark.parametrize("format", ["float16", "bfloat16"])
def test_the_data_of_a_16_bit_parameter_assigned_twice_leaves_no_old_master_weight(format: str) -> None:
    watched = Watched("torch", format)
    memory = watched.numbers(1)
    p = torch.nn.Parameter(as_torch(memory))
    optimizer = GpuSgd([p], lr=1.0)
    optimizer.step([torch.full((6,), 2.0**-12)])  # only the master weight sees it
    p.data = torch.ones_like(p)
    memory[...] = 7  # by somebody of whom torch knows nothing
    p.data = as_torch(memory)
    optimizer.step([torch.ones(6)])
    assert (p == 6).all()


def test_an_inference_tensor_may_be_swapped_too() -> None:
    with torch.inference_mode():
        p = torch.ones(4, dtype=torch.float16)
        optimizer = GpuSgd([p], lr=1.0)
        optimizer.step([torch.ones(4)])
        p.data = torch.full((4,), 5.0, dtype=torch.float16)
        optimizer.step([torch.ones(4)])
        assert (p == 4).all()


def test_no_memory_is_held_that_a_parameter_has_left() -> None:
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    optimizer = GpuSgd([p], lr=1.0)
    optimizer.step([torch.ones(4)])
    from torch.multiprocessing.reductions import StorageWeakRef

    handle = StorageWeakRef(p.untyped_storage())
    p.data = torch.ones(4, dtype=torch.float16)
    gc.collect()
    assert handle.expired()


@READING
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [1, 5, 7, 100_000])
def test_a_numpy_parameter_that_is_resized(reading: None, format: str, size: int) -> None:
    p = np.ones(6, dtype_of(format))
    optimizer = GpuSgd({"p": p}, lr=1.0)
    for value in (3.0, 5.0, 8.0):
        p[...] = value
        optimizer.reread_params()
        optimizer.step([np.ones(6)])
        assert (p == value - 1).all()
        p.resize(size, refcheck=False)
        with pytest.raises(
            ValueError, match=rf"parameter 'p' was {format} \(6,\) on cpu and is now {format} \({size},\)"
        ):
            optimizer.step([np.ones(6)])
        p.resize(6, refcheck=False)


@READING
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [1, 7, 1000, 1_000_000])
def test_a_numpy_parameter_that_was_resized_and_back_is_followed(reading: None, format: str, size: int) -> None:
    p, twin = np.full(6, 9.0, dtype_of(format)), np.full(6, 9.0, dtype_of(format))
    optimizer, other = GpuAdam([p], lr=0.5), GpuAdam([twin], lr=0.5)
    between = []
    for k in range(4):
        for one in (optimizer, other):
            one.step([np.full(6, 1.0 + k)])
        assert p.tobytes() == twin.tobytes()
        p.resize(size, refcheck=False)
        between.append(np.full(6, 3.0, dtype_of(format)))  # takes up what was given back
        p.resize(6, refcheck=False)
        p[size:] = twin[size:]
        other.reread_params()
        optimizer.reread_params()
    assert all((array == 3).all() for array in between)


@READING
def test_a_numpy_parameter_whose_owner_is_resized(reading: None) -> None:
    owner = np.ones(100, np.float32)
    p = owner[50:56]
    optimizer = GpuSgd({"p": p}, lr=1.0)
    optimizer.step([np.ones(6)])
    owner.resize(10, refcheck=False)
    with pytest.raises(
        ValueError, match="parameter 'p' has no memory for all of its elements: the array that it is a view of"
    ):
        optimizer.step([np.ones(6)])


@READING
def test_what_changed_before_another_state_or_group_comes_is_noticed(reading: None) -> None:
    p = np.ones((2, 3), np.float32)
    optimizer = GpuAdam({"p": p})
    optimizer.step([np.ones((2, 3))])
    saved = optimizer.state_dict()
    p.shape = (3, 2)
    for call in (
        lambda: optimizer.load_state_dict(saved),
        lambda: optimizer.add_param_group({"params": [np.ones(1, np.float32)]}),
        optimizer.reread_params,
        lambda: optimizer.step([np.ones((3, 2))]),
    ):
        with pytest.raises(ValueError, match="parameter 'p' was float32"):
            call()
    p.shape = (2, 3)
    optimizer.load_state_dict(saved)
    optimizer.step([np.ones((2, 3))])
