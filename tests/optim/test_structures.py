"""What parameters and gradients may be handed over in: lists, dicts, named pairs and groups of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from tests.optim.unchanged import ones, refused

# Structures.


def test_a_list_a_tuple_and_an_iterator_are_lists() -> None:
    for make in (list, tuple, iter):
        a, b = ones(2), ones(3)
        optimizer = GpuAdam(make((a, b)))
        assert isinstance(optimizer.params, list)
        assert optimizer.params[0] is a
        optimizer.step(make((ones(2), ones(3))))
        assert a[0] < 1
        assert b[0] < 1


def test_a_dict_goes_by_name_in_any_order() -> None:
    a, b = ones(2), ones(3)
    optimizer = GpuAdam({"a": a, "b": b})
    optimizer.step({"b": ones(3), "a": -ones(2)})
    assert optimizer.params["a"] is a
    assert a[0] > 1 > b[0]
    optimizer.step([None, ones(3)])  # a plain list is in the dict's order
    assert [state["step"] for state in optimizer.state_dict()["state"].values()] == [1, 2]


def test_named_pairs_go_by_name_too() -> None:
    a, b = ones(2), ones(2)
    optimizer = GpuAdam([("a", a), ("b", b)])
    assert [(name, array is original) for (name, array), original in zip(optimizer.params, (a, b), strict=True)] == [
        ("a", True),
        ("b", True),
    ]
    optimizer.step([("b", ones(2)), ("a", -ones(2))])
    assert a[0] > 1 > b[0]
    optimizer.step({"b": ones(2), "a": -ones(2)})
    assert a[0] > 1 > b[0]


def test_groups_have_their_own_hyperparameters() -> None:
    a, b = ones(2), ones(2)
    optimizer = GpuAdam([{"params": [a], "lr": 0.5}, {"params": {"b": b}}], lr=0.25, eps=0.0)
    optimizer.step([[ones(2)], {"b": ones(2)}])
    assert (a[0], b[0]) == (0.5, 0.75)
    assert optimizer.params[1]["b"] is b
    optimizer.step([None, ones(2)])
    assert (a[0], b[0]) == (0.5, 0.5)


@pytest.mark.parametrize(
    "grads",
    [
        {"a": ones(2), "b": -ones(2)},
        [("b", -ones(2)), ("a", ones(2))],
        [ones(2), -ones(2)],
        [{"a": ones(2)}, [-ones(2)]],
    ],
    ids=["dict", "pairs", "list", "list of structures"],
)
def test_gradients_of_named_groups_may_come_in_any_of_the_structures(grads: Any) -> None:
    a, b = ones(2), ones(2)
    GpuAdam([{"params": {"a": a}}, {"params": [("b", b)]}]).step(grads)
    assert a[0] < 1 < b[0]


def test_groups_that_share_names_need_their_gradients_apart() -> None:
    a, b = ones(2), ones(2)
    optimizer = GpuAdam([{"params": {"w": a}}, {"params": {"w": b}}])
    refused(optimizer, lambda: optimizer.step({"w": ones(2)}), ValueError, "groups share names")
    a[...] = b[...] = 1
    optimizer.step([{"w": ones(2)}, {"w": -ones(2)}])
    assert a[0] < b[0]


def test_nothing_at_all_is_refused() -> None:
    for params in ([], {}, (), iter([]), [{"params": iter([])}], [{"params": (p for p in ())}]):
        with pytest.raises(ValueError, match=r"params is empty|with nothing left in it"):
            GpuAdam(params)


def test_groups_of_nothing_are_fine() -> None:
    for params in ([{"params": []}], [{"params": []}, {"params": {}}]):
        optimizer = GpuAdam(params)
        optimizer.step()
        optimizer.zero_grad()
        assert optimizer.state_dict()["state"] == {}
        assert optimizer.plan.launches == ()
        assert "GpuAdam" in repr(optimizer)


def test_foreign_names_of_an_array_see_the_update() -> None:
    a = ones(2, 3)
    view = a.T
    GpuAdam([view]).step([ones(3, 2)])
    assert (a < 1).all()


# Groups.


def test_a_group_may_be_added_after_some_steps() -> None:
    a, b = ones(2), ones(2)
    optimizer = GpuAdam([a], lr=0.1)
    optimizer.step([ones(2)])
    optimizer.add_param_group({"params": [b], "lr": 0.5, "name": "late"})
    optimizer.step([ones(2), ones(2)])
    assert [state["step"] for state in optimizer.state_dict()["state"].values()] == [2, 1]
    assert b[0] == pytest.approx(0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    assert optimizer.param_groups[1]["params"][0] is b
    assert optimizer.state_dict()["param_groups"][1]["name"] == "late"


def test_an_optimizer_of_nothing_may_be_given_a_group() -> None:
    p = ones(2)
    optimizer = GpuAdam([{"params": []}], lr=0.25, eps=0.0)
    optimizer.add_param_group({"params": [p]})
    optimizer.step([[], [ones(2)]])
    assert p[0] == 0.75


def test_the_callers_own_groups_are_not_changed() -> None:
    groups = [{"params": [ones(2)], "lr": 0.5}]
    optimizer = GpuAdam(groups)
    optimizer.param_groups[0]["lr"] = 0.1
    assert set(groups[0]) == {"params", "lr"}
    assert groups[0]["lr"] == 0.5


def test_generators_are_read_once() -> None:
    def arrays() -> Iterator[np.ndarray]:
        yield ones(2)
        yield ones(3)

    optimizer = GpuAdam([{"params": arrays()}])
    optimizer.step(arrays())
    assert len(optimizer.param_groups[0]["params"]) == 2
