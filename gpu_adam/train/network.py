"""A multilayer perceptron, forward and backward, over whichever array module is handed in.

Activations are matrices, one row an image, and W_k has a row for each input: ``h_k+1 = relu(h_k W_k + b_k)``, and the last layer's
sums are the logits of a softmax. 16-bit parameters meet float32 activations and are widened by the array module, so only their storage
is narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Arrays = Mapping[str, Any]
"""Arrays of one module by name: ``w0``, ``b0``, ``w1``, …"""


def initial(sizes: Sequence[int], dtype: DTypeLike, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Parameters to begin with: normal weights of variance 2/inputs (He et al., 2015), biases of zero.

    Args:
        sizes: The width of each layer, from the pixels to the classes.
        dtype: Of the parameters.
        random: Where the weights come from: NumPy's, so that every array module begins alike.
    """
    params = {}
    for k, (inputs, outputs) in enumerate(pairwise(sizes)):
        params[f"w{k}"] = (random.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)).astype(dtype)
        params[f"b{k}"] = np.zeros(outputs, dtype)
    return params


def forward(xp: Any, params: Arrays, x: Any) -> list[Any]:
    """The activations of every layer: ``x`` first, the logits last."""
    layers = len(params) // 2
    activations = [x]
    for k in range(layers):
        x = x @ params[f"w{k}"] + params[f"b{k}"]
        if k < layers - 1:
            x = xp.maximum(x, 0)
        activations.append(x)
    return activations


def backward(xp: Any, params: Arrays, grads: Arrays, x: Any, targets: Any, scale: Any = None) -> Any:
    """The mean cross-entropy of a batch, its gradient written into ``grads``.

    The gradient is computed in the activations' format, and only stored in that of ``grads``. Where that has 16 bits, small numbers need a
    loss scale, lest they become subnormal or 0 (Micikevicius et al., 2018).

    Args:
        xp: The array module.
        params: The parameters.
        grads: Arrays of the parameters' shapes, which are overwritten.
        x: The batch, one row an image.
        targets: The wanted probabilities, one row an image: 1 for its class and 0 for the others.
        scale: What the gradient is multiplied by: a number or a 0-dimensional array; ``None`` for 1.
    """
    *inputs, logits = forward(xp, params, x)
    logits = logits - logits.max(axis=1, keepdims=True)  # so that exp does not overflow
    log_p = logits - xp.log(xp.exp(logits).sum(axis=1, keepdims=True))
    delta = (xp.exp(log_p) - targets) / len(x)  # the gradient of the loss by the logits
    if scale is not None:
        delta = delta * scale
    for k in reversed(range(len(inputs))):
        grads[f"w{k}"][...] = inputs[k].T @ delta
        grads[f"b{k}"][...] = delta.sum(axis=0)
        if k:
            delta = delta @ params[f"w{k}"].T * (inputs[k] > 0)
    return -(targets * log_p).sum() / len(x)
