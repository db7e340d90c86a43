"""Groups whose parameters are replaced, added or taken away are followed, and nothing of the state is lost."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from tests.support.torch_classes import (  # noqa: E402
    bits,
    ours,
    parameters,
    same_bits,
    set_gradients,
    state_bits,
    train,
    trained,
)


@pytest.mark.parametrize("pack", [False, True], ids=["in place", "packed"])
def test_a_parameter_replaced_in_a_group_begins_anew(pack: bool) -> None:
    params, opt = trained(pack=pack)
    left, stays = params
    twins, twin = trained(pack=pack)
    fresh = parameters(seed=9)[0]
    opt.param_groups[0]["params"][0] = fresh
    before = {key: bits(value) for key, value in opt.state[left].items()}
    train([fresh, stays], opt, range(3, 5))
    train(twins, twin, range(3, 5))
    assert same_bits([stays], twins[1:])
    assert [int(opt.state[p]["step"]) for p in (fresh, stays)] == [2, 5]
    assert {key: bits(value) for key, value in opt.state[left].items()} == before
    assert sorted(opt.state_dict()["state"]) == [0, 1]
    # It goes on where it was when it is back.
    opt.param_groups[0]["params"][0] = left
    train([left, stays], opt, [5])
    assert int(opt.state[left]["step"]) == 4


def test_a_parameter_appended_to_a_group() -> None:
    params, opt = trained()
    twins, twin = trained()
    more = parameters(((2,), (1,)), seed=5)
    opt.param_groups[0]["params"].append(more[0])
    opt.add_param_group({"params": more[1:], "lr": 0.5})
    train([*params, *more], opt, range(3, 5))
    train(twins, twin, range(3, 5))
    assert same_bits(params, twins)
    assert [int(opt.state[p]["step"]) for p in (*params, *more)] == [5, 5, 2, 2]


def test_all_groups_may_be_taken_away_for_a_while() -> None:
    params, opt = trained()
    opt.param_groups.clear()
    before = [p.detach().clone() for p in params]
    train(params, opt, [3])
    assert same_bits(params, before)
    opt.add_param_group({"params": params})
    train(params, opt, [4])
    assert int(opt.state[params[0]]["step"]) == 4


def test_groups_that_are_taken_away_or_moved() -> None:
    groups, twins = parameters(((3,), (4,), (5,))), parameters(((3,), (4,), (5,)))
    opt, twin = (
        ours("Adam", [{"params": [p], "lr": 0.1 * (k + 1)} for k, p in enumerate(own)]) for own in (groups, twins)
    )
    train(groups, opt, range(2))
    train(twins, twin, range(2))
    opt.param_groups.reverse()
    gone = opt.param_groups.pop()
    train(groups, opt, [2])
    train(twins[1:], twin, [2])
    for p, q in zip(groups[1:], twins[1:], strict=True):
        set_gradients([p], 3)
        set_gradients([q], 3)
    twins[0].grad = None
    opt.step()
    twin.step()
    opt.param_groups.append(gone)
    for seed in (4, 5):
        for p, q in zip(groups, twins, strict=True):
            set_gradients([p], seed)
            set_gradients([q], seed)
        opt.step()
        twin.step()
    assert [int(opt.state[p]["step"]) for p in groups] == [4, 6, 6]


def test_a_group_replaced_by_a_dict_that_lacks_keys_is_refused() -> None:
    params, opt = trained()
    twins, twin = trained()
    before = opt.param_groups[0]
    opt.param_groups[0] = {"params": params, "lr": 0.1}
    set_gradients(params, 3)
    with pytest.raises(ValueError, match=r"param_groups\[0\] has lost its 'betas'"):
        opt.step()
    assert same_bits(params, twins)
    opt.param_groups[0] = {key: before[key] for key in opt._kind.algorithm.keys} | {"params": params}
    train(params, opt, range(3, 5))
    train(twins, twin, range(3, 5))
    assert same_bits(params, twins)


def test_a_group_that_becomes_capturable_and_back() -> None:
    params, opt = trained()
    twins, twin = trained()
    for seed, capturable in enumerate((True, True, False, True), start=3):
        opt.param_groups[0]["capturable"] = capturable
        train(params, opt, [seed])
        train(twins, twin, [seed])
        assert opt._engine.core._options()["capturable"] is capturable
    assert same_bits(params, twins)
    assert state_bits(opt) == state_bits(twin)
