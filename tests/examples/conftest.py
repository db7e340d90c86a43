"""The data sets of the paper's experiments, made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.idx_files import idx


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three data sets, in the formats of the real ones."""
    found = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    (found / "mnist").mkdir()
    for part, count in (("train", 300), ("t10k", 20)):
        labels = random.integers(10, size=count, dtype=np.uint8)
        pixels = random.integers(128, size=(count, 6, 6), dtype=np.uint8) + 12 * labels[:, None, None]
        (found / "mnist" / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels.astype(np.uint8)))
        (found / "mnist" / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    words = random.integers(10_000, size=1000).astype(np.uint16)
    np.savez(
        found / "imdb_bow.npz",
        train_words=words,
        train_counts=np.ones(1000, np.uint8),
        train_rows=np.arange(0, 1001, 5, dtype=np.int32),
        train_labels=np.uint8(np.arange(200) >= 100),
    )
    np.savez(
        found / "cifar10_subset.npz",
        train_images=random.integers(256, size=(30, 32, 32, 3), dtype=np.uint8),
        train_labels=random.integers(10, size=30, dtype=np.uint8),
    )
    return found
