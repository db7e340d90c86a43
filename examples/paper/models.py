"""Logistic regression and multilayer perceptrons: costs and gradients, over NumPy or CuPy.

A model holds its data. `backward` takes the numbers of a batch's examples, writes the gradient and returns the mean cost, with the
noise of dropout in both where there is dropout. What is random is drawn by NumPy on the host, whatever the array module, so every
optimizer and every device sees the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpu_adam.arrays import to_host

from .data import Images, Words

Arrays = Mapping[str, Any]
"""Arrays by name: of the weights ``w0``, ``w1``, …, of the biases ``b0``, …"""


class Model(Protocol):
    """What a training run asks of a model."""

    def __len__(self) -> int:
        """How many training examples there are."""

    def initial(self, random: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Parameters to begin with, on the host."""

    def place(self, values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Parameters where the model computes."""

    def backward(self, params: Arrays, grads: Arrays, chosen: NDArray[np.int64], random: np.random.Generator) -> Any:
        """The mean cost of the chosen examples, as a scalar where the model computes; its gradient goes into ``grads``."""

    def fetch(self, costs: Sequence[Any]) -> NDArray[np.float64]:
        """Such costs, on the host."""


class OfArrays:
    """What models over NumPy and CuPy have in common."""

    xp: Any
    dtype: np.dtype[Any]

    def place(self, values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        return {name: self.xp.array(value, self.dtype) for name, value in values.items()}

    def fetch(self, costs: Sequence[Any]) -> NDArray[np.float64]:
        return to_host(self.xp.stack(costs)).astype(np.float64)

    def pixels(self, data: Images) -> Any:
        """The images as rows of bytes."""
        return self.xp.asarray(data.pixels.reshape(len(data), -1))

    def grey(self, pixels: Any) -> Any:
        """Bytes as numbers from 0 to 1."""
        return pixels.astype(self.dtype) * self.dtype.type(1 / 255)


class Perceptron(OfArrays):
    """``relu`` layers and a softmax over the classes; without hidden layers multi-class logistic regression.

    Args:
        data: Images with their classes.
        xp: NumPy or CuPy.
        hidden: The widths of the hidden layers.
        dropout: The share of its inputs that each layer drops.
        dtype: In which all is computed.
    """

    def __init__(
        self,
        data: Images,
        xp: Any = np,
        hidden: Sequence[int] = (),
        dropout: Sequence[float] = (),
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.xp, self.dtype = xp, np.dtype(dtype)
        self._pixels, self._labels = self.pixels(data), xp.asarray(data.labels.astype(np.int64))
        self._sizes = (self._pixels.shape[1], *hidden, int(data.labels.max()) + 1)
        self._dropout = tuple(dropout) or (0.0,) * (len(self._sizes) - 1)

    def __len__(self) -> int:
        return len(self._labels)

    def initial(self, random: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Normal weights of variance 2/inputs (He et al., 2015), of zero where the problem is convex; biases of zero."""
        params = {}
        for k, (inputs, outputs) in enumerate(pairwise(self._sizes)):
            scale = np.sqrt(2 / inputs) if len(self._sizes) > 2 else 0.0
            params[f"w{k}"] = random.standard_normal((inputs, outputs)) * scale
            params[f"b{k}"] = np.zeros(outputs)
        return params

    def backward(self, params: Arrays, grads: Arrays, chosen: NDArray[np.int64], random: np.random.Generator) -> Any:
        xp, layers = self.xp, len(self._sizes) - 1
        chosen = xp.asarray(chosen)
        h = self.grey(self._pixels[chosen])
        inputs = []
        for k, rate in enumerate(self._dropout):
            if rate:
                h = h * self.kept(h.shape, rate, random)
            inputs.append(h)
            h = h @ params[f"w{k}"] + params[f"b{k}"]
            if k < layers - 1:
                h = xp.maximum(h, 0)
        cost, delta = softmax_cost(xp, h, self._labels[chosen])
        for k in reversed(range(layers)):
            xp.matmul(inputs[k].T, delta, out=grads[f"w{k}"])
            delta.sum(axis=0, out=grads[f"b{k}"])
            if k:
                # An input is above 0 where the unit was neither off nor dropped.
                delta = delta @ params[f"w{k}"].T * (inputs[k] > 0)
                if self._dropout[k]:
                    delta *= self.dtype.type(1 / (1 - self._dropout[k]))
        return cost

    def kept(self, shape: tuple[int, ...], rate: float, random: np.random.Generator) -> Any:
        """What dropout multiplies by: 0, or 1/(1-rate), which leaves the mean as it is."""
        kept = random.random(shape, dtype=np.float32) >= np.float32(rate)
        return self.xp.asarray(kept) * self.dtype.type(1 / (1 - rate))


class SparseLogistic(OfArrays):
    """Logistic regression on counts of words, of which dropout looks at those only that occur.

    Args:
        data: Reviews.
        xp: NumPy or CuPy.
        vocabulary: How many words there are.
        dropout: The share of a review's words that is dropped.
        dtype: In which all is computed but the sums, which are float64's.
    """

    def __init__(
        self, data: Words, xp: Any = np, vocabulary: int = 10_000, dropout: float = 0.5, dtype: DTypeLike = np.float32
    ) -> None:
        self.xp, self.dtype = xp, np.dtype(dtype)
        self._rows = data.rows.astype(np.int64)  # on the host, where batches are put together
        self._words = xp.asarray(data.words.astype(np.int64))
        self._values = xp.asarray(data.counts.astype(self.dtype))
        self._labels = xp.asarray(data.labels.astype(self.dtype))
        self._vocabulary, self._dropout = vocabulary, dropout

    def __len__(self) -> int:
        return len(self._labels)

    def initial(self, random: np.random.Generator) -> dict[str, NDArray[Any]]:
        return {"w0": np.zeros(self._vocabulary), "b0": np.zeros(1)}

    def backward(self, params: Arrays, grads: Arrays, chosen: NDArray[np.int64], random: np.random.Generator) -> Any:
        xp = self.xp
        starts, lengths = self._rows[chosen], self._rows[chosen + 1] - self._rows[chosen]
        before = np.cumsum(lengths) - lengths
        total = int(lengths.sum())
        at = xp.asarray(np.repeat(starts - before, lengths) + np.arange(total))
        review = xp.asarray(np.repeat(np.arange(len(chosen)), lengths))
        kept = xp.asarray(random.random(total, dtype=np.float32) >= np.float32(self._dropout))
        words = self._words[at]
        values = self._values[at] * kept * self.dtype.type(1 / (1 - self._dropout))
        labels = self._labels[xp.asarray(chosen)]
        sums = xp.bincount(review, weights=values * params["w0"][words], minlength=len(chosen)) + params["b0"]
        cost = (softplus(xp, sums) - labels * sums).mean()
        delta = (sigmoid(xp, sums) - labels) / len(chosen)
        grads["w0"][...] = xp.bincount(words, weights=values * delta[review], minlength=self._vocabulary)
        grads["b0"][...] = delta.sum()
        return cost


def softmax_cost(xp: Any, logits: Any, labels: Any) -> tuple[Any, Any]:
    """The mean cross-entropy of a softmax, and its gradient by the logits."""
    logits = logits - logits.max(axis=1, keepdims=True)  # so that exp does not overflow
    p = xp.exp(logits)
    total = p.sum(axis=1, keepdims=True)
    rows = xp.arange(len(labels))
    cost = (xp.log(total[:, 0]) - logits[rows, labels]).mean()
    p /= total
    p[rows, labels] -= 1
    p /= len(labels)
    return cost, p


def softplus(xp: Any, x: Any) -> Any:
    """``log(1 + exp(x))``, without overflow."""
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-abs(x)))


def sigmoid(xp: Any, x: Any) -> Any:
    """The derivative of `softplus`, without overflow."""
    small = xp.exp(-abs(x))
    return xp.where(x >= 0, 1, small) / (1 + small)
