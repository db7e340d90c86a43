"""The convolutional network of section 6.3, in PyTorch: three stages of 5x5 convolution and 3x3 max pooling, and a hidden layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from .data import Images
from .models import Arrays

_CLASSES = 10
_RELATIVE_NOISE = 0.1
"""What whitening adds to each variance, as a share of their mean: directions in which images hardly vary are not blown up to noise."""


def whitened(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images with (nearly) uncorrelated pixels: ZCA, the symmetric of all whitenings, then one scale for unit variance.

    With X the centred images, one a row, and C their covariance, ZCA is X (C + εI)^(-1/2), which equals (XXᵀ/n + εI)^(-1/2) X: the
    smaller of the two matrices is taken apart.
    """
    x = pixels.reshape(len(pixels), -1).astype(np.float32)
    x -= x.mean(axis=0)
    count, size = x.shape
    variances, axes = np.linalg.eigh((x.T @ x if size <= count else x @ x.T) / count)
    variances = np.maximum(variances, 0)
    noise = _RELATIVE_NOISE * variances.sum() / size
    root = (axes / np.sqrt(variances + noise)) @ axes.T
    x = x @ root if size <= count else root @ x
    return x / x.std()


class Convolutional:
    """Convolutions with 64, 64 and 128 filters, a hidden layer of 1,000 rectified units, a softmax.

    Args:
        data: Images of 32x32 pixels in three colours, with their classes.
        device: torch's name of the device.
        filters: The filters of each stage.
        hidden: The width of the hidden layer.
        dropout: The share that is dropped of the (whitened) input, and of the hidden layer's inputs and outputs.
        dtype: In which all is computed.
    """

    def __init__(
        self,
        data: Images,
        device: str = "cpu",
        filters: Sequence[int] = (64, 64, 128),
        hidden: int = 1000,
        dropout: Sequence[float] = (0.0, 0.0),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._device, self._dtype = torch.device(device), dtype
        images = torch.from_numpy(whitened(data.pixels).reshape(data.pixels.shape)).permute(0, 3, 1, 2)
        # Channels last: on a CPU a step then takes two thirds of the time.
        self._images = images.to(self._device, dtype, memory_format=torch.channels_last)
        self._labels = torch.from_numpy(data.labels.astype(np.int64)).to(self._device)
        self._input_dropout, self._hidden_dropout = dropout
        side = images.shape[2]
        for _ in filters:
            side = (side - 1) // 2 + 1
        channels = (images.shape[1], *filters)
        self._shapes: list[tuple[int, ...]] = [(channels[k + 1], channels[k], 5, 5) for k in range(len(filters))]
        self._shapes += [(hidden, filters[-1] * side * side), (_CLASSES, hidden)]

    def __len__(self) -> int:
        return len(self._labels)

    def initial(self, random: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Normal weights of variance 1/inputs, since max pooling raises what rectifying lowers; biases of zero."""
        params = {}
        for k, shape in enumerate(self._shapes):
            params[f"w{k}"] = random.standard_normal(shape) * np.sqrt(1 / np.prod(shape[1:]))
            params[f"b{k}"] = np.zeros(shape[0])
        return params

    def place(self, values: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
        return {
            name: torch.tensor(value, dtype=self._dtype, device=self._device).requires_grad_()
            for name, value in values.items()
        }

    def backward(self, params: Arrays, grads: Arrays, chosen: NDArray[np.int64], random: np.random.Generator) -> Any:
        at = torch.from_numpy(chosen).to(self._device)
        x = self._dropped(self._images[at], self._input_dropout, random)
        last = len(self._shapes) - 1
        for k in range(last - 1):
            x = F.max_pool2d(F.relu(F.conv2d(x, params[f"w{k}"], params[f"b{k}"], padding=2)), 3, stride=2, padding=1)
        x = self._dropped(x.flatten(1), self._hidden_dropout, random)
        x = F.relu(F.linear(x, params[f"w{last - 1}"], params[f"b{last - 1}"]))
        x = self._dropped(x, self._hidden_dropout, random)
        cost = F.cross_entropy(F.linear(x, params[f"w{last}"], params[f"b{last}"]), self._labels[at])
        for name, grad in zip(params, torch.autograd.grad(cost, list(params.values())), strict=True):
            grads[name].copy_(grad)
        return cost.detach()

    def fetch(self, costs: Sequence[Any]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = torch.stack(list(costs)).double().cpu().numpy()
        return found

    def _dropped(self, x: torch.Tensor, rate: float, random: np.random.Generator) -> torch.Tensor:
        if not rate:
            return x
        kept = torch.from_numpy(random.random(tuple(x.shape), dtype=np.float32) >= np.float32(rate))
        return x * kept.to(self._device) / (1 - rate)
