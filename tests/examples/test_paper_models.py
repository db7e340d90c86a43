"""The paper's models: gradients against finite differences, and what dropout leaves as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from examples.paper.data import Images, Words
from examples.paper.models import Perceptron, SparseLogistic
from examples.paper.vae import Autoencoder

# Central differences of float64: their own error is h² times a third derivative, and rounding over h.
STEP, CLOSE = 1e-5, 1e-7
CHOSEN = np.array([3, 0, 4])


def images(side: int = 4, colours: tuple[int, ...] = ()) -> Images:
    random = np.random.default_rng(1)
    return Images(random.integers(256, size=(6, side, side, *colours), dtype=np.uint8), np.uint8([0, 1, 2, 0, 1, 2]))


def reviews() -> Words:
    words = np.uint16([0, 3, 5, 2, 3, 4, 0, 1, 5, 2])
    counts = np.uint8([1, 2, 1, 7, 1, 1, 2, 1, 1, 3])
    return Words(words, counts, np.int32([0, 3, 4, 6, 9, 10]), np.uint8([1, 0, 1, 0, 1]))


MODELS: dict[str, Any] = {
    "logistic": lambda: Perceptron(images(), dtype=np.float64),
    "mlp": lambda: Perceptron(images(), hidden=(5, 4), dtype=np.float64),
    "mlp-dropout": lambda: Perceptron(images(), hidden=(8, 7), dropout=(0.2, 0.5, 0.5), dtype=np.float64),
    "sparse": lambda: SparseLogistic(reviews(), vocabulary=6, dtype=np.float64),
    "vae": lambda: Autoencoder(images(), hidden=5, latent=3, dtype=np.float64),
}


def around(model: Any) -> dict[str, Any]:
    """Parameters away from where they begin, since zeros hide mistakes."""
    random = np.random.default_rng(2)
    return model.place({name: random.normal(size=value.shape) / 2 for name, value in model.initial(random).items()})


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    model = MODELS[name]()
    params = around(model)
    grads, unused = ({key: np.zeros_like(value) for key, value in params.items()} for _ in range(2))

    def cost() -> float:
        return float(model.backward(params, unused, CHOSEN, np.random.default_rng(3)))

    model.backward(params, grads, CHOSEN, np.random.default_rng(3))
    for key, value in params.items():
        for at in np.ndindex(value.shape):
            middle = value[at]
            value[at] = middle + STEP
            high = cost()
            value[at] = middle - STEP
            low = cost()
            value[at] = middle
            assert grads[key][at] == pytest.approx((high - low) / (2 * STEP), rel=CLOSE, abs=CLOSE), (key, at)


def test_the_convolutions_gradient_is_that_of_finite_differences() -> None:
    torch = pytest.importorskip("torch")
    from examples.paper.cnn import Convolutional

    model = Convolutional(images(8, (3,)), filters=(2, 3), hidden=5, dropout=(0.2, 0.5), dtype=torch.float64)
    params = model.place(model.initial(np.random.default_rng(2)))
    grads, unused = ({key: torch.zeros_like(value) for key, value in params.items()} for _ in range(2))
    model.backward(params, grads, CHOSEN, np.random.default_rng(3))
    random = np.random.default_rng(4)
    for key, value in params.items():
        direction = torch.from_numpy(random.normal(size=tuple(value.shape)))
        costs = []
        for sign in (1, -1):
            moved = {**params, key: (value + sign * STEP * direction).detach().requires_grad_()}
            costs.append(float(model.backward(moved, unused, CHOSEN, np.random.default_rng(3))))
        slope = float((grads[key] * direction).sum())
        assert slope == pytest.approx((costs[0] - costs[1]) / (2 * STEP), rel=1e-5, abs=CLOSE), key


def test_whitening_leaves_pixels_nearly_uncorrelated_by_either_route() -> None:
    pytest.importorskip("torch")
    from examples.paper.cnn import whitened

    random = np.random.default_rng(0)
    plain = random.normal(size=(300, 12))
    mixed = plain @ random.normal(size=(12, 12))
    pixels = np.uint8(np.clip(128 + 20 * mixed, 0, 255)).reshape(300, 2, 2, 3)
    white = whitened(pixels)
    covariance = white.T @ white / len(white)
    off = abs(covariance - np.diag(np.diag(covariance)))
    before = abs(np.corrcoef(pixels.reshape(300, -1).T))
    assert off.max() < 0.35 * (before - np.eye(12)).max()
    assert white.std() == pytest.approx(1, abs=1e-3)

    few = pixels[:10]  # fewer than there are pixels: the other matrix is taken apart
    x = few.reshape(10, -1).astype(np.float64)
    x -= x.mean(axis=0)
    c = x.T @ x / 10
    values, axes = np.linalg.eigh(c + 0.1 * np.trace(c) / 12 * np.eye(12))
    wanted = x @ (axes / np.sqrt(values)) @ axes.T
    np.testing.assert_allclose(whitened(few), wanted / wanted.std(), atol=1e-3)


def test_dropout_keeps_the_mean() -> None:
    kept = Perceptron(images()).kept((400, 400), 0.2, np.random.default_rng(0))
    assert set(np.unique(kept)) == {np.float32(0), np.float32(1.25)}
    assert kept.mean() == pytest.approx(1, abs=0.01)


def test_a_sparse_review_costs_what_its_dense_row_does() -> None:
    data = reviews()
    model = SparseLogistic(data, vocabulary=6, dropout=0.0, dtype=np.float64)
    params = around(model)
    grads = {key: np.zeros_like(value) for key, value in params.items()}
    dense = np.zeros((5, 6))
    for k in range(5):
        dense[k, data.words[data.rows[k] : data.rows[k + 1]]] = data.counts[data.rows[k] : data.rows[k + 1]]
    sums = dense @ params["w0"] + params["b0"]
    p = 1 / (1 + np.exp(-sums))
    costs = -np.log(np.where(data.labels == 1, p, 1 - p))
    cost = model.backward(params, grads, CHOSEN, np.random.default_rng(0))
    assert cost == pytest.approx(costs[CHOSEN].mean())
    np.testing.assert_allclose(grads["w0"], dense[CHOSEN].T @ (p - data.labels)[CHOSEN] / 3)
