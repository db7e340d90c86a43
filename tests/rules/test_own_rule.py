"""A user's own rule, given in Python: every family, clipping and scaling and the rest, on the engines that compile Python."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_adam import Algorithm, GpuOptimizer, LossScaler, Number, Rule
from gpu_adam.dtypes import FLOAT32
from gpu_adam.errors import CompileError, EngineUnavailable
from gpu_adam.kernels.abi import LR, OWN_0, OWN_SETTINGS
from gpu_adam.kernels.specialization import Family, Specialization
from gpu_adam.state import placement
from tests.support.own_rule import W1, Lion, lion, lion_coefficients, train
from tests.support.shipped import ADAM

LION = Lion.algorithm.rules[0]


class Fixed(Lion):
    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, lr=0.5, **options)


@pytest.mark.parametrize("pack", [False, True])
def test_its_bits_are_those_that_are_written(pack: bool) -> None:
    train(pack=pack)


def test_strides_rows_averages_and_captures_work_as_with_adam() -> None:
    p = np.zeros((6, 8), np.float32)
    opt = Lion([p[:, ::2]], lr=0.5, polyak_average=True, skip_nonfinite=True, capturable=True)
    opt.step([np.ones((6, 4), np.float32)])
    opt.step([np.full((6, 4), np.nan, np.float32)])
    opt.step([np.ones((4, 6), np.float32).T])
    assert opt.steps_skipped == 1
    assert np.array_equal(p, np.tile(np.float32([-1, 0]), (6, 4)))
    assert np.array_equal(opt.averaged_params[0], np.full((6, 4), -0.75, np.float32))
    table = np.zeros((5, 3), np.float32)
    Lion([table], lr=0.5).step([(np.array([1, 3]), np.ones((2, 3), np.float32))])
    assert table[:, 0].tolist() == [0, -0.5, 0, -0.5, 0]


def test_a_loss_scaler_takes_it() -> None:
    p = np.zeros(3, np.float16)
    opt = Lion([p], lr=0.5)
    scaler = LossScaler(opt, init_scale=4.0)
    opt.step([np.full(3, np.inf, np.float16)], grad_scale=scaler)
    opt.step([np.ones(3, np.float16)], grad_scale=scaler)
    assert (scaler.get_scale(), p.tolist()) == (2.0, [-0.5] * 3)


def test_it_is_saved_and_copied() -> None:
    p = np.zeros(3, np.float32)
    opt = Lion([p], lr=0.5)
    opt.step([np.ones(3, np.float32)])
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        other.step([np.ones(3, np.float32)])
        assert other.params[0].tolist() == [-1.0] * 3
    with pytest.raises(ValueError, match=r"lacks \['exp_avg'\]"):
        opt.load_state_dict({**opt.state_dict(), "state": {0: {"step": 1}}})


def test_its_kernels_are_not_kept_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPU_ADAM_CACHE_DIR", str(tmp_path))
    rule = replace(LION, make=lambda fma, sqrt: lion(fma, sqrt))

    class Again(Lion):
        algorithm = Algorithm([rule], Lion.algorithm.numbers[1:3])

    Again([np.zeros(3, np.float32)]).step([np.ones(3, np.float32)])
    assert not [entry for entry in tmp_path.iterdir() if "lion" in entry.name]


def test_a_changed_copy_of_a_shipped_rule_is_not_shipped() -> None:
    """It would otherwise take the place of the shipped one on disk, and run the shipped one's CUDA C++."""
    changed = replace(ADAM, make=lambda fma, sqrt: ADAM.make(fma, sqrt))
    assert ADAM.is_shipped
    assert ADAM.symbol == "adam"
    assert not changed.is_shipped
    assert changed.symbol == "own_adam"
    assert pickle.loads(pickle.dumps(ADAM)) is copy.deepcopy(ADAM) is ADAM
    assert not copy.deepcopy(LION).is_shipped


def test_a_subclass_that_fixes_hyperparameters_is_copied() -> None:
    opt = Fixed([np.zeros(3, np.float32)], maximize=True)
    opt.step([np.ones(3, np.float32)])
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        other.step([np.ones(3, np.float32)])
        assert other.params[0].tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("numbers", "more", "message"),
    [
        ([Number("x", LR)], {}, "the words"),
        ([Number("x", W1)], {}, "the words"),
        ([Number("x", OWN_0), Number("y", OWN_0)], {}, "the words"),
        ([Number("lr", OWN_0)], {}, r"the keys \['lr'\] are every optimizer's"),
        ([Number("x", OWN_0)], {"initial": {"exp_avg": OWN_0}}, "follow no schedule"),
        ([Number("x", OWN_SETTINGS)], {"initial": {"other": OWN_SETTINGS}}, "states of every rule"),
    ],
)
def test_an_algorithm_that_cannot_be_is_refused(numbers: Any, more: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Algorithm([LION], numbers, **more)


def test_what_a_conversion_returns_is_taken_for_a_number() -> None:
    convert = Number("x", OWN_SETTINGS, convert=lambda x: np.float32(x))
    assert type(convert.in_record(2.0)) is float


def test_a_changed_function_is_another_rule() -> None:
    """As in a notebook, where a cell is run again."""

    def other(fma: Any, sqrt: Any) -> Any:
        def update(p, g, m, s1, s2, c):  # type: ignore[no-untyped-def]
            return p - g, m, s1, s2

        return update

    class Changed(Lion):
        algorithm = Algorithm([replace(LION, make=other)], Lion.algorithm.numbers[1:3])

    p, q = np.zeros(3, np.float32), np.zeros(3, np.float32)
    Lion([p], lr=0.5).step([np.ones(3, np.float32)])
    Changed([q], lr=0.5).step([np.ones(3, np.float32)])
    assert (p[0], q[0]) == (-0.5, -1.0)


def test_what_numba_refuses_is_said_before_anything_has_changed() -> None:
    def broken(fma: Any, sqrt: Any) -> Any:
        return lambda p, g, m, s1, s2, c: (p.nonsense, m, s1, s2)

    class Broken(Lion):
        algorithm = Algorithm([replace(LION, make=broken)], Lion.algorithm.numbers[1:3])

    p = np.zeros(3, np.float32)
    opt = Broken([p])
    with pytest.raises(CompileError, match=r"(?s)rule 'lion'.*nonsense"):
        opt.step([np.ones(3, np.float32)])
    assert not p.any()
    assert not opt.state_dict()["state"]


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"name": "a rule"}, "must be an identifier"),
        ({"states": ("a", "b", "c", "d")}, "at most 3 different names"),
        ({"states": ("a", "a")}, "different names"),
        ({"states": ("step",)}, "none of average, grad, master, param, step"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(about: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(LION, **about)


def test_rules_of_an_algorithm_share_their_coefficients() -> None:
    other = replace(LION, coefficients=lambda *on: lion_coefficients(*on))
    with pytest.raises(ValueError, match="the same coefficients"):
        Algorithm([LION, other])


def test_hyperparameters_that_its_algorithm_does_not_take_are_refused() -> None:
    for wrong in (
        {"lr": 0.1, "betas": (0.9, 0.99)},
        {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.0, "eps": 0.1},
    ):
        with pytest.raises(TypeError, match=r"hyperparameters are .*: must be .*'weight_decay'"):
            GpuOptimizer.__init__(Lion.__new__(Lion), [np.zeros(3, np.float32)], wrong)


def test_the_cupy_engine_is_refused_and_auto_takes_numbas(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_adam.device import Device

    with pytest.raises(EngineUnavailable, match="this one is given in Python: use engine='numba'"):
        Lion([np.zeros(3, np.float32)], engine="cupy")
    monkeypatch.setattr(placement, "engine_named", lambda name: name)
    monkeypatch.setattr(placement, "gpu_engine", lambda: "any")
    assert placement._engine_for("auto", Device("cuda"), "p", shipped=False) == "numba"
    assert placement._engine_for("auto", Device("cuda"), "p", shipped=True) == "any"


def test_numba_compiles_it_for_a_gpu() -> None:
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    from gpu_adam.kernels.specialization import PrologueKernel, UpdateKernel
    from tests.support.ptx import compiled

    families: tuple[Family, ...] = ("flat", "multi_tensor", "strided", "rows")
    for family in families:
        ptx = compiled(UpdateKernel(Specialization(family, LION, FLOAT32, FLOAT32, False), 256, 1))
        assert ptx.count(r"fma\.rn\.f32") > 0
        assert not ptx.spelled(r".*f64.*")
    compiled(PrologueKernel(LION))


def test_the_readme_s_words_for_it_are_public() -> None:
    import gpu_adam

    everything: dict[str, Any] = {}
    exec("from gpu_adam import *", everything)
    for public in (Algorithm, GpuOptimizer, Rule, gpu_adam.Number, gpu_adam.Flag, gpu_adam.GpuSgd):
        assert public.__doc__
        assert public.__name__ in dir(gpu_adam)
        assert everything[public.__name__] is public
