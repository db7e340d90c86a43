"""The paper's experiments as a command: what it reads, does, goes on with and writes. The data is made up and the scale tiny."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

from examples.paper import __main__ as program
from examples.paper import data, page, pool, theory, training
from examples.paper.experiments import EXPERIMENTS
from examples.paper.settings import OPTIMIZERS, SCALES, Run
from tests.examples.paper_runs import CPU, command, mlp_run

PNG = b"\x89PNG"


# The command.


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_leaves_a_figure_its_curves_and_a_page(name: str, folder: Path, tmp_path: Path) -> None:
    if name == "cnn":
        pytest.importorskip("torch")
    assert command(folder, tmp_path, name) == 0
    assert (tmp_path / "results" / f"tiny-{name}.png").read_bytes().startswith(PNG)
    found = json.loads((tmp_path / "results" / f"tiny-{name}.json").read_text(encoding="utf-8"))
    scale = EXPERIMENTS[name].scales["tiny"]
    assert len(found["runs"]) == sum(len(contender.settings) for contender in scale.contenders)
    assert all(len(run["costs"]) == scale.epochs for run in found["runs"] if run["diverged"] is None)
    told = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert f"## {name}\n" in told
    assert f"results/tiny-{name}.png" in told
    assert "tiny scale" in told


def test_a_page_holds_what_was_run_before(folder: Path, tmp_path: Path) -> None:
    assert command(folder, tmp_path, "logistic-mnist") == command(folder, tmp_path, "logistic-imdb") == 0
    told = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "## logistic-mnist\n" in told
    assert "## logistic-imdb\n" in told


def test_of_several_scales_a_page_shows_the_largest(folder: Path, tmp_path: Path) -> None:
    assert command(folder, tmp_path, "logistic-mnist") == 0
    path = tmp_path / "results" / "tiny-logistic-mnist.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    path.with_name("full-logistic-mnist.json").write_text(json.dumps({**found, "scale": "full"}), encoding="utf-8")
    assert page.collect(tmp_path / "results")["logistic-mnist"]["scale"] == "full"


def test_processes_compute_what_one_does(folder: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert command(folder, here, "mlp-deterministic") == 0
    arguments = ["mlp-deterministic", "--tiny", "--data-dir", str(folder), "--out", str(there), "--device", "cpu"]
    assert program.main([*arguments, "--jobs", "1"]) == 0
    curves = [
        json.loads((out / "results" / "tiny-mlp-deterministic.json").read_text(encoding="utf-8"))["runs"][0]["costs"]
        for out in (here, there)
    ]
    # One thread and several add in different orders.
    np.testing.assert_allclose(*curves, rtol=1e-3)


def test_the_theory_is_on_the_page(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(theory, "measure", lambda quick: asked.append(quick) or {"told": "regret"})
    monkeypatch.setattr(theory, "draw", lambda results, path: path.write_bytes(PNG))
    monkeypatch.setattr(theory, "table", lambda results: f"| {results['told']} |")
    assert command(folder, tmp_path, "theory") == 0
    assert asked == [True]
    assert "| regret |" in (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert (tmp_path / "results" / "tiny-theory.png").is_file()


@pytest.mark.parametrize(
    ("name", "file", "where"),
    [
        ("logistic-mnist", "train-images", "ossci-datasets"),
        ("logistic-imdb", "imdb_bow.npz", "Maas"),
        ("cnn", "cifar10_subset.npz", "cs.toronto.edu"),
    ],
)
def test_missing_data_is_named_with_where_to_get_it(
    name: str, file: str, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "cnn":
        pytest.importorskip("torch")
    (tmp_path / "mnist").mkdir()
    assert command(tmp_path, tmp_path / "out", name) == 1
    told = capsys.readouterr().err
    assert file in told
    assert where in told
    assert str(tmp_path) in told


def test_without_torch_the_network_that_needs_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        command(tmp_path, tmp_path, "cnn")
    assert "PyTorch" in capsys.readouterr().err
    assert command(tmp_path, tmp_path) == 1  # for want of data
    assert "cnn is left out" in capsys.readouterr().err


def test_an_unknown_experiment_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(tmp_path, tmp_path, "logistic")
    assert "logistic-mnist" in capsys.readouterr().err


# Data in its other formats.


def test_reviews_are_read_from_the_archive_too(tmp_path: Path) -> None:
    train = tmp_path / "aclImdb" / "train"
    train.mkdir(parents=True)
    (train / "labeledBow.feat").write_text("9 0:9 1:1 9999:300 10000:2\n2 5:1\n", encoding="ascii")
    found = data.load("imdb", tmp_path)
    assert [array.tolist() for array in found.arrays] == [[0, 1, 9999, 5], [9, 1, 255, 1], [0, 3, 4], [1, 0]]


def test_cifar_is_read_from_its_binary_files_too(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-bin").mkdir()
    for k in range(1, 6):
        planes = np.repeat(np.uint8([10, 20, 30]), 1024)
        (tmp_path / "cifar-10-batches-bin" / f"data_batch_{k}.bin").write_bytes(bytes([k]) + planes.tobytes())
    found = data.load("cifar10", tmp_path)
    pixels, labels = found.arrays
    assert labels.tolist() == [1, 2, 3, 4, 5]
    assert pixels.shape == (5, 32, 32, 3)
    assert pixels[0, 0, 0].tolist() == [10, 20, 30]


def test_a_part_of_the_reviews_has_both_classes(folder: Path) -> None:
    part = data.load("imdb", folder).first(10)
    assert sorted(part.arrays[3].tolist()) == [0] * 5 + [1] * 5
    assert part.arrays[2].tolist() == list(range(0, 51, 5))


def test_other_data_has_another_fingerprint(folder: Path) -> None:
    whole = data.load("mnist", folder)
    assert data.fingerprint(whole) == data.fingerprint(data.load("mnist", folder))
    assert data.fingerprint(whole) != data.fingerprint(whole.first(200))


# Going on.


class Stopped(Exception):
    """What a test stops a run with."""


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_that_was_stopped_ends_with_the_same_bits(optimizer: str, folder: Path, tmp_path: Path) -> None:
    name, fixed = OPTIMIZERS[optimizer]
    run = mlp_run(optimizer=name, arguments={**fixed, "lr": 0.01}, decays=True, l2=1e-3)
    assert_goes_on(run, data.load("mnist", folder), tmp_path)


def test_a_stopped_run_over_torch_ends_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    runs = EXPERIMENTS["cnn"].runs("cnn", "tiny", "30-00000000")
    run = next(run for run in runs if "dropout" in run.label)
    assert_goes_on(
        replace(run, epochs=3, model={**run.model, "filters": (3, 4)}), data.load("cifar10", folder), tmp_path
    )


def assert_goes_on(run: Run, examples: data.Data, folder: Path) -> None:
    """Stop a run after two epochs and go on; states are compared just before the last epoch, results after it."""
    states, results = [], []
    for stop_after in (None, 2):
        there = folder / str(stop_after)
        left = stop_after

        def stop() -> None:
            nonlocal left
            if left is not None:
                left -= 1
                if left == 0:
                    raise Stopped

        if stop_after is not None:
            with pytest.raises(Stopped):
                training.train(run, examples, CPU, there, stop)
            left = None
        seen: list[bytes] = []

        def keep() -> None:
            found = list((there / run.experiment).glob("*.checkpoint"))  # noqa: B023
            seen.extend(path.read_bytes() for path in found)  # noqa: B023

        results.append(training.train(run, examples, CPU, there, keep)["costs"])
        states.append(seen[-1])
    assert results[0] == results[1]
    assert len(results[0]) == run.epochs
    one, other = (pickle.loads(state) for state in states)
    assert one["random"] == other["random"]
    assert one["costs"] == other["costs"]
    for name in one["params"]:
        assert one["params"][name].tobytes() == other["params"][name].tobytes(), name


def test_a_stopped_grid_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, done = training.train, []

    def stopping(run: Run, *rest: Any) -> training.Result:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(run)
        return train(run, *rest)

    monkeypatch.setattr(training, "train", stopping)
    assert command(folder, tmp_path, "logistic-mnist") == 130
    monkeypatch.setattr(training, "train", lambda run, *rest: again.append(run) or train(run, *rest))
    again: list[Run] = []
    assert command(folder, tmp_path, "logistic-mnist") == 0
    assert len(again) + len(done) == 4
    assert not {run.key for run in again} & {run.key for run in done}


def test_results_of_other_settings_are_not_taken() -> None:
    for scale in SCALES:
        runs = [run for name in EXPERIMENTS for run in EXPERIMENTS[name].runs(name, scale, "300-00000000")]
        assert len({run.key for run in runs}) == len(runs)
    keys = {
        mlp_run(**changes).key
        for changes in ({}, {"data": "300-00000001"}, {"revision": 2}, {"examples": None}, {"l2": 1e-3})
    }
    assert len(keys) == 5


# Choosing and comparing.


def test_processes_have_one_thread_and_this_one_what_it_had(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str | None] = []

    class NoProcesses(Exception):
        pass

    def refuse(*args: Any, **kwargs: Any) -> None:
        found.append(os.environ.get("GPU_ADAM_NUM_THREADS"))
        raise NoProcesses

    monkeypatch.setattr(pool, "ProcessPoolExecutor", refuse)
    monkeypatch.delenv("GPU_ADAM_NUM_THREADS", raising=False)
    with pytest.raises(NoProcesses):
        pool.run_all([(mlp_run(), "mnist")], folder, tmp_path, CPU, 1, lambda run, result: None)
    assert found == ["1"]
    assert "GPU_ADAM_NUM_THREADS" not in os.environ
