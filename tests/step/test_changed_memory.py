"""A step updates what a name means now, or says what changed: whatever is done to memory, dtype, shape or strides under it in between."""

from __future__ import annotations

import ctypes
import gc
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed")
from gpu_adam import GpuAdam, GpuSgd  # noqa: E402
from gpu_adam.arrays import Lifetime, guards, seen, structs, traits  # noqa: E402
from tests.step.watched_memory import FORMATS, SHAPE, Watched, as_torch, dtype_of, sgd, step  # noqa: E402

Change = Callable[[Any, Watched], Any]
OTHER = {"float64": "float32", "float32": "float16", "float16": "bfloat16", "bfloat16": "float16"}
PACK = pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
READING = pytest.mark.parametrize("reading", ["structures", "attributes"], indirect=True)


@pytest.fixture
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How arrays are read: the second is for versions of NumPy and torch that lay them out or compare them otherwise."""
    if request.param == "attributes":
        monkeypatch.setattr(traits, "trusted", lambda: False)
        monkeypatch.setattr(traits, "guard", lambda tensors: None)


@pytest.fixture(autouse=True)
def deprecations() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of setting an array's shape and strides
        yield


def alias(tensor: Any, watched: Watched) -> Any:
    """The same memory under a storage of its own."""
    if not tensor.is_contiguous() or tensor.is_neg():
        raise ValueError("not made for it")
    watched.kept.append(tensor.detach())
    nbytes = tensor.numel() * tensor.element_size()
    flat = torch.from_numpy(np.frombuffer((ctypes.c_char * nbytes).from_address(tensor.data_ptr()), np.uint8))
    return flat.view(tensor.dtype).reshape(tensor.shape)


def _away_and_back(p: Any, watched: Watched) -> Any:
    home = alias(p.data, watched)
    p.data = p.data.clone()
    return home


def _rewritten_at_the_same_address(p: Any, watched: Watched) -> Any:
    other = alias(p.data, watched)
    other.fill_(40)  # counted as the other tensor's
    return other


def _assign(make: Callable[[Any, Watched], Any]) -> Change:
    def change(p: Any, watched: Watched) -> None:
        p.data = make(p, watched)

    return change


def _call(do: Callable[[Any, Watched], Any]) -> Change:
    def change(p: Any, watched: Watched) -> None:
        with torch.no_grad():
            do(p, watched)

    return change


TORCH: dict[str, tuple[Change, str]] = {
    "elsewhere": (_assign(lambda p, w: w.array(60, tuple(p.shape), str(p.dtype)[6:])), ""),
    "elsewhere and back": (_assign(_away_and_back), ""),
    "other values at the same address": (_assign(_rewritten_at_the_same_address), ""),
    "a clone": (_assign(lambda p, w: p.data.clone()), ""),
    "another format at the same address": (
        _assign(lambda p, w: p.data.view(torch.bfloat16 if p.dtype == torch.float16 else torch.float16)),
        "was {format} .* and is now",
    ),
    "shorter": (_assign(lambda p, w: p.data[:1]), r"and is now {format} \(1, 3\)"),
    "empty": (_assign(lambda p, w: p.data[:0]), r"and is now {format} \(0, 3\)"),
    "another shape": (_assign(lambda p, w: p.data.view(3, 2)), r"and is now {format} \(3, 2\)"),
    "one dimension": (_assign(lambda p, w: p.data.view(-1)), r"and is now {format} \(6,\)"),
    "more dimensions": (_assign(lambda p, w: p.data[None]), r"and is now {format} \(1, 2, 3\)"),
    "transposed": (_assign(lambda p, w: p.data.t()), r"and is now {format} \(3, 2\)"),
    "another order": (_assign(lambda p, w: p.data.as_strided((2, 3), (1, 2))), "in another order"),
    "expanded": (_assign(lambda p, w: p.data[:1].expand(2, 3)), "elements share memory"),
    "double": (_assign(lambda p, w: p.data.double()), "was {format}|"),
    "half": (_assign(lambda p, w: p.data.half()), "was {format}|"),
    "double and back": (_assign(lambda p, w: p.data.double().to(p.dtype)), ""),
    "negated lazily": (_assign(lambda p, w: torch._neg_view(p.data)), "lazy negation"),
    "t_": (_call(lambda p, w: p.t_()), r"and is now {format} \(3, 2\)"),
    "unsqueeze_": (_call(lambda p, w: p.unsqueeze_(0)), r"and is now {format} \(1, 2, 3\)"),
    "as_strided_": (_call(lambda p, w: p.as_strided_((3, 2), (2, 1))), r"and is now {format} \(3, 2\)"),
    "set_": (_call(lambda p, w: p.set_(w.array(60, (2, 3), str(p.dtype)[6:]))), ""),
    "set_ to another shape": (_call(lambda p, w: p.set_(w.array(60, (3, 2), str(p.dtype)[6:]))), "and is now"),
    "swapped": (
        _call(lambda p, w: torch.utils.swap_tensors(p, torch.nn.Parameter(w.array(60, (2, 3), str(p.dtype)[6:])))),
        "",
    ),
    "swapped for another format": (
        _call(lambda p, w: torch.utils.swap_tensors(p, torch.nn.Parameter(torch.ones(2, 3).to(_other(p))))),
        "was {format} .* and is now",
    ),
    "nothing": (_call(lambda p, w: None), ""),
    "written": (_call(lambda p, w: p.fill_(30)), ""),
}


def _other(p: Any) -> Any:
    return getattr(torch, OTHER[str(p.dtype)[6:]])


def _in_place(do: Callable[[Any, Watched], Any]) -> Change:
    return lambda p, w: do(p, w)


NUMPY: dict[str, tuple[Change, str]] = {
    "nothing": (_in_place(lambda p, w: None), ""),
    "another shape": (_in_place(lambda p, w: setattr(p, "shape", (3, 2))), r"and is now {format} \(3, 2\)"),
    "one dimension": (_in_place(lambda p, w: setattr(p, "shape", (6,))), r"and is now {format} \(6,\)"),
    "more dimensions": (_in_place(lambda p, w: setattr(p, "shape", (1, 2, 3))), r"and is now {format} \(1, 2, 3\)"),
    "another order": (
        _in_place(lambda p, w: setattr(p, "strides", (p.itemsize, 2 * p.itemsize))),
        "in another order",
    ),
    "one row twice": (_in_place(lambda p, w: setattr(p, "strides", (0, p.itemsize))), "elements share memory"),
    "another format": (
        _in_place(lambda p, w: setattr(p, "dtype", dtype_of("bfloat16" if p.dtype == np.float16 else "float16"))),
        "was {format} .* and is now",
    ),
    "integers": (_in_place(lambda p, w: setattr(p, "dtype", f"i{p.itemsize}")), "has dtype int"),
    "read-only": (_in_place(lambda p, w: p.setflags(write=False)), "read-only"),
}


def run(library: str, format: str, pack: bool, changes: list[tuple[Change, str]], count: int = 2) -> list[str]:
    """Step, and after each change of the first parameter step again."""
    watched = Watched(library, format)
    params = [watched.array(10 + 10 * k) for k in range(count)]
    if library == "torch":
        params = [torch.nn.Parameter(p) for p in params]
    optimizer = sgd(params, pack=pack)
    params = list(optimizer.params.values())
    gradients = [np.ones(SHAPE, np.float32), np.full(SHAPE, 2.0, np.float32)][:count]
    messages = [step(optimizer, watched, params, gradients, lambda: optimizer.step(gradients))]
    assert messages == [""]
    for change, _ in changes:
        change(params[0], watched)
        messages.append(step(optimizer, watched, params, gradients, lambda: optimizer.step(gradients)))
    return messages[1:]


def check(found: str, wanted: str, format: str) -> None:
    wanted = wanted.format(format=format)
    assert (not found) if not wanted else re.search(wanted, found), (found, wanted)


@PACK
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", TORCH)
@READING
def test_a_torch_parameter_that_changes_between_steps(reading: None, name: str, format: str, pack: bool) -> None:
    change, wanted = TORCH[name]
    found = run("torch", format, pack, [(change, wanted)])
    check(found[0], wanted, format)


@PACK
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NUMPY)
@READING
def test_a_numpy_parameter_that_changes_between_steps(reading: None, name: str, format: str, pack: bool) -> None:
    change, wanted = NUMPY[name]
    found = run("numpy", format, pack, [(change, wanted)])
    check(found[0], wanted, format)


@pytest.mark.parametrize("library", ["torch", "numpy"])
@READING
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_number_of_changes_in_any_order(reading: None, library: str, data: st.DataObject) -> None:
    known = {"torch": TORCH, "numpy": NUMPY}[library]
    format, pack = data.draw(st.sampled_from(FORMATS)), data.draw(st.booleans())
    names = data.draw(st.lists(st.sampled_from(sorted(known)), max_size=5))

    def fitting(change: Change) -> Change:
        def careful(p: Any, watched: Watched) -> None:
            with suppress(RuntimeError, ValueError, AttributeError, TypeError):
                change(p, watched)  # where it fits the shape that an earlier change has left

        return careful

    run(library, format, pack, [(fitting(known[name][0]), "") for name in names])


# Memory that is freed, or cut, and given out again.


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
    look = seen("torch", [p], Lifetime.HELD)
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


# Gradients.

GRADIENTS: dict[str, Callable[[Any], None]] = {
    "nothing": lambda g: None,
    "another shape": lambda g: setattr(g, "shape", (3, 2)),
    "one dimension": lambda g: setattr(g, "shape", (6,)),
    "another order": lambda g: setattr(g, "strides", (g.itemsize, 2 * g.itemsize)),
    "one row": lambda g: setattr(g, "strides", (0, g.itemsize)),
    "another format": lambda g: setattr(g, "dtype", np.float16 if g.itemsize == 2 else f"f{g.itemsize}"),
    "integers": lambda g: setattr(g, "dtype", f"i{g.itemsize}"),
    "bytes swapped": lambda g: setattr(g, "dtype", g.dtype.newbyteorder() if g.itemsize > 2 else ">f2"),
    "read-only": lambda g: g.setflags(write=False),
    "resized": lambda g: g.resize(2, refcheck=False),
    "resized and back": lambda g: (g.resize(50, refcheck=False), g.resize((2, 3), refcheck=False)),
    "other numbers": lambda g: g.__setitem__(..., 7),
}
TORCH_GRADIENTS: dict[str, Callable[[Any], None]] = {
    "nothing": lambda g: None,
    "t_": lambda g: g.t_(),
    "another order": lambda g: g.as_strided_((2, 3), (1, 2)),
    "one row": lambda g: g.as_strided_((2, 3), (0, 1)),
    "data elsewhere": lambda g: setattr(g, "data", torch.full((2, 3), 4.0, dtype=g.dtype)),
    "data transposed": lambda g: setattr(g, "data", torch.arange(6.0).to(g.dtype).reshape(3, 2).t()),
    "data of another shape": lambda g: setattr(g, "data", g.data.reshape(3, 2)),
    "data of another format": lambda g: setattr(g, "data", g.data.to(getattr(torch, OTHER[str(g.dtype)[6:]]))),
    "another format at the same address": lambda g: setattr(
        g, "data", g.data.view(torch.bfloat16 if g.dtype == torch.float16 else torch.float16)[..., :3]
    ),
    "shorter": lambda g: setattr(g, "data", g.data[:1]),
    "empty": lambda g: setattr(g, "data", g.data[:0]),
    "negated lazily": lambda g: setattr(g, "data", torch._neg_view(g.data)),
    "freed": lambda g: g.untyped_storage().resize_(0),
    "cut": lambda g: g.untyped_storage().resize_(3),
    "other numbers": lambda g: g.fill_(7),
}


def _careful(change: Callable[[Any], None], gradient: Any) -> None:
    with suppress(RuntimeError, ValueError, AttributeError, TypeError):
        change(gradient)


@PACK
@READING
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("first", GRADIENTS)
def test_a_bound_numpy_gradient_that_changes_in_place(reading: None, first: str, format: str, pack: bool) -> None:
    for second in ("nothing", "another order", "other numbers", first):
        watched = Watched("numpy", format)
        optimizer = sgd([watched.array(8), watched.array(14)], pack=pack)
        params = list(optimizer.params.values())
        if not pack:
            # Some own their memory, which alone can be resized.
            optimizer.grads = [np.arange(6, dtype=dtype_of(format)).reshape(2, 3), watched.array(1)]
        gradients = list(optimizer.grads.values())
        for k, gradient in enumerate(gradients):
            gradient[...] = np.arange(6).reshape(2, 3) + k
        assert not step(optimizer, watched, params, gradients, optimizer.step)
        for name in (first, second):
            for gradient in gradients:
                _careful(GRADIENTS[name], gradient)
                step(optimizer, watched, params, gradients, optimizer.step)


@PACK
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("first", TORCH_GRADIENTS)
@READING
def test_a_torch_gradient_that_changes_in_place(reading: None, first: str, format: str, pack: bool) -> None:
    for second in ("nothing", "t_", "data elsewhere", first):
        watched = Watched("torch", format)
        params = [torch.nn.Parameter(watched.array(8 + k)) for k in range(2)]
        optimizer = sgd(params, pack=pack)
        for k, p in enumerate(params):
            if not pack:
                p.grad = torch.zeros_like(p)
            p.grad.copy_(torch.arange(6.0).reshape(2, 3) + k)
        assert not step(optimizer, watched, params, [p.grad for p in params], optimizer.step)
        for name in (first, second):
            for p in params:
                _careful(TORCH_GRADIENTS[name], p.grad)
                if p.grad.untyped_storage().nbytes() in (0, 3):  # nobody may ask what it means
                    with pytest.raises(ValueError, match=r"the gradient of parameter .* has no memory"):
                        optimizer.step()
                    return
                step(optimizer, watched, params, [q.grad for q in params], optimizer.step)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@READING
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_gradients_given_anew_in_any_format_and_order_at_any_address(
    reading: None, library: str, data: st.DataObject
) -> None:
    """They come and go, at addresses that others have left, in other formats, orders and libraries."""
    watched = Watched(library, "float64")
    params = [watched.array(1000 * (1 + k)) for k in range(3)]
    optimizer = sgd(params)
    places = [np.zeros(8 * 8 * 4) for _ in range(2)]
    for _ in range(data.draw(st.integers(1, 6))):
        gradients: list[Any] = []
        for k in range(3):
            kind = data.draw(st.sampled_from(["same", "none", "torch", "numpy", "fortran", "scalar", "row"]))
            format = data.draw(st.sampled_from(FORMATS))
            place = data.draw(st.sampled_from(places))[8 * k : 8 * k + 8].view(dtype_of(format))
            offset = data.draw(st.integers(0, 2))
            place[offset : offset + 6] = np.arange(6) + k
            array: Any = place[offset : offset + 6].reshape(2, 3)
            if kind == "fortran":
                array = place[offset : offset + 6].reshape(3, 2).T
            elif kind == "row":
                array = np.broadcast_to(place[offset : offset + 3], (2, 3))
            elif kind == "torch":
                array = as_torch(array)
            elif kind == "none":
                array = None
            elif kind == "same" and k and gradients[0] is not None:
                array = gradients[0]
            gradients.append(array)
        zeros = np.zeros((2, 3))
        meant = [zeros if g is None else g for g in gradients]
        assert not step(optimizer, watched, params, meant, lambda given=gradients: optimizer.step(given))


def test_a_gradient_that_fits_no_longer_is_told_among_a_thousand() -> None:
    params = [np.ones(3, np.float32) for _ in range(1000)]
    optimizer = GpuSgd({f"p{k}": p for k, p in enumerate(params)}, lr=1.0)
    for _ in range(2):
        optimizer.step([np.ones(3, np.float32) for _ in range(1000)])
    for bad, message in (
        (np.ones(4, np.float32), r"the gradient of parameter 'p700' has shape \(4,\)"),
        (np.ones(3, np.int32), "the gradient of parameter 'p700' has dtype int32"),
        (params[3], "the gradient of parameter 'p700' overlaps the memory of parameter 'p3'"),
        (1.0, "the gradient of parameter 'p700' is a builtins.float"),
    ):
        gradients: list[Any] = [np.ones(3, np.float32) for _ in range(1000)]
        gradients[700] = bad
        with pytest.raises((ValueError, TypeError), match=message):
            optimizer.step(gradients)
    assert all((p == -1).all() for p in params)


@PACK
@pytest.mark.parametrize("format", FORMATS)
def test_a_default_device_and_other_modes_are_not_heard(format: str, pack: bool) -> None:
    from torch.overrides import TorchFunctionMode

    heard = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            heard.append(function)
            return function(*args, **(kwargs or {}))

    watched = Watched("torch", format)
    params = [torch.nn.Parameter(watched.array(8 + k)) for k in range(20)]
    optimizer = sgd(params, pack=pack)
    for p in params:
        p.grad = torch.ones_like(p)
    torch.set_default_device("meta")
    try:
        for _ in range(2):
            assert not step(optimizer, watched, params, [np.ones(SHAPE)] * 20, optimizer.step)
        with Mode():
            optimizer.step()
    finally:
        torch.set_default_device(None)
    assert len(heard) < 10, heard


# No references.


@pytest.mark.parametrize("bound", [False, True])
@PACK
def test_nothing_keeps_torch_from_swapping_a_module(bound: bool, pack: bool) -> None:
    module = torch.nn.Linear(3, 2)
    optimizer = GpuAdam(module.named_parameters(), pack=pack)
    for _ in range(2):
        if bound:
            module(torch.ones(1, 3)).sum().backward()
            optimizer.step()
        else:
            optimizer.step([torch.ones(2, 3), torch.ones(2)])
    optimizer.zero_grad()
    if pack:
        for p in module.parameters():
            p.grad = None
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        module.double()
        with pytest.raises(ValueError, match=r"parameter 'weight' was float32 .* and is now float64"):
            optimizer.step([torch.ones(2, 3), torch.ones(2)])
        module.float()
        optimizer.step([torch.ones(2, 3), torch.ones(2)])
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


@READING
def test_nothing_keeps_numpy_from_resizing_a_gradient(reading: None) -> None:
    optimizer = GpuSgd({"p": np.ones(6, np.float32)}, lr=1.0)
    gradient = np.ones(6, np.float32)
    optimizer.step([gradient])
    gradient.resize(7)
    with pytest.raises(ValueError, match=r"the gradient of parameter 'p' has shape \(7,\)"):
        optimizer.step([gradient])
    gradient.resize(6)
    optimizer.step([gradient])


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_gradients_that_were_given_are_let_go(library: str) -> None:
    class Array(np.ndarray):
        alive = 0

        def __del__(self) -> None:
            Array.alive -= 1

    params = [np.ones(6, np.float32) for _ in range(4)]
    optimizer = GpuSgd(params, lr=1.0)
    for _ in range(3):
        gradients: list[Any] = [np.ones(6, np.float32).view(Array) for _ in range(4)]
        Array.alive += 4
        if library == "torch":
            gradients = [torch.from_numpy(g) for g in gradients]
        optimizer.step(gradients)
        del gradients
        gc.collect()
        assert Array.alive == 0


def test_the_fast_ways_are_in_use() -> None:
    assert structs.trusted(), "NumPy's arrays are read by their attributes here, which is slow"
    assert guards.trusted(), "torch's tensors are read by their attributes here, which is slow"


def test_nothing_is_imported_to_look_at_arrays() -> None:
    code = (
        "import sys, numpy as np; from gpu_adam import GpuSgd; p = np.ones(3); o = GpuSgd([p]); o.step([p.copy()]);"
        "assert not {'torch', 'cupy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
