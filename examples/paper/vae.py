"""The variational autoencoder of section 6.4 (Kingma and Welling, 2013): one hidden layer of softplus units on each side."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .data import Images
from .models import Arrays, OfArrays, sigmoid, softplus


class Autoencoder(OfArrays):
    """Images from a Gaussian latent and back; the cost is the negative evidence lower bound of an image, in nats.

    Pixels are taken as the probabilities of ones. The divergence from the prior is in closed form, and one sample of the latent is taken an
    image.

    Args:
        data: Images; their classes are not used.
        xp: NumPy or CuPy.
        hidden: The width of each hidden layer.
        latent: The dimensions of the latent.
        dtype: In which all is computed.
    """

    def __init__(
        self, data: Images, xp: Any = np, hidden: int = 500, latent: int = 50, dtype: DTypeLike = np.float32
    ) -> None:
        self.xp, self.dtype = xp, np.dtype(dtype)
        self._pixels, self._latent = self.pixels(data), latent
        pixels = self._pixels.shape[1]
        # Into the hidden layer, the latent's mean and log variance side by side, the other hidden layer, the pixels.
        self._shapes = ((pixels, hidden), (hidden, 2 * latent), (latent, hidden), (hidden, pixels))

    def __len__(self) -> int:
        return len(self._pixels)

    def initial(self, random: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Normal weights of variance 2/(inputs + outputs) (Glorot and Bengio, 2010), biases of zero."""
        params = {}
        for k, (inputs, outputs) in enumerate(self._shapes):
            params[f"w{k}"] = random.standard_normal((inputs, outputs)) * np.sqrt(2 / (inputs + outputs))
            params[f"b{k}"] = np.zeros(outputs)
        return params

    def backward(self, params: Arrays, grads: Arrays, chosen: NDArray[np.int64], random: np.random.Generator) -> Any:
        xp, count, latent = self.xp, len(chosen), self._latent
        noise = xp.asarray(random.standard_normal((count, latent), dtype=np.float32)).astype(self.dtype)
        x = self.grey(self._pixels[xp.asarray(chosen)])

        sums0 = x @ params["w0"] + params["b0"]
        h0 = softplus(xp, sums0)
        code = h0 @ params["w1"] + params["b1"]
        mean, log_variance = code[:, :latent], code[:, latent:]
        deviation = xp.exp(log_variance / 2)
        z = mean + deviation * noise
        sums2 = z @ params["w2"] + params["b2"]
        h2 = softplus(xp, sums2)
        logits = h2 @ params["w3"] + params["b3"]

        reconstruction = (softplus(xp, logits) - x * logits).sum()
        divergence = (mean**2 + deviation**2 - log_variance - 1).sum() / 2

        delta = (sigmoid(xp, logits) - x) / count
        delta = self._layer(params, grads, 3, h2, delta) * sigmoid(xp, sums2)
        delta = self._layer(params, grads, 2, z, delta)
        by_mean = delta + mean / count
        by_log_variance = delta * noise * deviation / 2 + (deviation**2 - 1) / (2 * count)
        delta = xp.concatenate([by_mean, by_log_variance], axis=1)
        delta = self._layer(params, grads, 1, h0, delta) * sigmoid(xp, sums0)
        xp.matmul(x.T, delta, out=grads["w0"])
        delta.sum(axis=0, out=grads["b0"])
        return (reconstruction + divergence) / count

    def _layer(self, params: Arrays, grads: Arrays, k: int, inputs: Any, delta: Any) -> Any:
        """Write a layer's gradients; the gradient by its inputs."""
        self.xp.matmul(inputs.T, delta, out=grads[f"w{k}"])
        delta.sum(axis=0, out=grads[f"b{k}"])
        return delta @ params[f"w{k}"].T
