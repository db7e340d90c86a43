"""The benchmarks' cases and contenders: each is checked before it is timed, and a wrong one is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import check, contenders, others, plain, variants
from benchmarks.cases import CASES, QUICK, Case, chosen, size_name
from benchmarks.libraries import Host
from benchmarks.rules import RULES
from benchmarks.start import LIMIT, Contender, Start
from tests.benchmarks.tiny_cases import TINY, TINY_BFLOAT16, TINY_OTHERS, TINY_VARIANTS, made

# Cases.


def test_the_lists_have_their_models_sizes() -> None:
    cases = {case.name: case for case in CASES}
    assert (len(cases["gpt2-124m"].shapes), cases["gpt2-124m"].elements) == (148, 124_439_808)
    assert (len(cases["resnet50"].shapes), cases["resnet50"].elements) == (161, 25_557_032)
    assert (len(cases["thousand"].shapes), cases["thousand"].elements) == (1000, 1_000_000)
    plain_singles = [case for case in CASES if case.kind == "single" and case.variant == "plain"]
    sizes = [case.elements for case in plain_singles if case.format == "float32" and case.optimizer == "adam"]
    assert sizes == [4**k for k in range(5, 14)]


def test_names_are_their_own() -> None:
    for cases in (CASES, QUICK):
        assert len({case.name for case in cases}) == len(cases)


def test_a_step_has_to_move_what_its_variant_adds() -> None:
    ideal = {case.name: case.ideal_bytes / case.elements for case in CASES}
    assert ideal["single-16Mi"] == ideal["gpt2-124m-bfloat16"] == 28
    assert ideal["clip-single-16Mi"] == ideal["scale-thousand"] == 32
    assert ideal["average-single-16Mi"] == 36
    assert ideal["rows-100000x256"] == 28 / 100


def test_a_step_has_to_move_the_states_that_its_optimizer_keeps() -> None:
    for name, size in {"sgd": 20, "adagrad": 20, "rmsprop": 20, "adamax": 28, "adadelta": 28, "nadam": 28}.items():
        for case in (one for cases in (CASES, QUICK) for one in cases if one.optimizer == name):
            assert case.ideal_bytes == size * case.elements


@pytest.mark.parametrize("case", TINY_OTHERS, ids=lambda case: case.name)
def test_optimizers_keep_as_many_states_as_is_said(case: Case) -> None:
    start = Start.of(case)
    optimizer = plain.bound(start, "cpu", Host(), pack=False)
    optimizer.step()
    kept = [one for one in optimizer.state_dict()["state"][0].values() if np.shape(one) == case.shapes[0]]
    assert len(kept) == RULES[case.optimizer].states


def test_every_optimizer_is_measured_at_both_sizes() -> None:
    for cases, names in ((CASES, ("single-16Mi", "thousand")), (QUICK, ("single-1Ki", "hundred"))):
        found = [case.name for case in cases if case.optimizer != "adam"]
        assert found == [f"{optimizer}-{name}" for optimizer in RULES if optimizer != "adam" for name in names]


def test_sizes_are_named_in_binary_units() -> None:
    assert [size_name(n) for n in (100, 1 << 10, 1 << 24)] == ["100", "1Ki", "16Mi"]


def test_cases_are_chosen_by_name() -> None:
    assert [case.name for case in chosen(CASES, ["resnet50", "single-1Ki"])] == ["single-1Ki", "resnet50"]
    assert chosen(CASES, []) == []
    with pytest.raises(ValueError, match=r"no case is called nosuch: use single-1Ki, "):
        chosen(CASES, ["nosuch"])


# Contenders.


def checked(start: Start) -> list[str]:
    """Check all contenders, and tell the names of their ways."""
    labels: list[str] = []
    for contender in made(start):
        check.check(contender, start)
        labels += contender.steps
    return labels


@pytest.mark.parametrize("case", [TINY, TINY_BFLOAT16], ids=lambda case: case.name)
def test_every_contender_computes_adam(case: Case) -> None:
    start = Start.of(case)
    before = [p.copy() for p in start.params]
    labels = checked(start)
    assert labels[0] == LIMIT
    assert {"GpuAdam cpu in place", "GpuAdam cpu packed", "NumPy"} < set(labels)
    for p, q in zip(start.params, before, strict=True):
        np.testing.assert_array_equal(p, q)  # nobody works on the start values themselves


@pytest.mark.parametrize("case", TINY_VARIANTS, ids=lambda case: case.name)
def test_every_contender_computes_what_is_added_to_adam(case: Case) -> None:
    start = Start.of(case)
    before = [a.copy() for a in (*start.params, *start.grads)]
    labels = checked(start)
    assert labels[0] == LIMIT
    assert {"GpuAdam cpu in place", f"GpuAdam cpu in place, {variants.ADDED[case.variant]}"} < set(labels)
    for a, b in zip((*start.params, *start.grads), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", TINY_OTHERS, ids=lambda case: case.name)
def test_every_contender_computes_its_optimizer(case: Case) -> None:
    start = Start.of(case)
    before = [a.copy() for a in (*start.params, *start.grads)]
    labels = checked(start)
    assert labels[:2] == [LIMIT, f"{RULES[case.optimizer].ours.__name__} cpu in place"]
    for a, b in zip((*start.params, *start.grads), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", TINY_OTHERS, ids=lambda case: case.name)
def test_torch_computes_the_optimizer_of_the_same_name(case: Case) -> None:
    pytest.importorskip("torch")
    start = Start.of(case)
    contender = plain.torch_optimizer(start, "cpu", others.torch_ways(case.optimizer))
    assert next(iter(contender.steps)) == contenders.counterpart(case)
    check.check(contender, start)


@pytest.mark.parametrize(
    ("case", "key"),
    [
        (case, key)
        for case in TINY_OTHERS
        for key in ("lr", "eps", "momentum", "alpha", "rho")
        if key in RULES[case.optimizer].hyperparameters
    ],
    ids=lambda it: it if isinstance(it, str) else it.name,
)
def test_an_optimizer_of_other_hyperparameters_is_not_timed(case: Case, key: str) -> None:
    start = Start.of(case)
    optimizer = plain.bound(start, "cpu", Host(), pack=False)
    optimizer.param_groups[0][key] = 0.5 * start.hyperparameters[key] + 1e-4
    with pytest.raises(check.WrongResult, match="tensor 0 is off by as much as"):
        check.check(Contender({"other": optimizer.step}, plain.host_params(optimizer)), start)


@pytest.mark.parametrize("case", TINY_VARIANTS, ids=lambda case: case.name)
def test_torch_computes_what_is_added_to_adam(case: Case) -> None:
    pytest.importorskip("torch")
    start = Start.of(case)
    (contender,) = variants.contenders(start, {}, "cpu")
    assert tuple(contender.steps) == (variants.PAIRS[case.variant],)
    check.check(contender, start)


@pytest.mark.parametrize("case", TINY_VARIANTS[:3], ids=lambda case: case.name)
def test_what_leaves_the_addition_out_is_not_timed(case: Case) -> None:
    """A plain step in the place of one that clips, unscales or averages."""
    start = Start.of(case)
    grads = start.scaled_grads if case.variant == "scale" else start.grads
    optimizer = plain.bound(start, "cpu", Host(), pack=False, grads=grads)
    params = plain.host_params(optimizer)
    contender = Contender({"plain": optimizer.step}, params, factor=start.clip_factor)
    if case.variant == "average":
        contender = Contender({"plain": optimizer.step}, params, averages=params, weight=lambda t: 1 / t)
    with pytest.raises(check.WrongResult, match=r"plain on tiny-\w+: .*tensor 0 is off by as much as"):
        check.check(contender, start)


def test_rows_come_more_than_once_and_from_both_ends() -> None:
    start = Start.of(TINY_VARIANTS[3])
    assert start.rows is not None
    numbers, values = start.rows
    assert (min(numbers), max(numbers), len(numbers)) == (0, 39, 11)
    assert len(set(numbers.tolist())) < 11
    for row in range(40):
        np.testing.assert_allclose(start.grads[0][row], values[numbers == row].sum(axis=0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("case", [TINY, TINY_BFLOAT16], ids=lambda case: case.name)
def test_torch_computes_adam(case: Case) -> None:
    pytest.importorskip("torch")
    start = Start.of(case)
    contender = plain.torch_optimizer(start, "cpu", plain.TORCH_WAYS)
    assert tuple(contender.steps) == ("torch fused", "torch foreach", "torch loop")
    check.check(contender, start)


@pytest.mark.parametrize(
    ("case", "factor"), [(TINY, 0.0), (TINY, 0.5), (TINY, 2.0), (TINY_BFLOAT16, 100.0)], ids=lambda it: str(it)[:20]
)
def test_a_wrong_step_is_not_timed(case: Case, factor: float) -> None:
    """One that moves by too much, too little, or not at all; a bfloat16 is too coarse to show less than a gross mistake."""
    start = Start.of(case)
    right = plain.array_adam(start, Host())

    def wrong() -> list[Any]:
        assert right.params is not None
        before = [p.astype(np.float32) for p in start.params]
        return [p + np.float32(factor) * (q - p) for p, q in zip(before, right.params(), strict=True)]

    with pytest.raises(check.WrongResult, match="tensor 0 is off by as much as"):
        check.check(Contender(right.steps, wrong), start)


def test_large_tensors_are_checked_in_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SAMPLE", 64)
    start = Start.of(Case("large", "single", ((1000,),)))
    contender = plain.array_adam(start, Host())
    check.check(contender, start)
    assert contender.params is not None
    spoiled = contender.params()
    spoiled[0][-1] += 1
    with pytest.raises(check.WrongResult):
        check.check(Contender({"spoiled": lambda: None}, lambda: spoiled), start)
