"""Gradients that are sparse in any number of dimensions, of parameters of any shape and order in memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpu_adam import GpuAdaGrad, GpuAdam, GpuOptimizer, GpuSgd
from gpu_adam.arrays import to_host
from tests.support.reference import DTYPES, Array, assert_same_bits
from tests.support.shipped import OPTIMIZERS
from tests.support.strategies import PROVE, laid_out, tame

NAMES = sorted(DTYPES)


class Checked:
    """A parameter whose sparse steps are compared with dense ones from the same state: those of the elements that have a gradient."""

    def __init__(self, kind: type[GpuOptimizer], param: Array) -> None:
        self.kind, self.param = kind, param
        self.optimizer = kind([param])
        self.working: Any = np.float64 if param.dtype == np.float64 else np.float32

    def step(self, indices: Array, values: Array, gradient: Any = None) -> None:
        """A step with ``(indices, values)``, or with what says the same, such as a torch tensor."""
        saved, twin = self.optimizer.state_dict(), np.copy(self.param, order="K")
        dense = self.kind([twin])
        dense.load_state_dict(saved)
        sums, touched = np.zeros(twin.shape, self.working), np.zeros(twin.shape, bool)
        for index, value in zip(indices.T, values.astype(self.working), strict=True):
            at = tuple(index.tolist())
            sums[at] = np.where(touched[at], sums[at] + value, value)
            touched[at] = True
        before = self._elements(self.optimizer, self.param)
        dense.step([sums])
        self.optimizer.step([(indices[0] if len(indices) == 1 else indices, values) if gradient is None else gradient])
        after, wanted = self._elements(self.optimizer, self.param), self._elements(dense, twin)
        assert after.keys() == wanted.keys()
        for name, array in after.items():
            # States begin with zeros, master weights with the parameter.
            start = before.get(name, before["param"] if name == "master" else 0.0)
            assert_same_bits(array, np.where(touched, wanted[name], start).astype(array.dtype), name)

    def _elements(self, optimizer: GpuOptimizer, param: Array) -> dict[str, Array]:
        state = optimizer.state_dict()["state"].get(0, {})
        arrays = {name: to_host(value) for name, value in state.items() if name not in ("step", "mu_product")}
        return {"param": param.copy(), **arrays}


def drawn(seed: int, shape: Sequence[int], dims: int, count: int, name: str) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    wanted = (count, *shape[dims:])
    indices = [rng.integers(0, size, count) for size in shape[:dims]] if count else []
    return np.array(indices, np.int64).reshape(dims, count), tame(DTYPES[name], prod(wanted), seed, 3).reshape(wanted)


@st.composite
def shapes_and_dims(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int]]]:
    """A shape, an order of its dimensions in memory, and for some steps the sparse dimensions and the number of rows."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 1, 2, 3, 5, 7, 17]), max_size=4)))
    cut = draw(st.integers(0, len(shape)))
    order = (*draw(st.permutations(range(cut))), *draw(st.permutations(range(cut, len(shape)))))
    # In which numbers of dimensions it can be sparse where it lies so.
    allowed = [k for k in range(len(shape) + 1) if k in (0, cut, len(shape)) or order == tuple(range(len(shape)))]
    return shape, order, draw(st.lists(st.tuples(st.sampled_from(allowed), st.integers(0, 12)), min_size=1, max_size=4))


@PROVE
@given(shapes_and_dims(), st.sampled_from(sorted(OPTIMIZERS)), *[st.sampled_from(NAMES)] * 2, st.integers(0, 9999))
@example(((17,), (0,), [(1, 12), (1, 3), (0, 1)]), "GpuAdam", "float32", "float32", 0)
@example(((7, 5), (1, 0), [(2, 12), (2, 1), (0, 1)]), "GpuAdam", "bfloat16", "float16", 1)
@example(((3, 5, 2, 3), (0, 2, 3, 1), [(1, 12), (0, 2), (4, 9), (1, 0)]), "GpuAdam", "float32", "float32", 2)
def test_elements_that_have_a_gradient_change_as_with_a_dense_one(
    how: Any, kind: str, param: str, grad: str, seed: int
) -> None:
    shape, order, steps = how
    start = tame(DTYPES[param], prod(shape), seed, 3).reshape(shape)
    layout = (order, (1,) * len(shape), (False,) * len(shape), seed % 5)
    checked = Checked(OPTIMIZERS[kind], laid_out(start, layout))
    for k, (dims, count) in enumerate(steps):
        checked.step(*drawn(seed + k, shape, dims, count, grad))


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 17, 33])
@pytest.mark.parametrize("offset", range(4))
def test_rows_of_any_width_at_any_address(width: int, offset: int) -> None:
    start = tame(DTYPES["float32"], 40 * width, 0, 3).reshape(40, width)
    checked = Checked(GpuAdam, laid_out(start, ((0, 1), (1, 1), (False, False), offset)))
    for seed in range(3):
        checked.step(*drawn(seed, (40, width), 1, 60, "float32"))


@pytest.mark.parametrize("shape", [(9,), (6, 7), (4, 3, 5)])
def test_torchs_tensors_say_the_same(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    checked = Checked(GpuAdam, tame(DTYPES["float32"], prod(shape), 0, 3).reshape(shape))
    tensor = torch.from_numpy(checked.param)
    checked.optimizer = GpuAdam([tensor])
    for seed, dims in enumerate([*range(len(shape) + 1), 1, len(shape)]):
        indices, values = drawn(seed, shape, dims, 1 if seed == 2 else 12, "float32")
        given = torch.sparse_coo_tensor(
            torch.from_numpy(indices), torch.from_numpy(values), shape, check_invariants=True
        )
        checked.step(indices, values, given)


@pytest.mark.parametrize(("kind", "peer"), [(GpuAdam, "SparseAdam"), (GpuAdaGrad, "Adagrad"), (GpuSgd, "SGD")])
@pytest.mark.parametrize(
    ("shape", "order", "dims"),
    [
        ((), (), 0),
        ((9,), (0,), 1),
        ((5, 6), (0, 1), 2),
        ((5, 6), (1, 0), 2),
        ((4, 3, 2, 2), (0, 2, 3, 1), 1),
        ((4, 3, 2, 2), (3, 0, 2, 1), 4),
        ((3, 4, 5), (0, 1, 2), 2),
    ],
)
def test_it_follows_torchs_optimizers(
    kind: type[GpuOptimizer], peer: str, shape: tuple[int, ...], order: tuple[int, ...], dims: int
) -> None:
    torch = pytest.importorskip("torch")
    start = torch.from_numpy(tame(DTYPES["float64"], prod(shape), 0, 3).reshape([shape[d] for d in order]))
    ours, theirs = (
        torch.nn.Parameter(start.clone().permute([order.index(d) for d in range(len(shape))])) for _ in "ab"
    )
    one = kind([ours], lr=0.1, **({"eps_hat": True} if kind is GpuAdam else {}))  # SparseAdam's eps is ε̂
    other = getattr(torch.optim, peer)([theirs], lr=0.1)
    for seed in range(5):
        indices, values = (torch.from_numpy(one) for one in drawn(seed, shape, dims, 7 * (seed % 3), "float64"))
        for param in (ours, theirs):
            # With equal indices more than once, which autograd makes, and which an optimizer has to sum.
            param.grad = torch.sparse_coo_tensor(indices, values.clone(), shape, check_invariants=True)
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (3, 0, 2)])
def test_dimensions_of_no_element(shape: tuple[int, ...]) -> None:
    p = np.ones(shape, np.float32)
    optimizer = GpuAdam([p], max_grad_norm=1.0)
    for dims in range(1, len(shape) + 1):
        count = 0 if 0 in shape[:dims] else 4
        optimizer.step([(np.zeros((dims, count), np.int64), np.ones((count, *shape[dims:]), np.float32))])
    assert int(optimizer.state_dict()["state"][0]["step"]) == len(shape)
    assert float(optimizer.grad_norm) == 0
    assert optimizer.plan.elements == 0


def test_a_plan_is_kept_while_the_sparse_dimensions_stay() -> None:
    p, plans = np.ones((6, 8), np.float32), []
    optimizer = GpuAdam([p])
    for seed, dims in enumerate((1, 1, 2, 2, 1)):
        optimizer.step([drawn(seed, p.shape, dims, 7, "float32")])
        plans.append(optimizer.plan)
    assert [plan is last for plan, last in zip(plans[1:], plans, strict=False)] == [True, False, True, False]
    assert [plan.elements for plan in plans] == [64, 64, 8, 8, 64]


REFUSED: dict[str, tuple[Any, tuple[Array, Array], str]] = {
    "an index too far": (np.ones((3, 4)), (np.array([[0, 1], [1, 4]]), np.ones(2)), r"from 1 to 4 in dimension 1: must be in \[0, 4\)"),
    "a negative index": (np.ones((3, 4)), (np.array([[0, -1], [1, 2]]), np.ones(2)), "from -1 to 0 in dimension 0"),
    "too many dimensions": (np.ones(3), (np.array([[0], [0]]), np.ones(1)), r"\(2, 1\): must be \(n,\) or \(k, n\), with k at most 1"),
    "indices of no dimension": (np.ones(3), (np.array(0), np.ones(1)), r"have shape \(\): must be"),
    "values of a row": (np.ones((3, 4)), (np.zeros((2, 5), int), np.ones((5, 4))), r"values .* have shape \(5, 4\): must be \(5,\)"),
    "rows in pieces": (np.ones((4, 3)).T, (np.array([1]), np.ones((1, 4))), "must lie in one piece and piece after piece"),
    "rows apart": (np.ones((3, 8))[:, ::2], (np.array([1]), np.ones((1, 4))), r"shape \(3, 4\) and strides \(8, 2\)"),
    "elements apart": (np.ones(8)[::2], (np.array([1]), np.ones(1)), "must lie in one piece"),
    "backwards": (np.ones(8)[::-1], (np.array([1]), np.ones(1)), "must lie in one piece"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(name: str) -> None:
    p, gradient, message = REFUSED[name]
    optimizer = GpuAdam([p])
    with pytest.raises(ValueError, match=message):
        optimizer.step([gradient])
    assert (p == 1).all()
    assert optimizer.state_dict()["state"] == {}


def test_layouts_that_torchs_optimizers_do_not_take_either() -> None:
    torch = pytest.importorskip("torch")
    p = torch.ones(4, 6, requires_grad=True)
    optimizer = GpuAdam([p])
    gradient = torch.eye(4, 6).to_sparse_csr()
    with pytest.raises(RuntimeError, match="attempting to assign a gradient"):
        p.grad = gradient
    with pytest.raises(ValueError, match=r"sparse_csr: use a dense tensor; a gradient may also be torch.sparse_coo"):
        optimizer.step([gradient])
    with pytest.raises(ValueError, match=r"has shape \(6, 4\): must be \(4, 6\)"):
        optimizer.step([torch.eye(6, 4).to_sparse()])
    with pytest.raises(ValueError, match=r"has layout torch\.sparse_coo"):
        GpuAdam([torch.eye(3).to_sparse()])
    optimizer.step([gradient.to_sparse_coo()])
    assert torch.equal(p < 1, torch.eye(4, 6) == 1)
