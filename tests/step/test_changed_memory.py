"""A step updates what a name means now, or says what changed: whatever is done to memory, dtype, shape or strides under it in between."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed")
from gpu_adam.arrays import guards, structs  # noqa: E402
from tests.step.watched_memory import (  # noqa: E402
    DEPRECATED,
    FORMATS,
    OTHER,
    PACK,
    READING,
    SHAPE,
    Change,
    Watched,
    alias,
    dtype_of,
    sgd,
    step,
)

pytestmark = DEPRECATED


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


def test_the_fast_ways_are_in_use() -> None:
    assert structs.trusted(), "NumPy's arrays are read by their attributes here, which is slow"
    assert guards.trusted(), "torch's tensors are read by their attributes here, which is slow"


def test_nothing_is_imported_to_look_at_arrays() -> None:
    code = (
        "import sys, numpy as np; from gpu_adam import GpuSgd; p = np.ones(3); o = GpuSgd([p]); o.step([p.copy()]);"
        "assert not {'torch', 'cupy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
