"""``opt.state`` shows the engine's memory, and takes what a user writes, puts or deletes there."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from gpu_adam.optim.live import Live  # noqa: E402
from tests.support.torch_classes import (  # noqa: E402
    DENSE,
    RICH,
    bits,
    core,
    counted,
    ours,
    parameters,
    same_bits,
    set_gradients,
    state_bits,
    theirs,
    train,
    trained,
)


@pytest.mark.parametrize("name", DENSE)
def test_it_shows_what_pytorchs_shows_without_a_copy(name: str) -> None:
    params, opt = trained(name=name)
    _, other = trained(theirs, name=name)
    before = {}
    for p, entry, peer in zip(params, opt.state.values(), other.state.values(), strict=True):
        assert entry.keys() == {key for key, value in peer.items() if value is not None} - {"mu_product"}
        for key, value in entry.items():
            assert (value.dtype, value.shape, value.device) == (peer[key].dtype, peer[key].shape, peer[key].device)
            torch.testing.assert_close(value, peer[key], rtol=1e-4, atol=1e-6)
            assert value.untyped_storage().nbytes() == value.numel() * value.element_size()
        before.update({(p, key): (value, bits(value)) for key, value in entry.items()})
    train(params, opt, [7])
    for (p, key), (value, old) in before.items():
        assert opt.state[p][key] is value
        assert bits(value) != old


@pytest.mark.parametrize("pack", [False, True])
def test_a_saved_file_is_as_large_as_the_state(pack: bool) -> None:
    params = parameters([(100, 10)] * 20)
    opt = ours("Adam", params, pack=pack)
    train(params, opt, range(2))
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    # Of one parameter alone what is of one parameter alone.
    alone = io.BytesIO()
    torch.save(opt.state[params[3]]["exp_avg"], alone)
    assert 2 * 20 * 4000 < file.tell() < 1.3 * 2 * 20 * 4000
    assert alone.tell() < 6000


@counted
def test_step_counts_are_up_to_date_whenever_the_state_is_asked_for(options: dict[str, Any]) -> None:
    params, opt = trained(**options)
    shown = opt.state[params[0]]["step"]
    assert int(shown) == 3
    params[1].grad = None
    opt.step()
    assert opt.state[params[0]]["step"] is shown
    assert [int(opt.state[p]["step"]) for p in params] == [4, 3]
    assert [int(entry["step"]) for entry in opt.state_dict()["state"].values()] == [4, 3]


def fresh_entry(p: Any) -> dict[str, Any]:
    return {"step": torch.tensor(5.0), "exp_avg": torch.full_like(p, 0.1), "exp_avg_sq": torch.full_like(p, 0.5)}


def put_in_and_fill(opt: Any, p: Any, q: Any) -> None:
    opt.state[p] = entry = {}
    entry.update(fresh_entry(p))


def swap(opt: Any, p: Any, q: Any) -> None:
    state = opt.state
    for key in ("exp_avg", "exp_avg_sq"):
        one, other = state[p][key], state[q][key]
        state[p][key], state[q][key] = other[0].expand(p.shape).clone(), one[0, 0].expand(q.shape).clone()


def exchange(opt: Any, p: Any, q: Any) -> None:
    opt.state[p], opt.state[q] = opt.state[q], opt.state[p]


def replace_all(opt: Any, p: Any, q: Any) -> None:
    opt.state = defaultdict(dict, {p: fresh_entry(p), q: fresh_entry(q)})


def pop_and_set(opt: Any, p: Any, q: Any) -> None:
    entry = opt.state.pop(p)
    assert opt.state.setdefault(p, {}) == {}
    opt.state[p] |= {**entry, "step": torch.tensor(9.0)}


def keep_own_keys(opt: Any, p: Any, q: Any) -> None:
    opt.state[p]["mine"] = torch.ones(3)
    opt.state[p].setdefault("exp_avg", None)
    opt.state["of nobody"] = {"x": 1}


EDITS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "nothing": lambda opt, p, q: None,
    "in place": lambda opt, p, q: opt.state[p]["exp_avg"].mul_(0.5),
    "step in place": lambda opt, p, q: opt.state[q]["step"].fill_(10),
    "through .data": lambda opt, p, q: opt.state[p]["exp_avg_sq"].data.add_(1),
    "a tensor": lambda opt, p, q: opt.state[p].update(exp_avg_sq=torch.rand(4, 3, dtype=torch.float64).t() * 0 + 2),
    "a number as step": lambda opt, p, q: opt.state[p].__setitem__("step", torch.tensor(7.0)),
    "an entry": lambda opt, p, q: opt.state.__setitem__(p, fresh_entry(p)),
    "an entry, then what is in it": put_in_and_fill,
    "update": lambda opt, p, q: opt.state.update({p: fresh_entry(p)}),
    "whole state": replace_all,
    "delete one": lambda opt, p, q: opt.state.__delitem__(p),
    "delete all": lambda opt, p, q: opt.state.clear(),
    "delete the last": lambda opt, p, q: opt.state.popitem(),
    "empty": lambda opt, p, q: opt.state.__setitem__(q, {}),
    "clear one": lambda opt, p, q: opt.state[q].clear(),
    "swap arrays": swap,
    "pop and set": pop_and_set,
    "own keys": keep_own_keys,
}


@counted
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_what_a_user_does_to_it_counts(edit: Callable[..., Any], options: dict[str, Any]) -> None:
    params, opt = trained(**options)
    peers, peer = trained(theirs)
    edit(opt, *params)
    edit(peer, *peers)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = core("Adam", copies, **options)
    saved = opt.state_dict()
    other.load_state_dict({**saved, "state": {k: v for k, v in deepcopy(saved["state"]).items() if isinstance(k, int)}})
    for own, one in ((params, opt), (peers, peer), (copies, other)):
        train(own, one, range(3, 6))
    torch.testing.assert_close(params, peers, rtol=1e-4, atol=1e-6)
    assert same_bits(params, copies)
    loaded = state_bits(other)
    for index, p in enumerate(params):
        assert float(opt.state[p]["step"]) == loaded[index]["step"]
        assert all(bits(opt.state[p][key]) == loaded[index][key] for key in ("exp_avg", "exp_avg_sq"))
    if edit is keep_own_keys:
        assert same_bits([opt.state[params[0]]["mine"]], [torch.ones(3)])
        assert opt.state["of nobody"] == opt.state_dict()["state"]["of nobody"] == {"x": 1}


def test_two_parameters_of_one_shape_change_their_states() -> None:
    params = parameters(((4,), (4,)))
    opt, peers = ours("Adam", params, lr=0.1), parameters(((4,), (4,)))
    peer = theirs("Adam", peers, lr=0.1)
    for own, one in ((params, opt), (peers, peer)):
        train(own, one, range(3))
        exchange(one, *own)
        train(own, one, range(3, 5))
        one.state[own[0]]["exp_avg"], one.state[own[1]]["exp_avg"] = (
            one.state[own[1]]["exp_avg"],
            one.state[own[0]]["exp_avg"],
        )
        one.state[own[1]] = dict(one.state[own[0]])  # in PyTorch's the tensors are now one
        one.state[own[1]] = {key: value.clone() for key, value in one.state[own[1]].items()}
        train(own, one, range(5, 8))
    torch.testing.assert_close(params, peers, rtol=1e-4, atol=1e-6)


def test_a_parameter_given_the_entry_of_another_has_its_own_from_then_on() -> None:
    params = parameters(((4,), (4,)))
    opt = ours("Adam", params, lr=0.1)
    train(params, opt, range(2))
    opt.state[params[1]] = opt.state[params[0]]
    opt.step()
    assert opt.state[params[0]]["exp_avg"].data_ptr() != opt.state[params[1]]["exp_avg"].data_ptr()
    before = bits(opt.state[params[0]]["exp_avg"])
    opt.state[params[1]]["exp_avg"].zero_()
    assert bits(opt.state[params[0]]["exp_avg"]) == before


@counted
def test_an_edit_of_a_count_survives_a_step_that_was_not_asked_for_since(options: dict[str, Any]) -> None:
    params, opt = trained(**options)
    held = opt.state[params[0]]["step"]
    opt.step()
    held.fill_(20)
    opt.step()
    assert [int(opt.state[p]["step"]) for p in params] == [21, 5]


@counted
def test_an_entry_that_is_held_goes_by_the_count_of_now(options: dict[str, Any]) -> None:
    params, opt = trained(**options)
    entries = dict(opt.state)
    opt.step()
    opt.state = entries
    entries[params[0]]["exp_avg"] = torch.zeros(3, 4)
    opt.step()
    assert [int(opt.state[p]["step"]) for p in params] == [5, 5]


BAD: dict[str, tuple[Callable[[Any, Any], Any], type[Exception], str]] = {
    "missing": (lambda state, p: state[p].pop("exp_avg_sq"), ValueError, r"parameter 0 .*lacks \['exp_avg_sq'\]"),
    "no step": (lambda state, p: state[p].pop("step"), ValueError, r"parameter 0 .*lacks \['step'\]"),
    "shape": (lambda state, p: state[p].update(exp_avg=torch.zeros(4, 3)), ValueError, r"exp_avg of parameter 0 .*\(4, 3\): must be"),
    "integers": (lambda state, p: state[p].update(exp_avg=torch.zeros(3, 4, dtype=torch.int32)), ValueError, "int32: must be a float"),
    "complex": (lambda state, p: state[p].update(exp_avg=torch.zeros(3, 4) * 1j), ValueError, "complex64: must be a float"),
    "sparse": (lambda state, p: state[p].update(exp_avg=torch.zeros(3, 4).to_sparse()), ValueError, "must be a dense tensor"),
    "meta": (lambda state, p: state[p].update(exp_avg=torch.zeros(3, 4, device="meta")), ValueError, "device meta"),
    "beyond": (
        lambda state, p: state[p].update(exp_avg=torch.full((3, 4), 1e300, dtype=torch.float64)),
        ValueError,
        r"exp_avg of parameter 0 .* has 1e\+300",
    ),
    "no array": (lambda state, p: state[p].update(exp_avg="x"), TypeError, "exp_avg of parameter 0 .* is a str: must be a tensor"),
    "negative step": (lambda state, p: state[p]["step"].fill_(-1), ValueError, "step of parameter 0 .* is .*-1"),
    "half a step": (lambda state, p: state[p].update(step=torch.tensor(1.5)), ValueError, "step of parameter 0 .*whole number"),
    "no dict": (lambda state, p: state.update({p: [1]}), TypeError, "state of parameter 0 .* is a list: must be a dict"),
}  # fmt: skip


@counted
@pytest.mark.parametrize(("edit", "error", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_a_state_is_refused_before_anything_changes(
    edit: Callable[[Any, Any], Any], error: type[Exception], message: str, options: dict[str, Any]
) -> None:
    params, opt = trained(**options)
    twins, twin = trained(**options)
    kept = {key: (value, value.clone()) for key, value in opt.state[params[0]].items()}
    edit(opt.state, params[0])
    set_gradients(params, 3)
    for _ in range(2):
        with pytest.raises(error, match=message):
            opt.step()
    assert same_bits(params, twins)
    for value, before in kept.values():
        value.copy_(before)
    opt.state[params[0]] = {key: value for key, (value, _) in kept.items()}
    train(params, opt, range(3, 5))
    train(twins, twin, range(3, 5))
    assert same_bits(params, twins)
    assert state_bits(opt) == state_bits(twin)


CHANGES: list[tuple[str, dict[str, Any], dict[str, Any], set[str]]] = [
    ("Adam", {}, {"amsgrad": True}, {"max_exp_avg_sq"}),
    (
        "RMSprop",
        {"momentum": 0.0, "centered": False},
        {"momentum": 0.9, "centered": True},
        {"momentum_buffer", "grad_avg"},
    ),
    ("SGD", {"momentum": 0.0}, {"momentum": 0.9}, {"momentum_buffer"}),
    ("SGD", {}, {"lr": lambda t: 0.1 / t}, {"step"}),
]


@pytest.mark.parametrize("edits", [False, True], ids=["", "edited"])
@pytest.mark.parametrize(
    ("name", "settings", "change", "more"), CHANGES, ids=["amsgrad", "centered", "momentum", "schedule"]
)
def test_what_another_rule_keeps_is_shown_when_it_is_begun(
    name: str, settings: dict[str, Any], change: dict[str, Any], more: set[str], edits: bool
) -> None:
    params, opt = trained(name=name, **settings)
    others = parameters()
    other = core(name, others, **{"lr": 0.1, **RICH.get(name, {}), **settings})
    train(others, other, range(3))
    before = set(opt.state[params[0]])
    opt.param_groups[0].update(change)
    other.param_groups[0].update(change)
    if edits:
        opt.state[params[0]]["mine"] = 1
    train(params, opt, range(3, 5))
    train(others, other, range(3, 5))
    assert same_bits(params, others)
    assert set(opt.state[params[1]]) == before | more
    own = ours(name, parameters())
    own.load_state_dict(opt.state_dict())


def test_thousands_of_entries_are_taken_up_in_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters([(1,)] * 300)
    opt = ours("Adam", params)
    train(params, opt, [0])
    asked = []
    find = Live.addresses.fget
    monkeypatch.setattr(Live, "addresses", property(lambda self: asked.append(1) or find(self)))
    opt.load_state_dict(opt.state_dict())
    opt.step()
    assert len(asked) == 1
