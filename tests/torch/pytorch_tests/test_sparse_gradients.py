"""Sparse gradients: the optimizers that take them in PyTorch take them here, in any layout that autograd may give."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.torch.pytorch_tests.cases import (  # noqa: E402
    NAMES,
    advance,
    information,
    inputs,
    optimizer,
    original,
    takes_sparse_only,
)
from tests.torch.pytorch_tests.left_out import differs  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),  # of PyTorch's Adagrad
]

SPARSE = ("Adagrad", "SGD", "SparseAdam")


def test_these_are_the_ones_that_take_them() -> None:
    assert {name for name in NAMES if information(name).supports_sparse or takes_sparse_only(name)} == set(SPARSE)


def tried(name: str) -> tuple[list[dict[str, Any]], list[Any]]:
    """The arguments to be tried with sparse gradients, and the schedulers: those of the database, with its hyperparameters for them."""
    chosen, makers = information(name).metadata_for_sparse
    # A fused version takes no sparse gradients in PyTorch.
    given = [{**kwargs, **chosen} for kwargs in inputs(name) if not kwargs.get("fused")]
    return [kwargs for k, kwargs in enumerate(given) if kwargs not in given[:k]], list(makers)


def valley(p: Any) -> Any:
    """Rosenbrock's function, which is 0 at (1, 1)."""
    x, y = p
    return (1 - x) ** 2 + 100 * (y - x * x) ** 2


def height(p: Any) -> float:
    return float(valley(p.detach()))


def one_coordinate(p: Any, k: int, sparse: bool) -> Any:
    """The gradient of one coordinate, as a sparse tensor in two entries of the same place, one of them three times the other."""
    (gradient,) = torch.autograd.grad(valley(p), p)
    if not sparse:
        return torch.zeros_like(p).index_fill(0, torch.tensor([k]), float(gradient[k]))
    parts = gradient[k] * torch.tensor([0.25, 0.75], dtype=p.dtype)
    return torch.sparse_coo_tensor(torch.tensor([[k, k]]), parts, p.shape, check_invariants=True)


@pytest.mark.parametrize("scheduled", [False, True], ids=["constant", "scheduled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", SPARSE)
def test_one_coordinate_after_the_other(name: str, dtype: Any, scheduled: bool) -> None:
    given, makers = tried(name)
    for kwargs in given:
        p, q = (torch.nn.Parameter(torch.tensor([1.5, 1.5], dtype=dtype)) for _ in range(2))
        opt, of_dense = (
            optimizer(name, [p], **kwargs),
            None if takes_sparse_only(name) else optimizer(name, [q], **kwargs),
        )
        every_step = [make(opt) for make in makers] if scheduled else []
        every_step_of_dense = [make(of_dense) for make in makers] if scheduled and of_dense else []
        for k in range(80):
            p.grad = one_coordinate(p, k % 2, sparse=True)
            opt.step()
            for scheduler in every_step:
                advance(scheduler, height(p))
            if of_dense:
                q.grad = one_coordinate(q, k % 2, sparse=False)
                of_dense.step()
                for scheduler in every_step_of_dense:
                    advance(scheduler, height(q))
                torch.testing.assert_close(p, q, rtol=5e-6, atol=5e-6)
        start = height(torch.tensor([1.5, 1.5]))
        assert height(p) > start if kwargs.get("maximize") else height(p) < start / 10


LAYOUTS = {
    "one dimension": ((6,), 1),
    "rows": ((5, 3), 1),
    "sparse in both": ((5, 3), 2),
    "sparse in two of three": ((4, 3, 2), 2),
}


def gradient(shape: tuple[int, ...], sparse: int, seed: int) -> Any:
    """A sparse gradient, uncoalesced, some of its entries at the same place."""
    made = torch.Generator().manual_seed(seed)
    where = torch.stack([torch.randint(0, size, (5,), generator=made) for size in shape[:sparse]])
    values = torch.randn((5, *shape[sparse:]), generator=made)
    return torch.sparse_coo_tensor(where, values, shape, check_invariants=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SPARSE)
def test_updates_of_sparse_gradients_are_pytorchs(name: str, layout: str) -> None:
    shape, sparse = LAYOUTS[layout]
    for ours, theirs in zip(tried(name)[0], tried(name)[0], strict=True):
        p, q = (torch.nn.Parameter(torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)) for _ in range(2))
        opt, peer = optimizer(name, [p], **ours), original(name, [q], **theirs)
        for seed in range(6):
            p.grad, q.grad = gradient(shape, sparse, seed), gradient(shape, sparse, seed)
            opt.step()
            peer.step()
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
            assert list(opt.state.get(p, {})) == list(peer.state.get(q, {}))
            for key, value in peer.state.get(q, {}).items():
                if isinstance(value, torch.Tensor) and key != "step":
                    torch.testing.assert_close(opt.state[p][key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SPARSE)
def test_a_sparse_gradient_without_an_entry_moves_nothing(name: str) -> None:
    for kwargs in tried(name)[0]:
        p = torch.nn.Parameter(torch.ones(5, 1))
        opt = optimizer(name, [p], **kwargs)
        for values in (torch.empty(0, 1), torch.empty(0)):
            dimensions = 2 - (values.ndim - 1)
            p.grad = torch.sparse_coo_tensor(
                torch.empty(dimensions, 0, dtype=torch.int64), values, (5, 1), check_invariants=True
            )
            opt.step(lambda: torch.tensor([1.0]))
            assert torch.equal(p, torch.ones(5, 1))


@pytest.mark.parametrize("name", [name for name in NAMES if name in SPARSE or differs(name, "sparse gradients")])
def test_an_embedding_trains_by_its_sparse_gradients(name: str) -> None:
    torch.manual_seed(0)
    table = torch.nn.Embedding(10, 3, sparse=True)
    opt = optimizer(name, table.parameters(), lr=0.05)
    used, rest = torch.tensor([1, 4, 4, 7]), torch.tensor([0, 2, 3, 5, 6, 8, 9])
    held = table.weight.detach().clone()
    losses = []
    for _ in range(15):
        opt.zero_grad()
        loss = (table(used) - 1).square().sum()
        loss.backward()
        assert table.weight.grad.is_sparse
        opt.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert torch.equal(table.weight[rest], held[rest])


def test_sparse_adam_refuses_dense_gradients_and_sparse_parameters() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    opt = optimizer("SparseAdam", [p])
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="SparseAdam does not support dense gradients, please consider Adam instead"):
        opt.step()
    assert torch.equal(p, torch.ones(3))
    p.grad = torch.ones(3).to_sparse()
    opt.step()
    assert not torch.equal(p, torch.ones(3))


@pytest.mark.parametrize("name", SPARSE)
def test_a_parameter_that_does_not_lie_in_one_piece_is_refused(name: str) -> None:
    # In the table.
    p = torch.nn.Parameter(torch.ones(4, 3, 2)[..., 0])
    opt = optimizer(name, [p])
    p.grad = gradient((4, 3), 2, seed=0)
    with pytest.raises(ValueError, match="the gradient of parameter 0 of group 0"):
        opt.step()
    assert torch.equal(p, torch.ones(4, 3))
    assert not opt.state_dict()["state"]
