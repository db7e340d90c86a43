"""`GpuAdam` itself on arrays of every library and on every engine: the bits of the same program on NumPy with the CPU engine.

What runs on NumPy, on PyTorch's CPU tensors and on DLPack capsules of host memory runs everywhere, and shows that the programs below are
sound. The rest is marked ``gpu``.
"""

from __future__ import annotations

import copy
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.support.library_programs import (
    ENGINES,
    HOST,
    ON_CPU,
    STREAMED,
    Capsule,
    Case,
    Cupy,
    Foreign,
    Layout,
    Numba,
    Stream,
    Tensor,
    Torch,
    Training,
    address_of,
    agree,
    capturing,
    compare,
    dense,
    duplicate,
    host,
    neither_waiting_nor_allocating,
    of_every_format,
    settle,
    transposed,
    write,
)
from tests.support.reference import DTYPES, assert_same_bits
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


# ---- State on the move ---------------------------------------------------------------------------------------------------------------


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


# ---- PyTorch -------------------------------------------------------------------------------------------------------------------------


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


# ---- Streams -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True])
def test_a_step_is_queued_on_the_callers_current_stream(streamed_case: Case, pack: bool) -> None:
    tensors = of_every_format(streamed_case, dense(300), transposed(20, 30))
    training = Training(streamed_case, tensors, pack=pack).step(0)
    scratch, stale, fresh = (training.gradients(step)[0] for step in (1, 1, 2))
    training.optimizer.step([stale])
    stream = Stream(streamed_case)
    settle(streamed_case)
    with stream.current():
        # Compiled before it counts.
        stream.keep_busy(1000)
        for to, numbers in zip(scratch, fresh, strict=True):
            write(to, numbers)
            duplicate(to)
        stream.wait()
        # What the step is to read comes late in its stream: on any other it would read the old numbers.
        stream.keep_busy()
        for to, numbers in zip(stale, fresh, strict=True):
            write(to, numbers)
        training.optimizer.step([stale])
        waiting = not stream.done()
        after = [duplicate(p) for p in training.optimizer.params[0]]
        stream.wait()
    assert waiting, "the step has waited for the device"
    for copied, now in zip(after, training.optimizer.params[0], strict=True):
        assert_same_bits(host(copied), host(now), "what follows on the stream has not seen the step")
    agree(training.left(), Training(HOST, tensors, pack=pack).step(0, 1, 2).left())


def test_steps_on_changing_streams_follow_each_other(streamed_case: Case) -> None:
    tensors = of_every_format(streamed_case, dense(100_000))
    training = Training(streamed_case, tensors)
    gradients = [training.gradients(step) for step in range(12)]
    streams = [Stream(streamed_case) for _ in range(3)]
    settle(streamed_case)
    for step, each in enumerate(gradients):
        with streams[step % 3].current():
            streams[step % 3].keep_busy(10_000_000 * (3 - step % 3))
            training.optimizer.step(each)
    settle(streamed_case)
    agree(training.left(), Training(HOST, tensors).step(*range(12)).left())


# ---- Neither waiting nor allocating --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True])
def test_a_step_after_the_first_neither_waits_nor_allocates(case: Case, pack: bool) -> None:
    if pack and not case.library.packs:
        pytest.skip("pack=True is for libraries whose arrays can be made")
    tensors = of_every_format(case, dense(300), transposed(20, 30), dense(37, offset=1))
    training = Training(case, tensors, pack=pack, amsgrad=True)
    gradients = [training.gradients(step) for step in range(8)]
    training.optimizer.step(gradients[0])
    with neither_waiting_nor_allocating(case):
        for each in gradients[1:]:  # at other addresses each time
            training.optimizer.step(each)
        training.optimizer.step(gradients[-1])
    expected = Training(HOST, tensors, pack=pack, amsgrad=True).step(*range(8), 7)
    agree(training.left(), expected.left())


def test_the_forbidden_calls_are_those_that_are_made() -> None:
    training = Training(HOST, [Tensor("float32", dense(3))])
    with pytest.raises(AssertionError, match=r"a step called engine\.allocate"), neither_waiting_nor_allocating(HOST):
        training.step(0)


def test_the_host_runs_ahead_of_the_device(streamed_case: Case) -> None:
    tensors = of_every_format(streamed_case, dense(300))
    training = Training(streamed_case, tensors).step(0)
    gradients = [training.gradients(step) for step in range(1, 21)]
    stream = Stream(streamed_case)
    settle(streamed_case)
    with stream.current():
        stream.keep_busy(1000)
        stream.wait()
        stream.keep_busy(2_000_000_000)
        started = time.perf_counter()
        for each in gradients:
            training.optimizer.step(each)
        took, waiting = time.perf_counter() - started, not stream.done()
        stream.wait()
    assert waiting, f"20 steps have waited for the device, {took:.3f} s"
    agree(training.left(), Training(HOST, tensors).step(*range(21)).left())


# ---- Refusals ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
@pytest.mark.parametrize("earlier", [0, 2])
def test_a_step_in_a_capture_is_refused_and_changes_nothing(streamed_case: Case, earlier: int) -> None:
    tensors = of_every_format(streamed_case, dense(300))
    training = Training(streamed_case, tensors).step(*range(earlier))
    gradients = training.gradients(earlier)
    before = training.left()
    settle(streamed_case)
    with capturing(streamed_case), pytest.raises(RuntimeError, match=r"step\(\) cannot be captured in a CUDA graph"):
        training.optimizer.step(gradients)
    agree(training.left(), before)
    training.optimizer.step(gradients)
    agree(training.left(), Training(HOST, tensors).step(*range(earlier + 1)).left())


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


# ---- Large parameters, several devices -----------------------------------------------------------------------------------------------


def step_a_constant(case: Case, size: int) -> None:
    """One float16 parameter without master weights, by a gradient of stride 0 and by itself, against one element of it."""
    p = ones(case, size)
    one = np.ones(1, np.float16)
    gradient = case.array(np.ones(1, np.float16), Layout((size,), (0,)))
    options: dict[str, Any] = {"lr": 0.25, "eps": 0.0, "master_weights": False}
    for of_itself in (False, True):
        optimizer, other = GpuAdam([p], engine=case.engine, **options), GpuAdam([one], engine="cpu", **options)
        before = one.copy()
        optimizer.step([p if of_itself else gradient])
        other.step([one if of_itself else np.ones(1, np.float16)])
        assert one[0] != before[0]
        chunk = 1 << 28
        for start in range(0, size, chunk):
            assert bool((p[start : start + chunk] == float(one[0])).all()), f"in the chunk from {start}"
        assert_same_bits(host(p[-1:]), one)
        del optimizer
        gc.collect()


def ones(case: Case, size: int) -> Any:
    if case.library.name.startswith("torch"):
        import torch

        return torch.ones(size, dtype=torch.float16, device=case.library.device)
    module = np if case is HOST else sys.modules["cupy"]
    return module.ones(size, np.float16)


@pytest.mark.parametrize("of", [case.param for case in (*ON_CPU[:2], *STREAMED)])
def test_a_gradient_that_is_one_number_and_one_that_is_the_parameter(of: Case) -> None:
    of.require()
    step_a_constant(of, 100_003)


@pytest.mark.slow
@pytest.mark.alone
def test_above_2_to_the_31_elements(streamed_case: Case) -> None:
    size = (1 << 31) + 5
    if free_bytes(streamed_case) < 24 << 30:
        pytest.skip("needs 24 GiB of free GPU memory")
    try:
        step_a_constant(streamed_case, size)
    finally:
        gc.collect()
        free_bytes(streamed_case)


def free_bytes(case: Case) -> int:
    """What is free on the device when the pools have given back what they can."""
    if "cupy" in sys.modules:
        sys.modules["cupy"].get_default_memory_pool().free_all_blocks()
    if case.library.name == "torch cuda":
        torch = sys.modules["torch"]
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info()[0])
    return int(sys.modules["cupy"].cuda.runtime.memGetInfo()[0])


@contextmanager
def on_device(case: Case, index: int) -> Iterator[None]:
    if case.library.name == "cupy":
        import cupy

        with cupy.cuda.Device(index):
            yield
    else:
        import torch

        with torch.cuda.device(index):
            yield


def device_count(case: Case) -> int:
    module = sys.modules["cupy"].cuda.runtime if case.library.name == "cupy" else sys.modules["torch"].cuda
    return int(module.getDeviceCount() if case.library.name == "cupy" else module.device_count())


def current_device(case: Case) -> int:
    module = sys.modules["cupy"].cuda.runtime if case.library.name == "cupy" else sys.modules["torch"].cuda
    return int(module.getDevice() if case.library.name == "cupy" else module.current_device())


def test_two_devices_in_one_optimizer(streamed_case: Case) -> None:
    if device_count(streamed_case) < 2:
        pytest.skip("needs two GPUs")
    torch = streamed_case.library.name == "torch cuda"
    cases = [replace(streamed_case, library=Torch(f"cuda:{k}")) if torch else streamed_case for k in (0, 1)]
    numbers = [values(DTYPES["float32"], 307, k) for k in range(2)]
    params, twins = [], [one[:300].copy() for one in numbers]
    for k, case in enumerate(cases):
        with on_device(case, k):
            params.append(case.array(numbers[k], dense(300)))
    optimizer, other = GpuAdam(params, engine=streamed_case.engine), GpuAdam(twins, engine="cpu")
    for step in range(4):
        gradients = [values(DTYPES["float32"], 307, 10 * step + k) for k in range(2)]
        there = []
        for k, case in enumerate(cases):
            with on_device(case, k):
                there.append(case.array(gradients[k], dense(300)))
        before = current_device(streamed_case)
        optimizer.step(there)
        assert current_device(streamed_case) == before
        other.step([gradient[:300] for gradient in gradients])
    with pytest.raises(ValueError, match=r"the gradient of parameter 0 .* lives on cuda:1: must be on cuda:0"):
        optimizer.step(there[::-1])
    for k, (found, expected) in enumerate(zip(params, twins, strict=True)):
        with on_device(streamed_case, k):
            assert_same_bits(host(found), expected)
