"""What is remembered from step to step is dropped when the world has changed in between."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from gpu_adam import GpuAdam
from gpu_adam.arrays import probe
from gpu_adam.step import dispatcher
from gpu_adam.step.executor import Executor

torch = pytest.importorskip("torch")


def test_a_16_bit_parameter_may_be_written_to_until_its_first_step() -> None:
    p = np.ones(2, np.float16)
    opt = GpuAdam([p], lr=0.0)
    p[:] = 5
    opt.step([np.zeros(2, np.float16)])
    assert p.tolist() == [5, 5]


def test_what_was_written_by_hand_is_in_the_state_dict_and_in_copies() -> None:
    p = torch.ones(2, dtype=torch.bfloat16)
    opt = GpuAdam([p], lr=0.01)
    for _ in range(2):
        p.grad = torch.ones_like(p)
        opt.step()
    p.zero_()
    assert (opt.state_dict()["state"][0]["master"] == 0).all()
    opt.add_param_group({"params": [torch.zeros(1)]})
    assert (copy.deepcopy(opt).state_dict()["state"][0]["master"] == 0).all()


def test_a_group_may_use_memory_that_a_parameter_has_left() -> None:
    buffer = torch.zeros(8)
    p = buffer[:4]
    opt = GpuAdam([p])
    p.data = torch.zeros(4)
    opt.add_param_group({"params": [buffer[:4]]})


@pytest.mark.parametrize("part", ["follow", "send"])
def test_a_step_whose_upload_of_pointers_fails_is_not_followed_by_one_on_old_gradients(part: str, monkeypatch) -> None:
    p = np.zeros(2, np.float32)
    opt = GpuAdam([p], betas=(0.0, 0.999))
    old = np.ones(2, np.float32)  # alive, so that the new one lies elsewhere
    opt.step([old])

    def fail(self: Executor, *_: object, **__: object) -> bool:
        raise RuntimeError("the device is gone")

    new = np.full(2, -5, np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(Executor, part, fail)
        with pytest.raises(RuntimeError, match="gone"):
            opt.step([new])
    opt.step([new])
    assert opt.state_dict()["state"][0]["exp_avg"].tolist() == [-5, -5]
    assert opt.state_dict()["state"][0]["step"] == 2


def test_a_gradient_transposed_in_place_is_read_as_it_now_lies() -> None:
    p = torch.zeros(2, 2)
    opt = GpuAdam([p], betas=(0.0, 0.999))
    p.grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    opt.step()
    p.grad.t_()
    opt.step()
    assert opt.state_dict()["state"][0]["exp_avg"].tolist() == [[1, 3], [2, 4]]
    p.grad.resize_(2)
    with pytest.raises(ValueError, match="shape"):
        opt.step()


def test_groups_may_hold_keys_of_the_users_own_and_keep_them() -> None:
    p = np.zeros(2, np.float32)
    opt = GpuAdam([p])
    opt.param_groups[0]["initial_lr"] = 0.1
    for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert twin.param_groups[0]["initial_lr"] == 0.1
    fresh = GpuAdam([p])
    fresh.load_state_dict(opt.state_dict())
    assert fresh.param_groups[0]["initial_lr"] == 0.1


@pytest.mark.parametrize("value", [7.0, None])
def test_a_copy_of_a_packed_torch_optimizer_has_the_gradients_of_now(value) -> None:
    p = torch.zeros(3)
    opt = GpuAdam([p], pack=True)
    p.grad = None if value is None else torch.full((3,), value)
    (twin,) = copy.deepcopy(opt).params
    assert twin.grad is None if value is None else twin.grad.tolist() == [value] * 3


def test_autograd_is_told_of_a_step() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    opt = GpuAdam([p])
    y = (p**2).sum()
    y.backward(retain_graph=True)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_loading_a_state_without_a_maximum_forgets_the_one_that_is_there() -> None:
    p = np.zeros(2, np.float32)
    opt = GpuAdam([p], amsgrad=True)
    opt.step([np.full(2, 100, np.float32)])
    plain = GpuAdam([np.zeros(2, np.float32)])
    plain.step([np.ones(2, np.float32)])
    opt.load_state_dict(plain.state_dict())
    opt.param_groups[0]["amsgrad"] = True
    opt.step([np.ones(2, np.float32)])
    assert (opt.state_dict()["state"][0]["max_exp_avg_sq"] < 0.01).all()


def test_a_saved_learning_rate_is_not_the_live_one() -> None:
    opt = GpuAdam([np.zeros(2, np.float32)], lr=np.array(0.1))
    saved = opt.state_dict()
    opt.param_groups[0]["lr"] *= 0
    assert saved["param_groups"][0]["lr"] == 0.1


def test_a_parameter_added_to_a_groups_list_is_refused_and_not_ignored() -> None:
    p = np.zeros(2, np.float32)
    opt = GpuAdam([p])
    opt.param_groups[0]["params"].append(np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="add_param_group"):
        opt.step([p])


def test_a_plan_that_is_only_looked_at_allocates_and_compiles_nothing(monkeypatch) -> None:
    opt = GpuAdam([np.zeros(2, np.float32)])
    monkeypatch.setattr(dispatcher, "Executor", None)
    assert "multi_tensor" in str(opt.plan)
    assert opt._params[0].place is None


def test_packed_gradients_that_come_home_are_stepped_flat_again() -> None:
    opt = GpuAdam([np.zeros(2, np.float32)], pack=True)
    opt.step([np.ones(2, np.float32)])
    assert "multi_tensor" in str(opt.plan)
    opt.step(opt.grads)
    opt.step()
    assert "_flat_" in str(opt.plan)


@pytest.mark.parametrize("size", [3, 10_007])
def test_a_gradient_that_is_the_parameter_itself(size) -> None:
    values = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    p, apart = values.copy(), values.copy()
    opt, other = GpuAdam([p], weight_decay=0.1), GpuAdam([apart], weight_decay=0.1)
    for _ in range(3):
        opt.step([p])
        other.step([apart.copy()])
    assert p.tobytes() == apart.tobytes()


def test_cupys_bfloat16_is_known_by_its_dtype() -> None:
    # CuPy writes bfloat16 as two raw bytes into the interface that other libraries read.
    ml_dtypes = pytest.importorskip("ml_dtypes")
    interface = {"shape": (4,), "typestr": "<V2", "data": (4096, False), "version": 3, "strides": None}
    device = type("Device", (), {"id": 0})()
    members = {"__cuda_array_interface__": interface, "dtype": np.dtype(ml_dtypes.bfloat16), "device": device}
    array = type("ndarray", (), {"__module__": "cupy", **members})()
    assert probe(array).format.name == "bfloat16"
    assert probe(array).library.name == "cupy"
