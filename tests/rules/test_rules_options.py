"""What the interface offers, with every optimizer: each option gives the bits that the written-out arithmetic gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gpu_adam import schedules
from tests.rules.rule_programs import Program, run
from tests.rules.rule_references import Reference
from tests.support.reference import DTYPES, assert_same_bits
from tests.support.rule_cases import SETTINGS, TORCH, Settings, each, parameters
from tests.support.shipped import OPTIMIZERS
from tests.support.strategies import tame

# ---- Groups -------------------------------------------------------------------------------------------------------------------------

FLOATS = (("float32", "float32", 300), ("float32", "float32", 3), ("bfloat16", "bfloat16", 40))


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_follow_settings_and_rules_of_their_own(name: str, pack: bool) -> None:
    plain = tuple(SETTINGS[name].values())
    groups = (*plain, {**plain[-1], "lr": 0.5, "weight_decay": 0.1}, {"weight_decay": 0.1, "maximize": True})
    tensors = tuple((group, *kind) for group in range(len(groups)) for kind in FLOATS)
    optimizer = run(Program(name, groups, tensors, {"pack": pack}))
    rules = {optimizer.algorithm.rule_of(group, "") for group in optimizer.param_groups}
    assert rules == set(optimizer.algorithm.rules), "the groups leave out a rule"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_group_that_comes_late_begins_at_the_first_step(name: str) -> None:
    for settings in SETTINGS[name].values():
        p, q = parameters((30, 20), np.float32)
        references = [Reference(name, one) for one in (p, q)]
        optimizer = OPTIMIZERS[name]([{"params": [p]}], **settings)
        for step in range(4):
            if step == 2:
                optimizer.add_param_group({"params": [q]})
            grads = [tame(DTYPES["float32"], 30, step, 3), tame(DTYPES["float32"], 20, step, 3)]
            late = step >= 2
            optimizer.step([[grads[0]], [grads[1]]] if late else [[grads[0]]])
            for reference, g in zip(references[: 1 + late], grads, strict=False):
                reference.step(g, settings)
        for found, reference in zip((p, q), references, strict=True):
            assert_same_bits(found, reference.p, str(settings))


# ---- Functions of the step ----------------------------------------------------------------------------------------------------------

SCHEDULED: dict[str, Settings] = {
    "GpuAdam": {"betas": (lambda t: 0.9 / t, lambda t: 1 - 1 / (t + 1))},
    "GpuAdaMax": {"betas": (lambda t: 0.9 / t, lambda t: 1 - 1 / (t + 1))},
    "GpuSgd": {"momentum": lambda t: 0.7 * (t % 3), "nesterov": True},  # also 0, and above 1
    "GpuAdaGrad": {},
    "GpuRmsProp": {"alpha": lambda t: 1 - 1 / (t + 1), "momentum": lambda t: 0.4 * (t - 1)},
    "GpuAdaDelta": {"rho": lambda t: 1 - 1 / (t + 1)},
    "GpuNAdam": {"betas": (lambda t: 0.9 / t, lambda t: 1 - 1 / (t + 1))},
}
OF_ALL: Settings = {"lr": lambda t: 0.1 / math.sqrt(t), "weight_decay": lambda t: 0.1 * (t % 2)}


@pytest.mark.parametrize("how", [{}, {"capturable": True}, {"capturable": True, "max_grad_norm": 1.0}], ids=str)
@pytest.mark.parametrize("decoupled", [False, True], ids=["L2", "decoupled"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_numbers_may_be_functions_of_the_step(name: str, decoupled: bool, how: Settings) -> None:
    chosen = {**SCHEDULED[name], **OF_ALL, "decoupled_weight_decay": decoupled}
    tensors = ((0, "float32", "float32", 257), (0, "float64", "float64", 20), (0, "bfloat16", "bfloat16", 5))
    # A parameter without a gradient stays behind: its t is its own.
    run(Program(name, (chosen,), tensors, how, steps=6, missing=frozenset({(1, 0), (2, 0), (0, 2)})))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_schedules_drive_every_optimizer(name: str) -> None:
    run(Program(name, ({"lr": schedules.inverse_sqrt(0.1)},)))


# ---- Clipping, scaling, skipping, averages ------------------------------------------------------------------------------------------

OPTIONS: dict[str, tuple[Settings, float | str | None]] = {
    "clipped": ({"max_grad_norm": 0.5}, None),
    "measured": ({"max_grad_norm": math.inf, "group_norms": True}, None),
    "scaled": ({}, 8.0),
    "scaled by a LossScaler": ({}, "scaler"),
    "skipping": ({"skip_nonfinite": True}, None),
    "with an exponential average": ({"ema_decay": 0.9}, None),
    "with Polyak's average": ({"polyak_average": True}, None),
    "capturable": ({"capturable": True}, None),
    "without master weights": ({"master_weights": False}, 3.0),
    "all": ({"max_grad_norm": 0.5, "ema_decay": 0.5, "capturable": True, "skip_nonfinite": True}, "scaler"),
}
MIXED = (
    (0, "float32", "float32", 257),
    (0, "bfloat16", "bfloat16", 5),
    (0, "float32", "float32", 0),
    (0, "float64", "float64", 20),
)
WITHOUT = (*MIXED[::2], (0, "float16", "float32", 40), MIXED[3])


@pytest.mark.parametrize(("options", "scale"), OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_option_gives_the_written_bits(name: str, pack: bool, options: Settings, scale: Any) -> None:
    skips = scale == "scaler" or "skip_nonfinite" in options
    infinite, missing = frozenset({1} if skips else ()), frozenset({(0, 1), (2, 3)})
    chosen = list(SETTINGS[name].values())[-1]
    formats = MIXED if options.get("master_weights", True) else WITHOUT
    if options.get("ema_decay") or options.get("polyak_average"):
        formats = MIXED[::2]  # how an average is kept does not depend on the rule: fewer kernels to compile
    program = Program(name, (chosen,), formats, {**options, "pack": pack}, scale, (), infinite, missing)
    optimizer = run(program)
    assert optimizer.steps_skipped == len(infinite)


# ---- Edits between steps ------------------------------------------------------------------------------------------------------------

EDITS: dict[str, Settings] = {
    "GpuAdam": {"betas": (0.5, 0.6), "eps": 0.1},
    "GpuAdaMax": {"betas": (0.5, 0.6), "eps": 0.1},
    "GpuSgd": {"momentum": 0.3, "dampening": 0.2},
    "GpuAdaGrad": {"lr_decay": 0.3, "initial_accumulator_value": 7.0, "eps": 0.1},
    "GpuRmsProp": {"alpha": 0.5, "momentum": 0.3, "centered": True, "eps": 0.1},
    "GpuAdaDelta": {"rho": 0.5, "eps": 0.1},
    "GpuNAdam": {"betas": (0.5, 0.6), "eps": 0.1, "momentum_decay": 0.5},
}


@pytest.mark.parametrize("options", [{}, {"pack": True}, {"capturable": True}, {"max_grad_norm": 1.0}], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_setting_may_be_edited_between_steps(name: str, options: Settings) -> None:
    edits = (
        *((step, 0, {key: value}) for step, (key, value) in enumerate(EDITS[name].items())),
        (4, 0, {"lr": 0.5, "weight_decay": 0.1, "maximize": True}),
        (5, 0, {"decoupled_weight_decay": True}),
        (6, 0, {"lr": lambda t: 0.1 / t}),
    )
    run(Program(name, options=options, edits=edits, steps=9))


# ---- Gradients of rows --------------------------------------------------------------------------------------------------------------


def some_rows(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers, each once, and a gradient for each."""
    numbers = np.random.default_rng(seed).permutation(height)[: height // 2]
    return numbers, tame(DTYPES["float32"], numbers.size * width, seed, 3).reshape(-1, width)


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@each
def test_rows_are_updated_as_parameters_of_their_own(name: str, settings: Settings, pack: bool) -> None:
    height, width = 8, 12
    # How memory is reached does not depend on the rule, so some are enough for the other format, and fewer kernels are compiled.
    format = "bfloat16" if name in ("GpuSgd", "GpuAdaDelta") else "float32"
    table = tame(DTYPES[format], height * width, 1, 3).reshape(height, width)
    if settings.get("initial_accumulator_value"):
        # Only at its first step a parameter has its start, see `test_every_row_of_adagrad_has_its_start`.
        settings = {**settings, "initial_accumulator_value": 0.0}
    references = [Reference(name, row) for row in table]
    optimizer = OPTIMIZERS[name]([table], pack=pack, **settings)
    for t in range(1, 4):
        numbers, gradient = some_rows(t, height, width)
        optimizer.step([(numbers, gradient)])
        for number, g in zip(numbers, gradient, strict=True):
            references[number].t = t - 1  # the count is the whole parameter's
            references[number].step(g, settings)
    assert_same_bits(optimizer.params[0], np.array([one.p for one in references]))
    states = optimizer.state_dict()["state"][0]
    for state in states.keys() & references[0].states.keys():
        assert_same_bits(states[state], np.array([one.states[state] for one in references]), state)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # by torch's own Adagrad
def test_every_row_of_adagrad_has_its_start() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    ours, theirs = (torch.nn.Parameter(torch.ones(4, 2, dtype=torch.float64)) for _ in range(2))
    settings = {"initial_accumulator_value": 0.5, "lr": 0.1}
    optimizer, peer = OPTIMIZERS["GpuAdaGrad"]([ours], **settings), torch.optim.Adagrad([theirs], **settings)
    for number in (1, 2):
        for p, one in ((ours, optimizer), (theirs, peer)):
            one_row = torch.full((1, 2), 0.5, dtype=torch.float64)
            p.grad = torch.sparse_coo_tensor([[number]], one_row, (4, 2), check_invariants=True)
            one.step()
    torch.testing.assert_close(ours.data, theirs.data, rtol=1e-13, atol=0.0)


# ---- torch tensors ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
@each
def test_torch_parameters_are_updated_from_their_grad(name: str, settings: Settings, pack: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    starts = parameters((7, 30, 0), np.float32)
    references = [Reference(name, p.astype(DTYPES[kind])) for p in starts for kind in ("float32", "bfloat16")]
    params = [
        torch.nn.Parameter(torch.from_numpy(p).to(getattr(torch, kind)))
        for p in starts
        for kind in ("float32", "bfloat16")
    ]
    optimizer = OPTIMIZERS[name](params, pack=pack, **settings)
    for step in range(3):
        optimizer.zero_grad()
        for k, (p, reference) in enumerate(zip(params, references, strict=True)):
            if (step, k) == (1, 1) and not pack:
                continue  # no gradient, no step
            g = tame(reference.p.dtype, p.numel(), 10 * step + k, 3)
            p.grad = torch.from_numpy(g.astype(np.float32)).to(p.dtype)
            reference.step(g, settings)
        optimizer.step()
    for p, reference in zip(params, references, strict=True):
        assert_same_bits(p.detach().float().numpy(), reference.p.astype(np.float32))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_torch_scheduler_drives_it(name: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    ours, theirs = (torch.nn.Parameter(torch.ones(5, dtype=torch.float64)) for _ in range(2))
    optimizer = OPTIMIZERS[name]([ours], lr=0.1)
    peer = getattr(torch.optim, TORCH[name])([theirs], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(peer, 0.5)
    for _ in range(5):
        optimizer.param_groups[0]["lr"] = peer.param_groups[0]["lr"]
        for p, one in ((ours, optimizer), (theirs, peer)):
            p.grad = torch.full((5,), 0.5, dtype=torch.float64)
            one.step()
        scheduler.step()
    torch.testing.assert_close(ours.data, theirs.data, rtol=1e-7, atol=0.0)  # NAdam's product is a float32 in torch
