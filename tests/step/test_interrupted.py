"""An exception at any place of what an optimizer does: it is done whole or not at all, and all that follows is as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.support.fault_injection import Injected, injected

SHAPES = ((7,), (3, 4), ())
MIXED = ("float32", "bfloat16")
ALL = ("float32", "float64", "float16", "bfloat16")


@dataclass
class Run:
    """An optimizer and the arrays that it works on."""

    opt: Any
    params: list[Any]

    def grads(self, seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [np.asarray(rng.standard_normal(np.shape(p))).astype(p.dtype) for p in self.params]

    def step(self, seed: int, absent: int | None = None) -> None:
        grads = iter([None if k == absent else grad for k, grad in enumerate(self.grads(seed))])
        groups = [[next(grads) for _ in group["params"]] for group in self.opt.param_groups]
        self.opt.step(groups if len(groups) > 1 else groups[0])

    def state(self) -> dict[Any, Any]:
        """All that counts, as bytes."""
        saved = self.opt.state_dict()
        found: dict[Any, Any] = {
            (key, name): bytes_of(value) for key, entry in saved["state"].items() for name, value in entry.items()
        }
        found["params"] = [bytes_of(p) for p in self.params]
        found["skipped"] = saved["steps_skipped"]
        found["groups"] = [group["params"] for group in saved["param_groups"]]
        return found


def bytes_of(value: Any) -> bytes:
    if hasattr(value, "detach"):
        value = value.detach().double().numpy()
    return np.asarray(value, np.float64).tobytes()


def places(total: int, most: int) -> Iterator[int]:
    """All places, or so many of them; the last ones in any case."""
    yield from sorted({*range(1, total + 1, -(-total // most)), *range(max(1, total - 40), total + 1)})


def made(formats: Sequence[str] = ("float32",), steps: int = 1, **options: Any) -> Run:
    rng = np.random.default_rng(5)
    params = [np.asarray(rng.standard_normal(shape)).astype(dtype(name)) for name in formats for shape in SHAPES]
    run = Run(GpuAdam(params, lr=0.125, **options), params)
    if options.get("pack"):
        run.params = list(run.opt.params)
    for seed in range(steps):
        run.step(seed)
    return run


def dtype(name: str) -> Any:
    return ml_dtypes.bfloat16 if name == "bfloat16" else name


def bound(**options: Any) -> Run:
    run = made(**options)
    run.opt.grads = run.grads(3)
    run.opt.step()
    return run


def torch_run(pack: bool = False) -> Run:
    torch = pytest.importorskip("torch")
    tensors = [torch.nn.Parameter(torch.arange(5.0)), torch.nn.Parameter(torch.ones(3, 2, dtype=torch.bfloat16))]
    run = Run(GpuAdam(tensors, pack=pack), tensors)
    torch_step(run)
    return run


def torch_step(run: Run) -> None:
    for p in run.params:
        p.grad = p.detach() * 0.5 + 1
    run.opt.step()


def loaded() -> Run:
    run = made(MIXED, ema_decay=0.5)
    load(run)
    return run


def load(run: Run) -> None:
    run.opt.load_state_dict(made(MIXED, steps=3).opt.state_dict())


def add(run: Run) -> None:
    fresh = [np.ones(5, np.float32), np.ones(2)]
    run.opt.add_param_group({"params": fresh, "lr": 0.5})


def edit(run: Run) -> None:
    for group in run.opt.param_groups:
        group.update(lr=0.25, maximize=True)
    run.opt.step()


def new(run: Run) -> None:
    run.step(3)


def varied(**options: Any) -> Run:
    """One whose gradients were absent by turns, so that its plan lets them rest."""
    run = made(MIXED, **options)
    for absent in (0, 1, None, 2):
        run.step(9, absent)
    return run


def absent_once() -> Run:
    run = made(MIXED)
    run.step(9, 0)
    return run


def without(run: Run) -> None:
    run.step(3, 1)


def as_bound(run: Run) -> None:
    run.opt.step()


STEPS: dict[str, tuple[Callable[[], Run], Callable[[Run], None]]] = {
    "first": (lambda: made(steps=0), new),
    "new gradients": (made, new),
    "bound gradients": (bound, as_bound),
    "all formats": (lambda: made(ALL), new),
    "all formats, bound": (lambda: bound(formats=ALL), as_bound),
    "clipped": (lambda: made(("float32", "float64"), max_grad_norm=1.0), new),
    "capturable, skipping": (lambda: bound(capturable=True, skip_nonfinite=True), as_bound),
    "packed": (lambda: made(MIXED, pack=True), new),
    "after a load": (loaded, new),
    "averaging": (lambda: made(MIXED, polyak_average=True), new),
    "scheduled": (lambda: made(weight_decay=lambda t: 0.5 / t), new),
    "edited": (bound, edit),
    "torch": (torch_run, torch_step),
    "torch, packed": (lambda: torch_run(pack=True), torch_step),
    "absent": (varied, without),
    "absent, clipped": (lambda: varied(max_grad_norm=1.0, group_norms=True), without),
    "absent, packed and skipping": (lambda: varied(pack=True, skip_nonfinite=True), without),
    "absent for the second time": (absent_once, without),
}


def average(run: Run) -> None:
    before = [bytes_of(p) for p in run.params]
    with run.opt.averaged():
        assert [bytes_of(p) for p in run.params] != before


def move(run: Run) -> None:
    """Move the first parameter to the end of the last group."""
    moved = [list(group["params"]) for group in run.opt.param_groups]
    if len(moved[0]) == len(SHAPES):
        moved[-1].append(moved[0].pop(0))
        for group, params in zip(run.opt.param_groups, moved, strict=True):
            group["params"] = params
    run.params = [p for params in moved for p in params]
    run.step(4)


def grouped() -> Run:
    run = made()
    add(run)
    run.params = [p for group in run.opt.param_groups for p in group["params"]]
    run.step(2)
    return run


def bind(run: Run) -> None:
    run.opt.grads = run.grads(6)
    run.opt.step()


def rewrite(run: Run) -> None:
    """Write to 16-bit parameters, which torch tells of."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        run.params[1].fill_(3.0)
    torch_step(run)


def replace(run: Run) -> None:
    """Give a parameter other memory."""
    run.params[0].data = run.params[0].detach().clone()
    torch_step(run)


def thaw(run: Run) -> None:
    run.params[0].requires_grad_(True)
    torch_step(run)


def frozen() -> Run:
    torch = pytest.importorskip("torch")
    tensors = [torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(3))]
    tensors[0].requires_grad_(False)
    run = Run(GpuAdam(tensors, pack=True), tensors)
    torch_step(run)
    return run


OTHERS: dict[str, tuple[Callable[[], Run], Callable[[Run], None], Callable[[Run], None]]] = {
    "load": (lambda: made(MIXED, ema_decay=0.5), load, new),
    "load, packed": (lambda: made(MIXED, pack=True), load, new),
    "add a group": (made, add, lambda run: run.opt.state_dict()),
    "add a packed group": (lambda: made(pack=True), add, lambda run: run.opt.state_dict()),
    "averages": (lambda: made(MIXED, ema_decay=0.5, steps=2), average, new),
    "averages, packed": (lambda: made(polyak_average=True, pack=True, steps=2), average, new),
    "move among groups": (grouped, move, lambda run: run.step(8)),
    "bind": (made, bind, as_bound),
    "masters rewritten": (torch_run, rewrite, torch_step),
    "memory replaced": (torch_run, replace, torch_step),
    "thawed": (frozen, thaw, torch_step),
    "read": (lambda: made(MIXED, ema_decay=0.5), lambda run: run.opt.averaged_params, new),
    "save": (made, lambda run: run.opt.state_dict(), new),
}
EDITED = {"move among groups", "masters rewritten", "memory replaced", "thawed"}
CASES = {**{name: (make, act, act) for name, (make, act) in STEPS.items()}, **OTHERS}


@pytest.mark.parametrize("opcodes", [False, pytest.param(True, marks=pytest.mark.long)], ids=["lines", "instructions"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_done_whole_or_not_at_all(case: str, opcodes: bool) -> None:
    make, act, follow = CASES[case]
    reference = make()
    before = reference.state()
    # How many places there are depends on where new arrays come to lie.
    total = max(injected(partial(act, run), 0, opcodes) for run in (make(), make(), reference))
    done = reference.state()
    follow(reference)
    end = reference.state()
    outcomes = set()
    for place in places(total, 600 if opcodes else 120):
        run = make()
        with suppress(Injected):
            injected(partial(act, run), place, opcodes)
        found = run.state()
        # What the caller has done to the parameters is there in any case.
        assert found in (before, done) or case in EDITED, place
        outcomes.add(found == done)
        if found != done:
            act(run)
        follow(run)
        assert run.state() == end, place
    assert outcomes == ({True} if before == done else {False, True})
