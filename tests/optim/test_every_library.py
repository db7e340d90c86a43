"""`GpuAdam` itself on arrays of every library and on every engine: the bits of the same program on NumPy with the CPU engine.

What runs on NumPy, on PyTorch's CPU tensors and on DLPack capsules of host memory runs everywhere, and shows that the programs below are
sound. The rest is marked ``gpu``.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.support.libraries import Layout, address_of, dense, transposed, write
from tests.support.library_cases import HOST, Case
from tests.support.library_programs import Tensor, Training, agree, compare, of_every_format
from tests.support.reference import DTYPES
from tests.support.strategies import values

# The numbers hold signalling NaNs.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


# ---- Bits ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize(
    "options",
    [{}, {"amsgrad": True, "decoupled_weight_decay": True}, {"master_weights": False, "eps_hat": True}],
    ids=["plain", "amsgrad", "no-master"],
)
def test_every_format_takes_gradients_of_every_format(case: Case, name: str, options: dict[str, Any]) -> None:
    if name not in case.library.formats:
        pytest.skip(f"{case.library.name} arrays have no {name}")
    sizes = (1, 5, 257, 5000)
    compare(case, [Tensor(name, dense(n), grad) for grad in case.library.formats for n in sizes], **options)


def test_misaligned_views(case: Case) -> None:
    offsets = product(range(4), range(4), (1, 7, 1030))
    compare(
        case,
        [
            Tensor(name, dense(n, offset=p), grad_at=dense(n, offset=g))
            for (p, g, n), name in product(offsets, case.library.formats)
        ],
    )


def test_strided_parameters_and_gradients(case: Case) -> None:
    pairs = (
        (transposed(30, 17), dense(30, 17)),
        (dense(30, 17), transposed(30, 17, offset=1)),
        (transposed(30, 17, offset=3), transposed(30, 17)),
        (Layout((30, 17), (40, 2), 5), dense(30, 17)),
        (Layout((5, 6, 7), (1, 35, 5)), Layout((5, 6, 7), (100, 1, 12))),
        (dense(30, 17), Layout((30, 17), (0, 1))),  # one row for all
        (dense(30, 17), Layout((30, 17), (0, 0))),  # one number for all
        (Layout((1, 3, 1, 4), (7, 4, 13, 1)), Layout((1, 3, 1, 4), (0, 4, 99, 3))),
        (Layout((), (), 1), dense()),
    )
    compare(case, [Tensor(name, p, grad_at=g) for (p, g), name in product(pairs, case.library.formats)])


def test_empty_tensors(case: Case) -> None:
    shapes = ((0,), (3,), (0, 4), (2, 0, 3), (5,), (0,))
    compare(case, [Tensor(name, dense(*shape)) for shape, name in product(shapes, case.library.formats)])


def test_many_tensors(case: Case) -> None:
    names = case.library.formats
    compare(case, [Tensor(names[k % len(names)], dense(1 + k % 50, offset=k % 3)) for k in range(2000)], steps=2)


def test_gradients_come_and_go_in_two_groups(case: Case) -> None:
    tensors = [
        Tensor(name, dense(300), group=group, without=without)
        for group, name, without in product((0, 1), case.library.formats, ((), (0, 1), (1, 3), (0, 1, 2, 3, 4, 5)))
    ]
    compare(case, tensors, steps=6)


@pytest.mark.parametrize("steps", [1, 5])
def test_packed_parameters(packing_case: Case, steps: int) -> None:
    layouts = (dense(30, 17), dense(3), transposed(40, 30), dense(257), dense(0), dense())
    tensors = of_every_format(packing_case, *layouts)
    compare(packing_case, [replace(one, group=group) for group in (0, 1) for one in tensors], steps, pack=True)


def test_packed_parameters_step_on_their_own_gradients(packing_case: Case) -> None:
    tensors = of_every_format(packing_case, dense(30, 17), dense(1025))
    trainings = [Training(each, tensors, pack=True) for each in (packing_case, HOST)]
    for training in trainings:
        for step in range(3):
            training.optimizer.zero_grad()
            for bound, own in zip(training.optimizer.grads[0], training.gradients(step)[0], strict=True):
                write(bound, own)
            training.optimizer.step()
        assert "_flat_" in str(training.optimizer.plan)
    agree(trainings[0].left(), trainings[1].left())


def test_gradients_may_be_allocated_anew_in_each_step(case: Case) -> None:
    tensors = of_every_format(case, dense(500), dense(37), dense(20, 30))
    found, expected = Training(case, tensors), Training(HOST, tensors)
    kept: list[Any] = []
    for step in range(40):  # more than the host may be ahead of the device
        gradients = found.gradients(step)
        found.optimizer.step(gradients)
        kept.append(gradients if step % 3 else None)  # some stay, so that addresses differ, and some are used again
        expected.step(step)
    agree(found.left(), expected.left())


def test_an_address_may_be_used_again_by_another_size_and_format(case: Case) -> None:
    pool = case.library.name in ("cupy", "torch cuda")
    sizes = {"float32": 1024, "float64": 500, "float16": 2000}
    trainings = [
        Training(each, [Tensor("float32", dense(n)) for n in sizes.values()], master_weights=False)
        for each in (case, HOST)
    ]
    addresses: list[list[int]] = []
    for training in trainings:
        seen = []
        for step in range(9):
            k = step % len(sizes)
            name, n = list(sizes.items())[k]
            gradient = training.case.array(values(DTYPES[name], n, step), dense(n))
            seen.append(address_of(gradient) if pool and training.case is case else 0)
            training.optimizer.step([[gradient if j == k else None for j in range(len(sizes))]])
            del gradient
            if pool:
                gc.collect()  # elsewhere nothing is asserted of what memory is used again, and counting references frees it
        addresses.append(seen)
    agree(trainings[0].left(), trainings[1].left())
    if pool:
        assert len(set(addresses[0])) < 9, "the pool has not used an address again, and this test has shown nothing"


def test_an_address_may_be_used_again_by_another_parameters_gradient(case: Case) -> None:
    # Of one size to a pool, which hands out memory in pieces of 512 bytes.
    tensors = [Tensor("float32", dense(n)) for n in (1024, 1000, 920)]
    found, expected = Training(case, tensors), Training(HOST, tensors)
    for step in range(12):
        gradients: list[Any] = [None] * 3
        for k in (step % 3, (step + 1) % 3, (step + 2) % 3):
            gradients[k] = case.array(values(DTYPES["float32"], tensors[k].at.shape[0], 10 * step + k), tensors[k].at)
        found.optimizer.step([gradients])
        # Freed in an order of their own: who comes next gets what was another's.
        for k in (1, 2, 0):
            gradients[k] = None
        expected.optimizer.step(
            [[values(DTYPES["float32"], one.at.shape[0], 10 * step + k) for k, one in enumerate(tensors)]]
        )
    agree(found.left(), expected.left())


# ---- Refusals ------------------------------------------------------------------------------------------------------------------------


def test_a_gradient_from_elsewhere_is_refused_by_name_and_changes_nothing(case: Case) -> None:
    tensors = of_every_format(case, dense(300))
    training = Training(case, tensors).step(0)
    good, before = training.gradients(1)[0], training.left()
    elsewhere: list[Any] = [case.array(np.ones(306, np.float32), dense(299))]
    if case.engine != "cpu":
        elsewhere.append(np.ones(300, np.float32))
    for bad in elsewhere:
        with pytest.raises(ValueError, match=r"the gradient of parameter 1 of group 0 (has shape|lives on cpu)"):
            training.optimizer.step([[good[0], bad, *good[2:]]])
        agree(training.left(), before)
    training.optimizer.step([good])
    agree(training.left(), Training(HOST, tensors).step(0, 1).left())


def test_an_engine_for_another_kind_of_memory_is_refused_by_name(case: Case) -> None:
    p = case.array(np.ones(10, np.float32), dense(3))
    others = ["cpu"] if case.engine != "cpu" else []
    for engine in others:
        with pytest.raises(ValueError, match=r"parameter 'w' lives on cuda:0, where engine='cpu' does not work"):
            GpuAdam({"w": p}, engine=engine)
    optimizer = GpuAdam({"w": p}, engine="auto")
    assert ("engine=cpu" in repr(optimizer)) == (case.engine == "cpu")
