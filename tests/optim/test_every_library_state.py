"""State that moves between the host and the device, engines and libraries, and copies of an optimizer: the bits of one that stayed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest

from tests.support.libraries import Capsule, Cupy, Foreign, Numba, Torch, dense, host, transposed
from tests.support.library_cases import ENGINES, HOST, Case
from tests.support.library_programs import Tensor, Training, agree, of_every_format
from tests.support.reference import DTYPES, assert_same_bits

# The numbers hold signalling NaNs.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


def relay(cases: Sequence[Case], **options: Any) -> None:
    """Two steps in each place, the state carried from one to the next, against as many steps on the host."""
    formats = [name for name in DTYPES if all(name in case.library.formats for case in cases)]
    tensors = [
        Tensor(name, layout, group=group, without=without)
        for group, (layout, without), name in product(
            (0, 1), ((dense(300), ()), (transposed(20, 30), (1, 2)), (dense(5), tuple(range(9)))), formats
        )
    ]
    training = Training(cases[0], tensors, **options).step(0, 1)
    for k, case in enumerate(cases[1:], start=1):
        training = training.handed_over(case).step(2 * k, 2 * k + 1)
    agree(training.left(), Training(HOST, tensors, **options).step(*range(2 * len(cases))).left())


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"master_weights": False}], ids=str)
def test_state_moves_from_the_host_to_the_device_and_back(case: Case, options: dict[str, Any]) -> None:
    relay([HOST, case, HOST], **options)


def test_state_moves_from_the_device_to_the_host_and_back(case: Case) -> None:
    relay([case, HOST, case], amsgrad=True)


@pytest.mark.parametrize("ways", [ENGINES, ENGINES[::-1]], ids="-".join)
@pytest.mark.parametrize("library", [Cupy(), Torch("cuda"), Numba()], ids=lambda library: library.name)
@pytest.mark.gpu
def test_state_moves_between_engines(library: Any, ways: Sequence[str]) -> None:
    cases = [Case(library, engine) for engine in (*ways, ways[0])]
    for case in cases:
        case.require()
    relay(cases, amsgrad=True)


@pytest.mark.gpu
def test_state_moves_between_libraries() -> None:
    ways = ((Cupy(), "cupy"), (Torch("cuda"), "numba"), (Numba(), "cupy"), (Foreign(Capsule, Numba()), "numba"))
    cases = [Case(library, engine) for library, engine in ways]
    for case in cases:
        case.require()
    relay(cases)


def test_a_copy_of_the_optimizer_goes_on_with_the_same_bits(packing_case: Case) -> None:
    if packing_case.library.name == "numba":
        pytest.skip("Numba's device arrays cannot be deep-copied")
    tensors = of_every_format(packing_case, dense(300))
    training = Training(packing_case, tensors).step(0)
    twin = copy.deepcopy(training.optimizer)
    twin.step(training.gradients(1))
    training.step(1)
    for found, expected in zip(twin.params[0], training.optimizer.params[0], strict=True):
        assert_same_bits(host(found), host(expected))
