"""The data sets of ``gpu-adam train``: the built-in digits, and IDX files whole, gzipped, missing and broken."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_adam.train.data import DataError, load_digits, load_idx, read_idx
from gpu_adam.train.dependencies import MissingDependency
from tests.support.idx_files import DOTS, HYPHENS, idx, some_data, write


@pytest.mark.parametrize("pattern", [HYPHENS, DOTS])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_read_under_all_their_names(tmp_path: Path, pattern: str, suffix: str) -> None:
    data = some_data()
    write(tmp_path / "set", data, pattern + suffix, gzip.compress if suffix else bytes)
    found = load_idx(tmp_path / "set")
    for key in ("images", "labels", "test_images", "test_labels"):
        assert np.array_equal(getattr(found, key), getattr(data, key))
        assert getattr(found, key).dtype == np.uint8
    assert (found.name, found.classes, found.white) == ("set", 3, 255)
    assert str(found) == "set: 6 training and 4 test images of 5x3 pixels, 3 classes"


def test_gzip_is_seen_from_the_content_and_not_from_the_name(tmp_path: Path) -> None:
    write(tmp_path, some_data(), HYPHENS, gzip.compress)
    assert len(load_idx(tmp_path).images) == 6


def test_a_missing_file_is_named_with_every_name_looked_for(tmp_path: Path) -> None:
    write(tmp_path, some_data())
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError) as caught:
        load_idx(tmp_path)
    names = ["t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"]
    for name in (str(tmp_path), *names, *(f"{name}.gz" for name in names)):
        assert name in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not a folder"):
        load_idx(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x89PNG rather", "begins with 89 50 4e 47: .* 00 00 08 03"),
        (idx(np.zeros(3)), "begins with 00 00 08 01: .* 00 00 08 03"),
        (b"\0\0\x0d\x03" + bytes(12), "begins with 00 00 0d 03"),  # float32 elements
        (b"\0\0\x08\x03\0\0", "truncated: 6 bytes"),
        (idx(np.zeros((2, 3, 4)))[:-1], r"truncated: 39 bytes, and dimensions \(2, 3, 4\) need 40"),
        (idx(np.zeros((2, 3, 4))) + b"\0", r"too long: 41 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "truncated"),  # sizes whose product is no 64-bit number
        (gzip.compress(idx(np.zeros((2, 3, 4))), mtime=0)[:-9], "cannot be read"),
        (b"\x1f\x8b but not gzipped", "cannot be read"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path, 1)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-labels-idx1-ubyte", np.zeros(5), "train-images-idx3-ubyte holds 6 images .* 5 labels"),
        ("t10k-images-idx3-ubyte", np.zeros((4, 3, 5)), r"of shape \(5, 3\), test images of \(3, 5\)"),
        ("t10k-labels-idx1-ubyte", np.full(4, 3), "class 3 is tested, and training knows 0 to 2"),
    ],
)
def test_files_that_do_not_fit_each_other_are_refused(
    tmp_path: Path, name: str, array: np.ndarray[Any, Any], message: str
) -> None:
    write(tmp_path, some_data())
    (tmp_path / name).write_bytes(idx(array))
    with pytest.raises(DataError, match=message):
        load_idx(tmp_path)


def test_files_without_images_are_refused(tmp_path: Path) -> None:
    write(tmp_path, some_data(train=0))
    with pytest.raises(DataError, match="no images"):
        load_idx(tmp_path)


def test_the_digits_are_split_alike_each_time() -> None:
    data, again = load_digits(), load_digits()
    assert data.images.shape == (1347, 8, 8)
    assert data.test_images.shape == (450, 8, 8)
    assert (data.classes, data.white, data.images.max()) == (10, 16, 16)
    assert np.array_equal(data.test_images, again.test_images)
    counts = np.bincount(data.test_labels) / np.bincount(np.concatenate((data.labels, data.test_labels)))
    assert np.allclose(counts, 0.25, atol=0.01)


def test_no_digit_is_both_trained_and_tested() -> None:
    data = load_digits()
    trained = {image.tobytes() for image in data.images}
    assert not any(image.tobytes() in trained for image in data.test_images)


def test_without_scikit_learn_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependency, match=r"scikit-learn .* pip install 'gpu_adam\[train\]'"):
        load_digits()
