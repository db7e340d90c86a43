"""A plan is made once: gradients that differ in nothing that a step walks by do not make another, wherever they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_adam import GpuAdam, GpuSgd, LossScaler
from gpu_adam.plan.step_plan import StepPlan
from gpu_adam.step import dispatcher
from gpu_adam.step.planning import plan_of
from tests.support.reference import DTYPES

torch = pytest.importorskip("torch")

STEPS = 5

MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "packed": {"pack": True},
    "clipped": {"max_grad_norm": 1.0},
    "packed and clipped": {"pack": True, "max_grad_norm": 1.0, "group_norms": True},
    "averaged": {"ema_decay": 0.5},
    "skipping": {"skip_nonfinite": True},
    "capturable": {"capturable": True},
    "float32 only": {"master_weights": False},
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


def drawn_shapes(rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Shapes with dimensions of none and one, and empty ones anywhere: first, last, several in a row, or all."""
    shapes = [tuple(rng.choice([0, 1, 1, 2, 5], rng.integers(0, 4)).tolist()) for _ in range(rng.integers(1, 20))]
    where = rng.integers(0, 4)
    if where == 0:
        return [(0,), (0, 3), *shapes]
    if where == 1:
        return [*shapes, (2, 0), (0,)]
    return [(0,)] * 3 if where == 2 else shapes


def fresh(rng: np.random.Generator, shape: tuple[int, ...], format: str) -> NDArray[Any]:
    """An array of its own, whose dimensions of none or one have any strides."""
    array = np.zeros(shape, DTYPES[format])
    strides = [
        step if size > 1 else int(rng.integers(0, 9)) * array.itemsize
        for size, step in zip(array.shape, array.strides, strict=True)
    ]
    array = np.lib.stride_tricks.as_strided(array, shape, strides)
    array[...] = rng.standard_normal(shape)
    return array


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("how", ["given", "bound"])
def test_gradients_of_any_size_are_taken_up_in_one_plan(how: str, library: str, mode: str, plans: list[int]) -> None:
    options = MODES[mode]
    for seed in range(4):
        rng = np.random.default_rng([seed, len(mode)])
        shapes = drawn_shapes(rng)
        formats = [str(rng.choice(["float32", "float64", "float16"])) for _ in shapes]
        starts = [rng.standard_normal(shape).astype(DTYPES[f]) for shape, f in zip(shapes, formats, strict=True)]

        def made(starts: list[Any] = starts) -> tuple[Any, Any]:
            params = [start.copy() for start in starts]
            tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in params] if library == "torch" else params
            opt = GpuAdam(tensors, lr=0.1, **options)
            return opt, opt.params

        def stepped(opt: Any, params: Any, grads: list[Any]) -> None:
            given = [torch.from_numpy(g) for g in grads] if library == "torch" else grads
            if how == "given":
                opt.step(given)
                return
            if options.get("pack"):
                for bound, grad in zip(opt.grads, given, strict=True):
                    bound[...] = grad
            elif library == "torch":
                for param, grad in zip(params, given, strict=True):
                    param.grad = grad
            else:
                opt.grads = given
            opt.step()

        opt, params = made()
        other, others = made()
        plans[0] = 0
        held = []  # so that none comes to lie where an earlier one was
        for _ in range(STEPS):
            grads = [fresh(rng, shape, f) for shape, f in zip(shapes, formats, strict=True)]
            held.append(grads)
            stepped(opt, params, grads)
        assert plans[0] == 1
        for grads in held:
            other._dispatcher.settle()
            stepped(other, others, grads)
        assert plans[0] == 1 + STEPS
        for one, same in zip(params, others, strict=True):
            one, same = (x.detach().numpy() if library == "torch" else x for x in (one, same))
            assert one.tobytes() == same.tobytes()


def test_numbers_as_gradients_of_0_dimensional_parameters(plans: list[int]) -> None:
    params = [np.ones((), np.float32), np.ones(0, np.float32), np.ones((), np.float64)]
    opt = GpuAdam(params)
    for k in range(STEPS):
        opt.step([np.float32(k), np.zeros(0, np.float32), np.float64(k)])
    assert plans[0] == 1


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_whose_number_goes_up_and_down(sparse: bool, plans: list[int]) -> None:
    rng = np.random.default_rng(0)
    start = rng.standard_normal((60, 3)).astype(np.float32)
    one, other = (torch.nn.Parameter(torch.from_numpy(start.copy())) for _ in range(2))
    empty = torch.nn.Parameter(torch.zeros(0, 3))
    opt, anew = GpuAdam([empty, one]), GpuAdam([other])
    counts = [40, 33, 17, 60, 9, 64, 16, 12]
    for count in counts:
        rows, values = rng.integers(0, 60, count), rng.standard_normal((count, 3)).astype(np.float32)
        given: Any = (torch.from_numpy(rows), torch.from_numpy(values))
        nothing: Any = (torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3))
        if sparse:
            given = torch.sparse_coo_tensor(given[0][None], given[1], (60, 3))
            nothing = torch.sparse_coo_tensor(nothing[0][None], nothing[1], (0, 3))
        opt.step([nothing, given])
        anew._dispatcher.settle()
        anew.step([given])
        assert torch.equal(one, other)
    assert plans[0] == 1 + len(counts)
    # Far fewer are worth a plan of their own.
    opt.step([None, (np.zeros(1, np.int64), np.ones((1, 3), np.float32))])
    assert opt.plan.elements == 3


def test_a_loss_scaler_beside_empty_parameters(plans: list[int]) -> None:
    params = [np.ones(0, np.float16), np.ones((3, 1), np.float16)]
    opt = GpuSgd(params, lr=0.1)
    scaler = LossScaler(opt)
    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        opt.step([fresh(rng, p.shape, "float16") for p in params], grad_scale=scaler)
    assert plans[0] == 1
