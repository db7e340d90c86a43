"""Gradients that are absent in some steps: no plan is made anew, no memory taken, and every bit is as if a plan had been made."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam, LossScaler
from gpu_adam.engines import cpu
from gpu_adam.engines.threads import ThreadPool
from gpu_adam.plan.step_plan import StepPlan
from gpu_adam.step import dispatcher
from gpu_adam.step.planning import plan_of
from tests.support.reference import DTYPES
from tests.support.shipped import OPTIMIZERS

torch = pytest.importorskip("torch")

STEPS = 14

MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "packed": {"pack": True},
    "clipped": {"max_grad_norm": 1.0},
    "clipped by group, packed": {"pack": True, "max_grad_norm": 0.5, "group_norms": True},
    "skipping": {"skip_nonfinite": True},
    "averaged": {"ema_decay": 0.5},
    "mean": {"polyak_average": True, "max_grad_norm": 2.0},
    "amsgrad": {"amsgrad": True, "weight_decay": 0.1},
    "capturable": {"capturable": True},
    "float32 only": {"master_weights": False, "pack": True},
    "scheduled": {"lr": lambda t: 0.5 / t, "weight_decay": lambda t: 0.1 if t % 2 else 0.0},
    "scheduled, skipping": {"lr": lambda t: 0.5 / t, "skip_nonfinite": True},
    "scaled": {"loss_scaler": True},
}


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many plans were made, as a list of one number."""
    made = [0]

    def counted(*args: Any) -> StepPlan:
        made[0] += 1
        return plan_of(*args)

    monkeypatch.setattr(dispatcher, "plan_of", counted)
    return made


class Drawn:
    """Parameters and, step by step, gradients of some of them, in one format and layout for each parameter."""

    def __init__(self, seed: int, library: str, options: dict[str, Any]) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.library = library
        count = int(rng.integers(2, 12))
        shapes = [tuple(rng.choice([0, 1, 2, 5, 60, 700], rng.integers(0, 3)).tolist()) for _ in range(count)]
        self.formats = [str(rng.choice(sorted(DTYPES), p=[0.2, 0.2, 0.4, 0.2])) for _ in shapes]
        self.starts = [rng.standard_normal(s).astype(DTYPES[f]) for s, f in zip(shapes, self.formats, strict=True)]
        self.given = [str(rng.choice([f, "float32"])) if library == "numpy" else f for f in self.formats]
        self.turned = [len(s) == 2 and bool(rng.random() < 0.4) for s in shapes]
        # Rows go with no average and no capture, and a 16-bit parameter that is packed takes a torch gradient of its own format only.
        rows = not ({"ema_decay", "polyak_average", "capturable"} & options.keys())
        self.sparse = [rows and len(s) == 2 and s[0] > 1 and bool(rng.random() < 0.3) for s in shapes]
        self.infinite = "skip_nonfinite" in options or "loss_scaler" in options
        self.cuts = sorted({0, count, *rng.integers(0, count, 2).tolist()})

    def optimizer(self, kind: Callable[..., Any], options: dict[str, Any]) -> tuple[Any, Any]:
        """An optimizer of copies of the parameters, in groups, and its loss scaler."""
        options = dict(options)
        scaled = options.pop("loss_scaler", False)
        params: list[Any] = [start.copy() for start in self.starts]
        if self.library == "torch":
            params = [torch.nn.Parameter(as_torch(p)) for p in params]
        groups = [{"params": params[a:b]} for a, b in zip(self.cuts[:-1], self.cuts[1:], strict=True)]
        opt = kind(groups, **{"lr": 0.1, **options})
        return opt, LossScaler(opt, init_scale=4.0, growth_interval=3) if scaled else None

    def gradients(self) -> list[Any]:
        rng = self.rng
        absent = rng.random(len(self.starts)) < rng.choice([0.0, 0.1, 0.5, 0.9])
        return [None if gone else self.gradient(k) for k, gone in enumerate(absent)]

    def gradient(self, k: int) -> Any:
        rng, start, dtype = self.rng, self.starts[k], DTYPES[self.given[k]]
        values = np.asarray(rng.standard_normal(start.shape))
        if self.infinite and start.size and rng.random() < 0.05:
            values.flat[0] = np.inf
        array = values.astype(dtype)
        if self.sparse[k]:
            rows = rng.integers(0, start.shape[0], 8)
            return self.made(rows), self.made(np.ascontiguousarray(array[rows]))
        return self.made(np.asfortranarray(array) if self.turned[k] else array)

    def made(self, array: np.ndarray) -> Any:
        return as_torch(array) if self.library == "torch" else array

    def structure(self, grads: list[Any]) -> list[list[Any]]:
        return [grads[a:b] for a, b in zip(self.cuts[:-1], self.cuts[1:], strict=True)]


def as_torch(array: np.ndarray) -> Any:
    if array.dtype == DTYPES["bfloat16"]:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def as_numpy(array: Any) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        array = array.detach()
        return array.view(torch.int16).numpy() if array.dtype == torch.bfloat16 else array.numpy()
    return np.asarray(array)


def forgotten(opt: Any) -> None:
    """Have the next step plan as if there had been none before."""
    opt._dispatcher.settle()
    opt._dispatcher._reset()
    opt._dispatcher._set_changes = 0


def left(opt: Any) -> dict[str, bytes]:
    """Bits of all that a step changes."""
    found = {f"parameter {k}": np.ascontiguousarray(as_numpy(p)) for k, p in enumerate(flat(opt.params))}
    saved = opt.state_dict()
    for k, entry in saved["state"].items():
        found.update({f"{name} of {k}": np.ascontiguousarray(as_numpy(value)) for name, value in entry.items()})
    found["skipped"] = np.asarray(saved["steps_skipped"])
    if opt._dispatcher.executor is not None and opt._dispatcher.executor.planned.mode.measures:
        found["norm"] = np.asarray(opt.grad_norm)
        if opt._group_norms:
            found["norms"] = np.asarray(opt.group_grad_norms)
    return {name: array.tobytes() for name, array in found.items()}


def flat(params: Any) -> Iterator[Any]:
    for one in params:
        yield from flat(one) if isinstance(one, list | tuple) else (one,)


def assert_same(opt: Any, other: Any, what: str) -> None:
    mine, others = left(opt), left(other)
    assert mine.keys() == others.keys(), what
    assert [name for name in mine if mine[name] != others[name]] == [], what


def trained(drawn: Drawn, kind: Callable[..., Any], options: dict[str, Any], steps: int = STEPS) -> Any:
    """An optimizer after some steps, each of which was compared with that of one that plans anew each time."""
    (opt, scaler), (other, others) = (drawn.optimizer(kind, options) for _ in range(2))
    for step in range(steps):
        grads = drawn.structure(drawn.gradients())
        opt.step(grads, grad_scale=scaler)
        forgotten(other)
        other.step(grads, grad_scale=others)
        assert_same(opt, other, f"step {step}")
        if scaler is not None:
            assert scaler.state_dict() == others.state_dict()
    return opt


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_every_bit_is_that_of_a_plan_made_anew(library: str, mode: str) -> None:
    for seed in range(6):
        trained(Drawn(seed, library, MODES[mode]), GpuAdam, MODES[mode])


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0}], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name: str, options: dict[str, Any]) -> None:
    for seed in range(2):
        trained(Drawn(seed, "numpy", options), OPTIMIZERS[name], options)


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0}, {"skip_nonfinite": True, "pack": True}], ids=str)
def test_an_optimizer_that_is_made_from_its_state_goes_on_alike(options: dict[str, Any]) -> None:
    drawn = Drawn(3, "numpy", options)
    opt, _ = drawn.optimizer(GpuAdam, options)
    for step in range(STEPS):
        state, params = opt.state_dict(), [np.array(p) for p in flat(opt.params)]
        groups = drawn.structure(params)
        anew = GpuAdam([{"params": own} for own in groups], **{"lr": 0.1, **options})
        anew.load_state_dict(state)
        grads = drawn.structure(drawn.gradients())
        opt.step(grads)
        anew.step(grads)
        assert_same(opt, anew, f"step {step}")


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0}], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_counts_that_drift_apart(name: str, options: dict[str, Any]) -> None:
    """More distinct step counts than are computed one by one."""
    rng = np.random.default_rng(0)
    starts = rng.standard_normal((60, 3)).astype(np.float32)
    opt, other = (OPTIMIZERS[name]([start.copy() for start in starts], lr=0.01, **options) for _ in range(2))
    share = np.linspace(0.02, 0.95, 60)
    for step in range(200):
        there = rng.random(60) > share
        grads = [grad if there[k] else None for k, grad in enumerate(rng.standard_normal((60, 3)).astype(np.float32))]
        if step % 5 == 0:
            forgotten(other)
        for one in (opt, other):
            one.param_groups[0]["lr"] = 0.01 / (1 + step // 50)
            one.step(grads)
    assert_same(opt, other, name)
    assert len({entry["step"] for entry in opt.state_dict()["state"].values()}) > 40


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0, "pack": True}], ids=str)
def test_scales_and_flags_that_a_grad_scaler_hands_over(options: dict[str, Any]) -> None:
    drawn = Drawn(5, "numpy", options)
    (opt, _), (other, _) = (drawn.optimizer(GpuAdam, options) for _ in range(2))
    for step in range(STEPS):
        grads = drawn.structure(drawn.gradients())
        forgotten(other)
        scale, found = np.array(2.0 ** (step % 5), np.float32), np.array(float(step % 3 == 1), np.float32)
        for one in (opt, other):
            one.grad_scale, one.found_inf = scale, found
            one.step(grads)
            del one.grad_scale, one.found_inf
        assert_same(opt, other, f"step {step}")
    assert opt.steps_skipped > 0


def test_a_gradient_is_not_held_while_it_is_absent() -> None:
    tensors = [torch.nn.Parameter(torch.ones(5)) for _ in range(3)]
    opt = GpuAdam(tensors)
    seen = []
    for absent in (3, 0, 1, 2, 0):
        for k, one in enumerate(tensors):
            one.grad = None if k == absent else torch.ones(5)
        opt.step()
        seen += [weakref.ref(one.grad) for one in tensors if one.grad is not None]
    for one in tensors:
        one.grad = None
    assert not any(one() is not None for one in seen)


def warm(opt: Any, make: Callable[[set[int]], Any], count: int) -> None:
    """Steps after which a set of gradients is nothing new: all of them, and twice another set."""
    for absent in (set(), {0}, {1 % count}):
        opt.step(make(absent))


@pytest.mark.parametrize("mode", [name for name in MODES if name != "scaled"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_no_plan_is_made_and_no_memory_taken(
    library: str, mode: str, plans: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Drawn(1, library, MODES[mode])
    opt, _ = drawn.optimizer(GpuAdam, MODES[mode])
    count = len(drawn.starts)

    def make(absent: set[int]) -> Any:
        return drawn.structure([None if k in absent else drawn.gradient(k) for k in range(count)])

    warm(opt, make, count)
    plans[0] = 0
    taken: list[int] = []
    allocate = cpu.CpuEngine.allocate
    monkeypatch.setattr(
        cpu.CpuEngine,
        "allocate",
        lambda self, device, nbytes: (taken.append(nbytes), allocate(self, device, nbytes))[1],
    )
    for _ in range(STEPS):
        opt.step(make(set(drawn.rng.choice(count, int(drawn.rng.integers(0, count)), replace=False).tolist())))
    assert (plans[0], taken) == (0, [])


def test_a_set_that_changes_once_has_a_plan_of_its_own(plans: list[int]) -> None:
    """What was frozen for good takes no room in the launches, and the rest stays flat."""
    params = [np.ones(300, np.float32) for _ in range(4)]
    opt = GpuAdam(params, pack=True)
    opt.step()
    for _ in range(5):
        opt.step([None, None, *opt.grads[2:]])
    assert plans[0] == 2
    assert "flat" in str(opt.plan)
    assert "2 packed tensors" in str(opt.plan)


def test_a_parameter_whose_first_gradient_comes_late_costs_one_plan(plans: list[int]) -> None:
    params = [np.ones(5, np.float32) for _ in range(6)]
    opt = GpuAdam(params)
    grads = [np.ones(5, np.float32) for _ in params]
    for absent in ({5}, {5, 0}, {5, 1}, {5, 2}):
        opt.step([None if k in absent else grad for k, grad in enumerate(grads)])
    plans[0] = 0
    for absent in ({0}, {5}, {1, 2}, set(), {5, 3}):
        opt.step([None if k in absent else grad for k, grad in enumerate(grads)])
    assert plans[0] == 1
    assert [entry["step"] for entry in opt.state_dict()["state"].values()] == [7, 7, 7, 8, 9, 3]


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0}], ids=str)
def test_the_plan_says_what_rests(options: dict[str, Any]) -> None:
    opt = GpuAdam([np.ones(2000, np.float32) for _ in range(4)] + [np.ones(7)], **options)
    grads = [np.ones(2000, np.float32) for _ in range(4)] + [np.ones(7)]
    for absent in (set(), {0}, {1}, {1, 2}):
        opt.step([None if k in absent else grad for k, grad in enumerate(grads)])
    plan = opt.plan
    assert plan.elements == 4007
    assert "2 tensors (2 more at rest), 4,000 elements" in str(plan)
    if options:
        assert "norm of 3 gradients, 4,007 elements" in str(plan)
        assert plan.prologues[0].bytes_read == 16_056
    opt.step(grads)
    assert opt.plan.elements == 8007
    assert "rest" not in str(opt.plan)
    assert "2 more at rest" in str(plan)
    for only in range(4):
        opt.step([grad if k == only else None for k, grad in enumerate(grads)])
    assert "(1 more at rest), 0 elements" in str(opt.plan)


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0}], ids=str)
def test_threads_share_what_is_left(threads: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = cpu.engine()
    monkeypatch.setattr(engine, "pool", ThreadPool(threads))
    monkeypatch.setattr(cpu, "SERIAL", 500)
    monkeypatch.setattr(cpu, "MEASURED_SERIAL", 500)
    for seed in range(4):
        trained(Drawn(seed, "numpy", options), GpuAdam, options)


def test_memory_of_an_absent_gradient_is_let_go_and_not_read(plans: list[int]) -> None:
    params = [np.ones(3000, np.float32) for _ in range(3)]
    opt = GpuAdam(params, max_grad_norm=1.0)
    grads = [np.full(3000, 0.5, np.float32) for _ in params]
    for absent in (set(), {0}, {1}):
        opt.step([None if k in absent else grad for k, grad in enumerate(grads)])
    grads[2][:] = np.nan
    opt.step([*grads[:2], None])
    assert np.isfinite(opt.grad_norm)
    assert all(np.isfinite(p).all() for p in params)
    # It comes back elsewhere, and as it was.
    opt.step([None, None, np.full(3000, 0.5, np.float32)])
    assert opt.grad_norm == np.sqrt(750.0)


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0}], ids=str)
def test_a_refused_step_leaves_the_set_as_it_was(options: dict[str, Any]) -> None:
    params, twins = ([np.ones(40, np.float32) for _ in range(20)] for _ in range(2))
    opt, other = GpuAdam(params, **options), GpuAdam(twins, **options)
    rng = np.random.default_rng(0)
    for step in range(12):
        grads: list[Any] = [rng.standard_normal(40).astype(np.float32) for _ in params]
        for k in rng.choice(20, 3, replace=False).tolist():
            grads[k] = None
        if step % 2:
            bad = list(grads)
            bad[int(rng.integers(0, 20))] = np.ones(41, np.float32)
            with pytest.raises(ValueError, match="shape"):
                opt.step([*bad])
        opt.step(grads)
        other.step(grads)
        assert_same(opt, other, f"step {step}")


def test_versions_of_torch_tensors_count_their_own_steps_only() -> None:
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(4)]
    opt = GpuAdam(params)
    for absent in (0, 1, 2, 3, 0):
        before = [p._version for p in params]
        for k, p in enumerate(params):
            p.grad = None if k == absent else torch.ones(3)
        opt.step()
        assert [p._version - was for p, was in zip(params, before, strict=True)] == [k != absent for k in range(4)]


def test_loaded_weights_of_one_that_rests_count_in_its_own_next_step() -> None:
    def made() -> Any:
        opt = GpuAdam([np.ones(4, np.float16) for _ in range(3)], lr=0.1)
        grads = [np.ones(4, np.float16) for _ in range(3)]
        for absent in (None, 0, 1):
            opt.step([None if k == absent else grad for k, grad in enumerate(grads)])
        opt.load_state_dict(opt.state_dict())
        opt.step([None, *grads[1:]])
        # Set after the step of the others, and after the state was loaded.
        opt.params[0][...] = 5.0
        return opt, grads

    opt, grads = made()
    other, _ = made()
    forgotten(other)
    for one in (opt, other):
        one.step(grads)
    assert_same(opt, other, "loaded")
    assert opt.params[0][0] > 4
