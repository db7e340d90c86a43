"""Gradients of some rows of a matrix: only these rows change, and cost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_adam import GpuAdam
from tests.support.reference import DTYPES, assert_same_bits, clip_factor, norm
from tests.support.strategies import FEW, tame, values

NAMES = sorted(DTYPES)


def summed(rows: np.ndarray, gradient: np.ndarray, working: Any) -> tuple[np.ndarray, np.ndarray]:
    """The rows that occur, and the sum of the values of each, added one after the other in the order in which they are given."""
    found = np.unique(rows)
    sums = []
    for row in found:
        parts = gradient[rows == row].astype(working)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        sums.append(total)
    return found, np.array(sums, working).reshape(len(found), *gradient.shape[1:])


def lazy(p: np.ndarray, gradients: list[tuple[np.ndarray, np.ndarray]], **options: Any) -> GpuAdam:
    """The step of each row as that of a parameter of its own; `step` counts all of them."""
    optimizer = GpuAdam(list(p), **options)
    working = np.float64 if p.dtype == np.float64 else np.float32
    for t, (rows, gradient) in enumerate(gradients, start=1):
        saved = optimizer.state_dict()
        for state in saved["state"].values():
            state["step"] = t - 1
        optimizer.load_state_dict(saved)
        grads: list[Any] = [None] * len(p)
        for row, total in zip(*summed(rows, gradient, working), strict=True):
            grads[row] = total
            if row not in saved["state"]:
                zero = np.zeros(p.shape[1:], working)
                state = {"step": t - 1, "exp_avg": zero, "exp_avg_sq": zero}
                if p.dtype.itemsize == 2 and options.get("master_weights") is not False:
                    state["master"] = p[row].astype(np.float32)
                saved["state"][int(row)] = state
        optimizer.load_state_dict(saved)
        optimizer.step(grads)
    return optimizer


def random_rows(seed: int, count: int, limit: int, width: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, limit, count), tame(DTYPES[name], count * width, seed, 3).reshape(count, width)


@pytest.mark.parametrize(
    "how", [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}, {"maximize": True}]
)
@pytest.mark.parametrize("param", NAMES)
@pytest.mark.parametrize("grad", NAMES)
def test_only_these_rows_change_and_as_parameters_of_their_own(param: str, grad: str, how: dict[str, Any]) -> None:
    p = tame(DTYPES[param], 20 * 12, 0, 3).reshape(20, 12)
    q = p.copy()
    gradients = [random_rows(seed, 9, 20, 12, grad) for seed in range(3)]
    optimizer = GpuAdam([p], **how)
    for one in gradients:
        optimizer.step([one])
    lazy(q, gradients, **how)
    assert_same_bits(p, q)
    assert int(optimizer.state_dict()["state"][0]["step"]) == 3


@FEW
@given(st.integers(0, 10_000), st.integers(0, 40), st.integers(1, 300), st.sampled_from(NAMES))
def test_any_number_and_width_of_rows(seed: int, count: int, width: int, name: str) -> None:
    p = tame(DTYPES[name], 7 * width, seed, 3).reshape(7, width)
    q = p.copy()
    gradients = [random_rows(seed + k, count, 7, width, name) for k in range(2)]
    optimizer = GpuAdam([p], lr=0.1)
    for one in gradients:
        optimizer.step([one])
    lazy(q, gradients, lr=0.1)
    assert_same_bits(p, q)


@pytest.mark.parametrize("pack", [False, True])
def test_beside_dense_parameters_and_clipped_with_them(pack: bool) -> None:
    table, dense = values(DTYPES["float32"], 50 * 16, 0, 0.0).reshape(50, 16), values(DTYPES["float32"], 99, 1, 0.0)
    twins = table.copy(), dense.copy()
    optimizer = GpuAdam([table, dense], max_grad_norm=1.0, pack=pack)
    other = GpuAdam(list(twins), pack=pack)
    for seed in range(3):
        rows, gradient = random_rows(seed, 11, 50, 16, "float32")
        g = tame(DTYPES["float32"], 99, seed, 3)
        optimizer.step([(rows, gradient), g])
        found, sums = summed(rows, gradient, np.float32)
        # What is measured are the sums, in the places of the first of each row, in a buffer for a power of two of rows.
        buffer = np.zeros((16, 16), np.float32)
        buffer[np.searchsorted(np.sort(rows), found)] = sums
        measured = norm([buffer, g])
        assert float(optimizer.grad_norm) == measured
        factor = np.float32(clip_factor(measured, 1.0))
        other.step([(found, factor * sums), factor * g])
        for p, q in zip(optimizer.params, other.params, strict=True):
            assert_same_bits(p, q)


def test_it_follows_torchs_sparse_adam() -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = (torch.nn.Embedding(30, 8, sparse=True, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        theirs.weight.copy_(ours.weight)
    one = GpuAdam(ours.parameters(), lr=0.05, eps_hat=True)  # in which order torch adds eps here
    other = torch.optim.SparseAdam(list(theirs.parameters()), lr=0.05)
    for seed in range(6):
        torch.manual_seed(seed)
        batch = torch.randint(0, 30, (4, 5))
        for model, optimizer in ((ours, one), (theirs, other)):
            optimizer.zero_grad()
            (model(batch) ** 2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-10, atol=1e-14)


def test_a_row_that_is_skipped_stays() -> None:
    p = np.ones((5, 4), np.float32)
    optimizer = GpuAdam([p], skip_nonfinite=True)
    optimizer.step([(np.array([1, 1]), np.full((2, 4), np.inf, np.float32))])
    assert (p == 1).all()
    assert optimizer.steps_skipped == 1


def test_dense_gradients_and_rows_take_turns() -> None:
    p, q = (np.ones((6, 4), np.float32) for _ in range(2))
    one, other = GpuAdam([p], weight_decay=0.0), GpuAdam([q])
    for k in range(4):
        g = tame(DTYPES["float32"], 24, k, 1).reshape(6, 4)
        one.step([(np.arange(6), g) if k % 2 else g])
        other.step([g])
        assert_same_bits(p, q)


def test_no_rows_at_all_count_a_step() -> None:
    p = np.ones((6, 4), np.float32)
    optimizer = GpuAdam([p])
    optimizer.step([(np.zeros(0, np.int64), np.zeros((0, 4), np.float32))])
    assert (p == 1).all()
    assert optimizer.state_dict()["state"][0]["step"] == 1


def test_parameters_of_three_dimensions_have_rows_too() -> None:
    p = np.ones((6, 2, 4), np.float32)
    GpuAdam([p], lr=0.5).step([(np.array([3], np.int32), np.ones((1, 2, 4), np.float32))])
    assert (p[3] == 0.5).all()
    assert (np.delete(p, 3, axis=0) == 1).all()


def test_rows_in_groups_are_no_groups_of_gradients() -> None:
    p, q = np.ones((5, 4), np.float32), np.ones((5, 4), np.float32)
    optimizer = GpuAdam([{"params": [p]}, {"params": [q]}], lr=0.5)
    rows = (np.array([2]), np.ones((1, 4), np.float32))
    optimizer.step([rows, rows])
    optimizer.step([[rows], [None]])
    assert [(p[2] < 1).all(), (q[2] < 1).all(), (p[0] == 1).all()] == [True, True, True]
    assert (p[2] < q[2]).all()


REFUSED: dict[str, tuple[dict[str, Any], Any, str]] = {
    "a row too far": ({}, ([0, 5], (2, 4)), r"indices of .* go from 0 to 5 in dimension 0: must be in \[0, 5\)"),
    "a negative row": ({}, ([-1, 2], (2, 4)), "from -1 to 2 in dimension 0"),
    "another number": ({}, ([1], (2, 4)), r"values of .* have shape \(2, 4\): must be \(1, 4\)"),
    "another width": ({}, ([1, 2], (2, 3)), r"have shape \(2, 3\): must be \(2, 4\)"),
    "with an average": ({"ema_decay": 0.9}, ([1, 2], (2, 4)), "does not go with an average of the parameters"),
    "capturable": ({"capturable": True}, ([1, 2], (2, 4)), "does not go with capturable=True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(name: str) -> None:
    how, (rows, shape), message = REFUSED[name]
    p = np.ones((5, 4), np.float32)
    optimizer = GpuAdam([p], **how)
    with pytest.raises(ValueError, match=message):
        optimizer.step([(np.array(rows), np.ones(shape, np.float32))])
    assert (p == 1).all()
    assert optimizer.state_dict()["state"] == {}


def test_row_numbers_must_be_integers() -> None:
    with pytest.raises(
        TypeError,
        match="indices of the gradient of parameter 0 of group 0 are float64: must be an array of int64 or int32",
    ):
        GpuAdam([np.ones((5, 4))]).step([(np.array([1.0]), np.ones((1, 4)))])


def test_the_plan_counts_the_rows() -> None:
    p = np.ones((1000, 64), np.float32)
    optimizer = GpuAdam([p], max_grad_norm=math.inf)
    optimizer.step([(np.arange(8), np.ones((8, 64), np.float32))])
    # The sum reads and writes 8 bytes an element, and 24 a row; the norm reads 4 and the update 28.
    assert optimizer.plan.bytes_moved == (8 + 32) * 8 * 64 + 24 * 8
    assert len(optimizer.plan.kernels) == 3
    assert "adam_rows_float32" in str(optimizer.plan)


class OnlyDlpack:
    """An array that is known by a protocol only."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_values_of_another_library_must_lie_row_after_row() -> None:
    values_of = np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2]
    with pytest.raises(ValueError, match="must lie row after row"):
        GpuAdam([np.zeros((4, 3), np.float32)]).step([(np.array([1, 2]), OnlyDlpack(values_of))])


@pytest.mark.parametrize("p", [np.ones((0, 3), np.float32), np.ones((1, 6), np.float32)[:, :3]])
def test_matrices_of_no_row_and_of_one(p: np.ndarray) -> None:
    count = min(len(p), 1)
    GpuAdam([p]).step([(np.zeros(count, np.int64), np.ones((count, 3), np.float32))])
    assert (p < 1).all()


def test_bound_rows_are_cleared() -> None:
    p, q = np.ones((4, 2), np.float32), np.ones(3, np.float32)
    optimizer = GpuAdam([p, q])
    rows, gradient, g = np.array([1]), np.ones((1, 2), np.float32), np.ones(3, np.float32)
    optimizer.grads = [(rows, gradient), g]
    optimizer.zero_grad()
    assert not gradient.any()
    assert not g.any()
