"""A training loop of PyTorch on its CPU and its GPU: the bits of the same program on NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.support.libraries import address_of, dense, host, write
from tests.support.library_cases import HOST, Case
from tests.support.library_programs import Tensor, Training, agree, of_every_format
from tests.support.reference import DTYPES, assert_same_bits
from tests.support.strategies import values

# The numbers hold signalling NaNs.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("set_to_none", [False, True])
def test_torch_gradients_are_read_from_the_tensors(torch_case: Case, pack: bool, set_to_none: bool) -> None:
    tensors = of_every_format(torch_case, dense(30, 17), dense(1025))
    training = Training(torch_case, tensors, pack=pack)
    homes = [address_of(p) for p in training.params]
    for step in range(4):
        training.optimizer.zero_grad(set_to_none)
        for p, gradient in zip(training.params, training.gradients(step)[0], strict=True):
            if p.grad is None:
                p.grad = gradient
            else:
                assert not p.grad.any()
                p.grad.copy_(gradient)
        training.optimizer.step()
    assert [address_of(p) for p in training.params] == homes
    assert all(found is p for found, p in zip(training.optimizer.params[0], training.params, strict=True))
    agree(training.left(), Training(HOST, tensors, pack=pack).step(*range(4)).left())


def test_torch_modules_are_trained_by_backward(torch_case: Case) -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 5))
    model.to(torch_case.library.device)
    optimizer = GpuAdam(dict(model.named_parameters()), lr=0.01, engine=torch_case.engine, pack=True)
    x = torch.randn(64, 20, device=torch_case.library.device)
    # The gradients differ from device to device, so those that were found go to the twin.
    twin = {name: host(p) for name, p in model.named_parameters()}
    other = GpuAdam(twin, lr=0.01, engine="cpu")
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        losses.append(loss.item())
        other.step({name: host(p.grad) for name, p in model.named_parameters()})
        optimizer.step()
        for name, p in model.named_parameters():
            assert_same_bits(host(p), twin[name], name)
    assert losses[-1] < losses[0]


def test_torch_master_weights_take_up_what_was_written_by_hand(torch_case: Case) -> None:
    tensors = [Tensor(name, dense(300)) for name in ("float16", "bfloat16")]
    trainings = [Training(case, tensors).step(0, 1) for case in (torch_case, HOST)]
    for training in trainings:
        masters = [entry["master"] for entry in training.optimizer.state_dict()["state"].values()]
        assert {host(master).dtype for master in masters} == {np.dtype(np.float32)}
        for k, p in enumerate(training.params):
            write(p, training.case.array(values(DTYPES[tensors[k].param], 310, 77 + k), dense(300)))
        training.optimizer.reread_params() if training.case is HOST else None
        training.step(2, 3)
    agree(trainings[0].left(), trainings[1].left())
