"""What is done in place to arrays between steps, and arrays that mean more than their memory: followed, or refused at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.support.reference import DTYPES

MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "packed": {"pack": True},
    "clipped": {"max_grad_norm": 0.5},
    "averaged": {"ema_decay": 0.5, "capturable": True},
}
HOW = ("given", "bound")


class Stepped:
    """Three parameters, stepped twice, and their gradients."""

    def __init__(self, seed: int, how: str, options: dict[str, Any]) -> None:
        rng = np.random.default_rng(seed)
        self.format = DTYPES[str(rng.choice(sorted(DTYPES)))]
        shapes = [(4, 2), (6,), (2, 1, 3)]
        self.grads = [rng.standard_normal(shape).astype(self.format) for shape in shapes]
        self.opt = GpuAdam([rng.standard_normal(shape).astype(self.format) for shape in shapes], lr=0.1, **options)
        self.how = how if "pack" not in options else "given"
        if self.how == "bound":
            self.opt.grads = self.grads
        self.k = int(rng.integers(3))
        for _ in range(2):
            self.step()

    def step(self) -> None:
        self.opt.step() if self.how == "bound" else self.opt.step(self.grads)

    def bits(self) -> Any:
        state = self.opt.state_dict()["state"]
        return [np.asarray(p).tobytes() for p in self.opt.params], [
            {key: getattr(one, "tobytes", lambda one=one: one)() for key, one in entry.items()}
            for entry in state.values()
        ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("seed", range(6))
def test_a_parameter_that_is_made_read_only_is_refused(seed: int, how: str, mode: str) -> None:
    case = Stepped(seed, how, MODES[mode])
    case.opt.params[case.k].flags.writeable = False
    before = case.bits()
    for _ in range(2):
        with pytest.raises(ValueError, match=f"parameter {case.k} of group 0 is read-only"):
            case.step()
        assert case.bits() == before


def others(format: Any, seed: int) -> list[Any]:
    return [np.dtype(one) for name, one in DTYPES.items() if np.dtype(one) != np.dtype(format)] + [
        np.dtype(f"i{np.dtype(format).itemsize}"),
        np.dtype(f"V{np.dtype(format).itemsize}"),
        np.dtype(np.int8),
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("seed", range(6))
def test_a_gradient_whose_dtype_or_shape_is_set_in_place(seed: int, how: str, mode: str) -> None:
    for change in range(9):
        case = Stepped(seed, how, MODES[mode])
        grad = case.grads[case.k]
        shape = grad.shape
        dtypes = others(case.format, seed)
        if change < len(dtypes):
            if dtypes[change].itemsize > grad.itemsize and grad.nbytes // grad.shape[0] % dtypes[change].itemsize:
                continue
            try:
                grad.dtype = dtypes[change]
            except ValueError:
                continue
        else:
            grad.shape = (grad.size,) if change % 2 and grad.ndim > 1 else (1, *shape)
        before = case.bits()
        fits = grad.shape == shape and grad.dtype.name in DTYPES
        if not fits:
            for _ in range(2):
                with pytest.raises((TypeError, ValueError), match=f"the gradient of parameter {case.k} of group 0 has"):
                    case.step()
                assert case.bits() == before
            continue
        other = GpuAdam([p.copy() for p in case.opt.params], lr=0.1, **MODES[mode])
        other.load_state_dict(case.opt.state_dict())
        other.step([one.copy() for one in case.grads])
        case.step()
        for one, same in zip(case.opt.params, other.params, strict=True):
            assert np.array_equal(one.view(f"u{one.itemsize}"), same.view(f"u{one.itemsize}")) or np.isnan(one).any()


def masked(array: Any) -> Any:
    return np.ma.masked_array(array, mask=np.arange(array.size).reshape(array.shape) % 2 == 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("format", sorted(DTYPES))
def test_masked_arrays_are_refused(format: str, mode: str) -> None:
    dtype = DTYPES[format]
    p = np.ones((3, 2), dtype)
    with pytest.raises(TypeError, match=r"parameter 0 of group 0 is a numpy\.ma\..*MaskedArray"):
        GpuAdam([masked(p)], **MODES[mode])
    opt = GpuAdam([p], **MODES[mode])
    opt.step([np.ones((3, 2), dtype)])
    before = opt.params[0].tobytes(), opt.state_dict()["state"][0]["exp_avg"].tobytes()
    attempts: list[Callable[[], Any]] = [
        lambda: opt.step([masked(p)]),
        lambda: opt.add_param_group({"params": [masked(np.ones(3, dtype))]}),
        lambda: GpuAdam([np.ones((3, 2), dtype)]).step([(np.array([1]), masked(np.ones((1, 2), dtype)))]),
        lambda: GpuAdam([np.ones((3, 2), dtype)]).step([(masked(np.array([1])), np.ones((1, 2), dtype))]),
    ]
    if "pack" not in MODES[mode]:
        attempts.append(lambda: setattr(opt, "grads", [masked(p)]))
    for key in ("exp_avg", "exp_avg_sq", "step"):
        saved = opt.state_dict()
        saved["state"][0][key] = np.ma.masked if key == "step" else masked(saved["state"][0][key])
        attempts.append(lambda saved=saved: opt.load_state_dict(saved))
    for attempt in attempts:
        with pytest.raises((TypeError, ValueError)):
            attempt()
        assert before == (opt.params[0].tobytes(), opt.state_dict()["state"][0]["exp_avg"].tobytes())


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memory_maps(mode: str, pack: bool, tmp_path: Path) -> None:
    numbers = np.arange(6.0, dtype=np.float32)
    numbers.tofile(tmp_path / "numbers")
    mapped: Any = np.memmap(tmp_path / "numbers", np.float32, mode)  # type: ignore[call-overload]
    one, other = (GpuAdam([np.ones(6, np.float32)], pack=pack) for _ in range(2))
    for opt, grad in ((one, mapped), (other, numbers)):
        opt.step([grad])
        saved = opt.state_dict()
        saved["state"][0]["exp_avg"] = grad
        opt.load_state_dict(saved)
        opt.step([grad])
    assert np.array_equal(one.params[0], other.params[0])
    if mode == "r":
        with pytest.raises(ValueError, match="parameter 0 of group 0 is read-only"):
            GpuAdam([mapped], pack=pack)
        return
    opt = GpuAdam([mapped], pack=pack)
    opt.step([np.ones(6, np.float32)])
    assert (np.asarray(opt.params[0]) < numbers).all()
