"""Images and labels in IDX files, written from the format's description and not with the package."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpu_adam.train.data import Dataset

HYPHENS = "{part}-{what}-idx{dims}-ubyte"
DOTS = "{part}-{what}.idx{dims}-ubyte"


def idx(array: np.ndarray[Any, Any]) -> bytes:
    """An IDX file of bytes, written from the format's description and not with the package."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def some_data(train: int = 6, test: int = 4) -> Dataset:
    random = np.random.default_rng(0)
    images = random.integers(256, size=(train + test, 5, 3), dtype=np.uint8)
    labels = (np.arange(train + test) % 3).astype(np.uint8)
    return Dataset("some", images[:train], labels[:train], images[train:], labels[train:])


def write(folder: Path, data: Dataset, pattern: str = HYPHENS, pack: Callable[[bytes], bytes] = bytes) -> None:
    folder.mkdir(exist_ok=True)
    for part, images, labels in (
        ("train", data.images, data.labels),
        ("t10k", data.test_images, data.test_labels),
    ):
        for what, array in (("images", images), ("labels", labels)):
            name = pattern.format(part=part, what=what, dims=array.ndim)
            (folder / name).write_bytes(pack(idx(array)))
