"""A step is queued on the caller's stream, of any library, and neither waits nor allocates there."""

from __future__ import annotations

import time

import pytest

from tests.support.forbidden_calls import neither_waiting_nor_allocating
from tests.support.libraries import dense, duplicate, host, transposed, write
from tests.support.library_cases import HOST, Case
from tests.support.library_programs import Tensor, Training, agree, of_every_format
from tests.support.library_streams import Stream, capturing, settle
from tests.support.reference import assert_same_bits

# The numbers hold signalling NaNs.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


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
