"""Everything that a step can be asked for, of any optimizer at once: a random campaign against the written-out arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpu_adam.state.placement
from gpu_adam.engines import engine_named
from tests.rules.rule_programs import Program, run
from tests.rules.rule_references import DEFAULTS
from tests.support.cuda_cpp import build
from tests.support.cuda_cpp.host_gpu import InHostMemory
from tests.support.rule_cases import CASES, SETTINGS, Settings
from tests.support.shipped import OPTIMIZERS
from tests.support.strategies import FEW, PROVE

pytest_plugins = ("tests.support.cuda_cpp.fixtures",)

STEPS = 4
SIZES = (0, 1, 3, 17, 255, 1024, 1500)

# Formats of parameter and gradient with and without master weights: those that the kernels are built in for these tests, flat ones the
# first and multi-tensor ones the others.
WITH_MASTER = (("float32", "float32"), ("bfloat16", "bfloat16"))
WITHOUT = (("float32", "float32"), ("float64", "float64"), ("float16", "float32"))

AVERAGES: list[Settings] = [{}, {"ema_decay": 0.9}, {"polyak_average": True}]


@st.composite
def programs(draw: st.DrawFn, as_built: bool = False) -> Program:
    """Any program, or one of those whose CUDA C++ is built."""
    name, first = draw(st.sampled_from(CASES))
    groups = (first, draw(st.sampled_from([other for one, other in CASES if one == name])))
    if draw(st.booleans()):
        lr = draw(st.sampled_from([0.1, 1e-3]))
        groups = ({**first, "lr": lambda t: lr / t}, groups[1])
    bound = as_built and draw(st.booleans())
    master = bound if as_built else draw(st.booleans())
    average = {} if as_built else draw(st.sampled_from(AVERAGES))
    pairs = WITH_MASTER if master else WITHOUT
    if average:
        pairs = (("float32", "float32"),)  # so that fewer kernels are compiled, as below
    tensors = tuple(
        (group, *draw(st.sampled_from(pairs)), draw(st.sampled_from(SIZES if k else SIZES[2:])))
        for k, group in enumerate((0, 0, 1))
    )
    tensors = tuple((g, p, q, min(n, 255) if p == "float64" else n) for g, p, q, n in tensors)
    others = [{**DEFAULTS[name], **one} for one in SETTINGS[name].values()]
    edits = draw(st.lists(st.tuples(st.integers(0, STEPS - 2), st.just(1), st.sampled_from(others)), max_size=2))
    return Program(
        name,
        groups,
        tensors,
        {
            "max_grad_norm": draw(st.sampled_from([None, 0.5, 1e6, math.inf])),
            "skip_nonfinite": draw(st.booleans()),
            "capturable": draw(st.booleans()),
            "pack": bound or draw(st.booleans()),
            "group_norms": draw(st.booleans()),
            "master_weights": master,
            **average,
        },
        draw(st.sampled_from([None, 8.0, 3.0, "scaler"])),
        tuple(edits),
        draw(st.frozensets(st.integers(0, STEPS - 1), max_size=2)),
        frozenset()
        if bound
        else draw(st.frozensets(st.tuples(st.integers(0, STEPS - 1), st.integers(0, 2)), max_size=3)),
        STEPS,
        draw(st.integers(0, 1000)),
        bound,
    )


@PROVE
@given(programs())
def test_any_combination_gives_the_written_bits(program: Program) -> None:
    run(program)


# ---- The CUDA C++ of the rules, run by the GPU engines' own host code on a CPU --------------------------------------------------------


@pytest.fixture
def engine(cuda: Any) -> Iterator[InHostMemory]:
    made = InHostMemory(cuda.binding.library)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_adam.state.placement, "engine_named", lambda name: made)
        yield made


needs_a_compiler = pytest.mark.skipif(build.missing is not None, reason=str(build.missing))


@needs_a_compiler
@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_gpus_kernels_clip_scale_and_skip_with_every_optimizer(name: str, pack: bool, engine: InHostMemory) -> None:
    for k, chosen in enumerate(SETTINGS[name].values()):
        tensors = tuple((0, p, q, n) for p, q in (WITH_MASTER if pack else WITHOUT) for n in (255, 0, 1500))
        options = {"max_grad_norm": 1.0, "pack": pack, "master_weights": pack, "capturable": bool(k % 2)}
        groups = ({**chosen, "weight_decay": 0.1, "decoupled_weight_decay": bool(k % 2)},)
        missing = frozenset(() if pack else {(2, 0)})
        program = Program(name, groups, tensors, options, "scaler", (), frozenset({1}), missing, bound=pack)
        optimizer = run(program, engine.finish)
        families = {launch.specialization.family for launch in optimizer.plan.launches}
        assert families == {"flat" if pack else "multi_tensor"}
    assert engine.binding.launches


@needs_a_compiler
def test_any_combination_gives_the_written_bits_on_the_gpus_kernels(engine: InHostMemory) -> None:
    @settings(FEW, max_examples=40)
    @given(programs(as_built=True))
    def campaign(program: Program) -> None:
        run(program, engine.finish)

    campaign()
    assert engine.binding.launches


@needs_a_compiler
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_are_updated_by_the_gpus_kernels_as_by_the_cpus(name: str, engine: InHostMemory) -> None:
    rng = np.random.default_rng(0)
    gradients = [(rng.integers(0, 9, 5), rng.standard_normal((5, 40)).astype(np.float32)) for _ in range(3)]
    start = rng.standard_normal((9, 40)).astype(np.float32)
    for chosen in SETTINGS[name].values():
        table = start.copy()
        optimizer = OPTIMIZERS[name]([table], max_grad_norm=1.0, **chosen)
        for one in gradients:
            optimizer.step([one])
            engine.finish()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gpu_adam.state.placement, "engine_named", engine_named)
            twin = start.copy()
            other = OPTIMIZERS[name]([twin], max_grad_norm=1.0, **chosen)
        for one in gradients:
            other.step([one])
        assert table.tobytes() == twin.tobytes()
