"""What hypothesis generates: arrays of every format, shape, stride and alignment, with the values that break arithmetic; options."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.reference import DTYPES, Options

# The same examples in every run: a failure is somebody's change and not the day's luck. Compilation makes first examples slow.
PROVE = settings(derandomize=True, deadline=None, database=None, max_examples=60)
FEW = settings(PROVE, max_examples=20)

formats = st.sampled_from(sorted(DTYPES))

_SIZES = st.one_of(st.integers(0, 5), st.sampled_from([15, 16, 17, 33, 255, 256, 257]))


def shapes(max_dims: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes from 0-dimensional to a few hundred elements, with dimensions of 0 and 1."""
    vectors = st.tuples(_SIZES)
    return st.one_of(vectors, st.lists(st.integers(0, 5), max_size=max_dims).map(tuple))


def special_values(dtype: np.dtype[Any]) -> NDArray[Any]:
    """±0, the smallest subnormal, the largest subnormal, the smallest and largest normal, infinity, NaN, ties; both signs."""
    words = np.dtype(f"u{dtype.itemsize}")
    mantissa = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}[dtype.name]
    infinity = int(np.array(np.inf, dtype).view(words))
    positive = [0, 1, 2, (1 << mantissa) - 1, 1 << mantissa, (1 << mantissa) + 1, infinity - 1, infinity, infinity + 1]
    ordinary = np.array([1.0, 1.5, 0.1, 3.0, 1e-3, 1e3], dtype).view(words).tolist()
    sign = 1 << (8 * dtype.itemsize - 1)
    return np.array([word | s for word in (*positive, *ordinary) for s in (0, sign)], words).view(dtype)


def values(dtype: np.dtype[Any], size: int, seed: int, special: float = 0.2) -> NDArray[Any]:
    """Numbers of many magnitudes, a share of them special; a function of its arguments alone."""
    rng = np.random.default_rng(seed)
    magnitudes = {"float64": 12.0, "float32": 6.0, "float16": 2.0, "bfloat16": 6.0}[dtype.name]
    with np.errstate(over="ignore"):
        out = (rng.standard_normal(size) * 10 ** rng.uniform(-magnitudes, magnitudes, size)).astype(dtype)
    chosen = rng.random(size) < special
    out[chosen] = rng.choice(special_values(dtype).view(f"u{dtype.itemsize}"), chosen.sum()).view(dtype)
    return out


def tame(dtype: np.dtype[Any], size: int, seed: int, most: float) -> NDArray[Any]:
    """Numbers of many magnitudes up to ``most``; of their own dtype, where ``clip`` makes float32 of bfloat16."""
    return values(dtype, size, seed, 0.0).clip(-most, most).astype(dtype)


@st.composite
def layouts(draw: st.DrawFn, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...], int]:
    """How an array lies in memory: order of dimensions, gaps in each, which are reversed, and the offset of its start in elements."""
    order = tuple(draw(st.permutations(range(ndim))))
    if draw(st.booleans()):  # dense, in any order: what most arrays are
        return order, (1,) * ndim, (False,) * ndim, draw(st.integers(0, 9))
    gaps = tuple(draw(st.lists(st.integers(1, 3), min_size=ndim, max_size=ndim)))
    flips = tuple(draw(st.lists(st.booleans(), min_size=ndim, max_size=ndim)))
    return order, gaps, flips, draw(st.integers(0, 9))


def laid_out(
    data: NDArray[Any], layout: tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...], int]
) -> NDArray[Any]:
    """A view with ``data``'s shape and values that lies in memory as the layout says, its surroundings NaN."""
    order, gaps, flips, offset = layout
    outer = tuple(data.shape[d] * gaps[d] for d in order)
    memory = np.full(int(np.prod(outer, dtype=int)) + offset, np.nan, data.dtype)
    view = memory[offset:].reshape(outer)
    view = view[(*(slice(None, None, gaps[d]) for d in order), ...)]  # the ellipsis keeps a 0-dimensional view one
    view = view.transpose(tuple(order.index(d) for d in range(data.ndim)))
    view = view[(*(slice(None, None, -1) if flip else slice(None) for flip in flips), ...)]
    view[...] = data
    return view


_rates = st.one_of(st.sampled_from([0.0, 1e-3, 0.1, 1.0]), st.floats(0, 10, allow_nan=False))
_betas = st.one_of(st.sampled_from([0.0, 0.5, 0.9, 0.999, 0.9999, 1 - 2.0**-53]), st.floats(0, 1, exclude_max=True))
_decays = st.one_of(st.just(0.0), st.floats(0, 1, allow_nan=False))

options = st.builds(
    Options,
    lr=_rates,
    betas=st.tuples(_betas, _betas),
    eps=st.sampled_from([0.0, 1e-8, 1e-3, 1e-40]),
    weight_decay=_decays,
    decoupled_weight_decay=st.booleans(),
    amsgrad=st.booleans(),
    maximize=st.booleans(),
    bias_correction=st.booleans(),
    eps_hat=st.booleans(),
)
