"""The paper's data: MNIST, a bag of words of IMDB's reviews, and CIFAR-10."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from gpu_adam.train.data import DataError, load_idx

VOCABULARY = 10_000

SOURCES = {
    "mnist": "MNIST's four IDX files, gzipped or not, belong into {0}/mnist: they are at "
    "https://ossci-datasets.s3.amazonaws.com/mnist/ (first published at http://yann.lecun.com/exdb/mnist/)",
    "imdb": "The Large Movie Review Dataset (Maas et al., 2011) is at https://ai.stanford.edu/~amaas/data/sentiment/: unpack "
    "aclImdb_v1.tar.gz in {0}, of which aclImdb/train/labeledBow.feat is read",
    "cifar10": "CIFAR-10 (Krizhevsky, 2009) is at https://www.cs.toronto.edu/~kriz/cifar.html: unpack cifar-10-binary.tar.gz in {0}",
}
"""Where anybody gets each data set; ``{0}`` is the folder given by ``--data-dir``."""

_RECORD = 1 + 3 * 32 * 32
"""Bytes of an image in CIFAR-10's binary files: its class, then its red, green and blue plane."""


@dataclass(frozen=True, eq=False)
class Images:
    """Training images with their classes.

    Attributes:
        pixels: uint8, of shape (n, height, width) or (n, height, width, 3).
        labels: uint8, of shape (n,).
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        """All of the data."""
        return self.pixels, self.labels

    def first(self, count: int) -> Images:
        """So many of them."""
        return Images(self.pixels[:count], self.labels[:count])


@dataclass(frozen=True, eq=False)
class Words:
    """Reviews as sparse rows of word counts, with 1 for a good review and 0 for a bad one.

    Attributes:
        words: The numbers of the words that occur, row after row.
        counts: How often each does.
        rows: Where each row begins, and the end.
        labels: uint8, of shape (n,).
    """

    words: NDArray[np.uint16]
    counts: NDArray[np.uint8]
    rows: NDArray[np.int32]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        """All of the data."""
        return self.words, self.counts, self.rows, self.labels

    def first(self, count: int) -> Words:
        """So many of them, half of them from the end: the files hold one class after the other."""
        count = min(count, len(self))
        chosen = np.r_[: count - count // 2, len(self) - count // 2 : len(self)]
        lengths = np.diff(self.rows)[chosen]
        at = np.concatenate([np.arange(self.rows[k], self.rows[k + 1]) for k in chosen])
        rows = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return Words(self.words[at], self.counts[at], rows, self.labels[chosen])


Data = Images | Words


def load(name: str, folder: Path) -> Data:
    """A data set's training part.

    Args:
        name: ``"mnist"``, ``"imdb"`` or ``"cifar10"``.
        folder: The folder of all data.

    Raises:
        DataError: If a file is missing or is not what it should be; the message says where to get it.
    """
    try:
        return {"mnist": _mnist, "imdb": _imdb, "cifar10": _cifar10}[name](folder)
    except DataError as error:
        raise DataError(f"{error}. {SOURCES[name].format(folder)}") from error


def fingerprint(data: Data) -> str:
    """A few digits that change with the data, so that results of different data are not taken for each other."""
    value = 0
    for array in data.arrays:
        value = crc32(np.ascontiguousarray(array), value)
    return f"{len(data)}-{value:08x}"


def _mnist(folder: Path) -> Images:
    found = load_idx(folder / "mnist")
    return Images(found.images, found.labels)


def _imdb(folder: Path) -> Words:
    path = folder / "imdb_bow.npz"
    if path.is_file():
        part = _npz(path, "train_words", "train_counts", "train_rows", "train_labels")
        return Words(*part)
    path = folder / "aclImdb" / "train" / "labeledBow.feat"
    if not path.is_file():
        raise DataError(f"neither {folder / 'imdb_bow.npz'} nor {path} is there")
    words: list[int] = []
    counts: list[int] = []
    rows, labels = [0], []
    # A line a review: its rating from 1 to 10, then word:count, the words numbered by how frequent they are.
    for line in path.read_text(encoding="ascii").splitlines():
        rating, *entries = line.split()
        pairs = [(int(word), int(count)) for word, _, count in (entry.partition(":") for entry in entries)]
        kept = [(word, min(count, 255)) for word, count in pairs if word < VOCABULARY]
        words += [word for word, _ in kept]
        counts += [count for _, count in kept]
        rows.append(len(words))
        labels.append(int(rating) > 5)
    return Words(np.array(words, np.uint16), np.array(counts, np.uint8), np.array(rows, np.int32), np.uint8(labels))


def _cifar10(folder: Path) -> Images:
    whole, part = folder / "cifar-10-batches-bin", folder / "cifar10_subset.npz"
    if whole.is_dir():
        records = np.concatenate([_records(whole / f"data_batch_{k}.bin") for k in range(1, 6)])
        planes = records[:, 1:].reshape(-1, 3, 32, 32)
        return Images(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0])
    if part.is_file():
        return Images(*_npz(part, "train_images", "train_labels"))
    raise DataError(f"neither {whole} nor {part} is there")


def _records(path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise DataError(f"{path} is not there")
    content = np.fromfile(path, np.uint8)
    if not content.size or content.size % _RECORD:
        raise DataError(f"{path} has {content.size} bytes: no whole number of images of {_RECORD} bytes")
    return content.reshape(-1, _RECORD)


def _npz(path: Path, *names: str) -> list[NDArray[np.generic]]:
    try:
        with np.load(path) as file:
            return [file[name] for name in names]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
