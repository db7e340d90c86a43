"""Labelled images: scikit-learn's handwritten digits, and MNIST and its relatives from IDX files.

The format of IDX files is described at https://yann.lecun.com/exdb/mnist/: two zero bytes, the element type, the number of dimensions,
the dimensions as big-endian 32-bit integers, the elements.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dependencies import require

_UINT8 = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
_IMAGES, _LABELS = 3, 1
"""The dimensions of a file of images and of one of labels."""


class DataError(ValueError):
    """A data set that is not there or not what it should be; the message names the file."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of one size with their classes, split into a training and a test part.

    Attributes:
        name: What to call it.
        images: Training images, uint8, of shape (n, height, width).
        labels: Their classes, uint8, of shape (n,).
        test_images: Test images.
        test_labels: Their classes.
        white: The value that a pixel has at most.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]
    white: int = 255

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.labels.max()) + 1

    def __str__(self) -> str:
        height, width = self.images.shape[1:]
        counts = f"{len(self.images):,} training and {len(self.test_images):,} test images"
        return f"{self.name}: {counts} of {height}x{width} pixels, {self.classes} classes"


def load_digits() -> Dataset:
    """1,797 handwritten digits of 8x8 pixels (Alpaydin and Kaynak, 1998), which come with scikit-learn.

    A quarter of each class is for testing, the same images each time.

    Raises:
        MissingDependency: If scikit-learn is not installed.
    """
    digits: Any = require("sklearn.datasets").load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    split = require("sklearn.model_selection").train_test_split
    train, test = split(np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=0)
    return Dataset("digits", images[train], labels[train], images[test], labels[test], white=16)


def load_idx(folder: Path) -> Dataset:
    """MNIST, Fashion-MNIST or another data set of the same four files, gzipped or not.

    Args:
        folder: Where ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
            ``t10k-labels-idx1-ubyte`` are. A dot in place of the second hyphen and ``.gz`` at the end are allowed.

    Raises:
        DataError: If a file is missing or is not what its name says, or the files do not fit each other.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give the one that holds the IDX files")
    images, labels = _part(folder, "train")
    test_images, test_labels = _part(folder, "t10k")
    if images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"{folder}: training images are of shape {images.shape[1:]}, test images of {test_images.shape[1:]}"
        )
    if test_labels.max() > labels.max():
        raise DataError(f"{folder}: class {test_labels.max()} is tested, and training knows 0 to {labels.max()} only")
    return Dataset(folder.resolve().name, images, labels, test_images, test_labels)


def _part(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    image_file, label_file = _find(folder, f"{part}-images", _IMAGES), _find(folder, f"{part}-labels", _LABELS)
    images, labels = read_idx(image_file, _IMAGES), read_idx(label_file, _LABELS)
    if len(images) != len(labels):
        raise DataError(
            f"{image_file.name} holds {len(images)} images and {label_file.name} {len(labels)} labels, in {folder}"
        )
    if not images.size:
        raise DataError(f"{image_file}: there are no images in it, its dimensions are {images.shape}")
    return images, labels


def _find(folder: Path, stem: str, dims: int) -> Path:
    names = [f"{stem}{hyphen}idx{dims}-ubyte{suffix}" for hyphen in "-." for suffix in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} holds no {stem}: looked for {', '.join(names)}")


def read_idx(path: Path, dims: int) -> NDArray[np.uint8]:
    """The array of bytes in an IDX file.

    Args:
        path: The file; whether it is gzipped is seen from its first bytes.
        dims: How many dimensions it must have.

    Raises:
        DataError: If it cannot be read, or is not such a file.
    """
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    magic, expected = data[:4], bytes((0, 0, _UINT8, dims))
    if magic != expected:
        raise DataError(
            f"{path} begins with {magic.hex(' ') or 'nothing'}: an IDX file of this kind begins with {expected.hex(' ')}"
        )
    start = 4 + 4 * dims
    shape = tuple(np.frombuffer(data[4:start].ljust(4 * dims, b"\0"), ">u4").tolist())
    if len(data) != start + prod(shape):
        kind = "truncated" if len(data) < start + prod(shape) else "too long"
        raise DataError(f"{path} is {kind}: {len(data)} bytes, and dimensions {shape} need {start + prod(shape)}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
