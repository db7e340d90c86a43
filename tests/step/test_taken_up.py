"""What was done to parameters and states between two steps is taken up once, in whatever order it was done, and is not lost to an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from gpu_adam import GpuAdam
from gpu_adam.engines.cpu import CpuEngine
from gpu_adam.state.parameter import Placed

Edit = Callable[[Any], Any]


@pytest.mark.parametrize("average", [{"ema_decay": 0.9}, {"polyak_average": True}])
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("stepped", [(), (0,), (1,), (0, 1)])
def test_an_average_goes_on_after_a_load(average: dict[str, Any], pack: bool, stepped: Sequence[int]) -> None:
    def made() -> GpuAdam:
        return GpuAdam([np.ones(3, np.float32), np.ones(5, np.float32)], lr=0.1, pack=pack, **average)

    def step(opt: GpuAdam, members: Sequence[int] = (0, 1)) -> None:
        opt.step([w + k if k in members else None for k, w in enumerate(opt.params)])

    one, other = made(), made()
    if stepped:
        step(one, stepped)
    for w, v in zip(one.params, other.params, strict=True):
        v[...] = w
    other.load_state_dict(one.state_dict())
    for _ in range(3):
        step(one)
        step(other)
        for wanted, found in zip(one.averaged_params, other.averaged_params, strict=True):
            np.testing.assert_array_equal(wanted, found)


def _write(p: Any) -> None:
    p.fill_(2.0)


def _swap(p: Any) -> None:
    p.data = p.data.clone().fill_(2.0)


@pytest.mark.parametrize("edit", [_write, _swap])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("look", ["step", "state_dict", "plan", "averaged_params"])
def test_parameters_that_were_edited_and_moved_among_groups(edit: Edit, dtype: str, look: str) -> None:
    torch = pytest.importorskip("torch")
    p, q = (torch.nn.Parameter(torch.ones(n, dtype=getattr(torch, dtype))) for n in (4, 6))
    opt = GpuAdam([p, q], lr=0.0, ema_decay=0.5)
    grads = [torch.ones_like(one) for one in (p, q)]
    opt.step(grads)
    with torch.no_grad():
        edit(p)
    opt.param_groups[0]["params"].reverse()
    if look == "state_dict":
        opt.state_dict()
    elif look != "step":
        getattr(opt, look)
    opt.step(grads[::-1])
    assert (p == 2.0).all()
    assert (q == 1.0).all()


def test_a_changed_parameter_is_refused_though_it_was_moved_among_groups() -> None:
    torch = pytest.importorskip("torch")
    p, q = (torch.nn.Parameter(torch.ones(n)) for n in (4, 6))
    opt = GpuAdam([p, q], lr=0.1)
    opt.step([torch.ones(4), torch.ones(6)])
    p.data = p.data.double()
    opt.param_groups[0]["params"].reverse()
    for _ in range(2):
        with pytest.raises(ValueError, match="was float32"):
            opt.step([torch.ones(6), torch.ones(4, dtype=torch.float64)])


def test_groups_are_not_edited_while_parameters_are_their_averages() -> None:
    opt = GpuAdam([np.ones(4, np.float32), np.ones(6, np.float32)], lr=0.1, ema_decay=0.5)
    opt.step([np.ones(4, np.float32), np.ones(6, np.float32)])
    with opt.averaged():
        opt.param_groups[0]["params"].reverse()
        with pytest.raises(RuntimeError, match="leave the block"):
            opt.state_dict()
    assert len(opt.state_dict()["state"]) == 2


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_written_parameter_is_read_though_an_error_came_first(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    params = [torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16)) for _ in range(3)]
    opt = GpuAdam(params, lr=0.0)
    grads = [torch.ones_like(p) for p in params]
    opt.step(grads)
    with torch.no_grad():
        for p in params:
            p.fill_(2.0)
    reread, calls = Placed.reread_master, []

    def failing(placed: Placed) -> None:
        calls.append(placed)
        if len(calls) == 2:
            raise error
        reread(placed)

    monkeypatch.setattr(Placed, "reread_master", failing)
    with pytest.raises(error):
        opt.step(grads)
    opt.step(grads)
    assert all((p == 2.0).all() for p in params)


def test_writes_among_averages_are_gone_with_the_block_whatever_is_asked_in_it() -> None:
    torch = pytest.importorskip("torch")
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    opt = GpuAdam([p], lr=0.0, ema_decay=0.5)
    opt.step([torch.ones_like(p)])
    opt.load_state_dict(opt.state_dict())
    with opt.averaged():
        with torch.no_grad():
            p.fill_(7.0)
        print(opt.plan)
    opt.step([torch.ones_like(p)])
    assert (p == 1.0).all()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_memory_that_runs_out_for_rows_leaves_no_other_gradient_half_taken(
    order: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> tuple[list[Any], GpuAdam]:
        params: list[Any] = [np.ones(8, np.float32), np.ones((8, 2), np.float32)]
        return params, GpuAdam([params[k] for k in order], lr=0.1)

    rng = np.random.default_rng(0)
    dense = [rng.standard_normal(shape).astype(np.float32) for shape in (8, (8, 2))]
    narrow, rows = dense[0].astype(np.float16), (np.arange(3), dense[1][:3])
    (params, opt), (expected, other) = made(), made()
    opt.step([dense[k] for k in order])
    other.step([dense[k] for k in order])
    with monkeypatch.context() as patch:

        def full(*args: Any) -> Any:
            raise MemoryError

        patch.setattr(CpuEngine, "allocate", full)
        with pytest.raises(MemoryError):
            opt.step([[narrow, rows][k] for k in order])
    for each in (opt, other):
        each.step([[narrow, dense[1]][k] for k in order])
    for wanted, found in zip(expected, params, strict=True):
        np.testing.assert_array_equal(wanted, found)


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0}, {"skip_nonfinite": True}, {"capturable": True}])
def test_plain_tensors_that_were_stepped_may_have_no_gradients_later(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    p = torch.ones(3)
    p.grad = torch.ones(3)
    opt = GpuAdam([p], lr=0.1, **options)
    opt.step()
    before, p.grad = p.clone(), None
    opt.step()
    assert (p == before).all()
    p.grad = torch.ones(3)
    opt.step()
    assert opt.state_dict()["state"][0]["step"] == 2


@pytest.mark.parametrize("getter", ["state_dict", "averaged_params", "plan", "repr"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_that_were_exchanged_for_a_while_come_back_with_all_bits_of_their_masters(
    getter: str, dtype: str
) -> None:
    """As where a caller keeps an average of its own, and puts it in and out around a look at the state."""
    torch = pytest.importorskip("torch")
    p, twin = (torch.nn.Parameter(torch.linspace(-1, 1, 50).to(getattr(torch, dtype))) for _ in range(2))
    opt, other = GpuAdam([p], ema_decay=0.5), GpuAdam([twin], ema_decay=0.5)
    for one, tensor in ((opt, p), (other, twin)):
        for _ in range(3):
            tensor.grad = torch.full_like(tensor, 0.25)
            one.step()
    kept = p.detach().clone()
    with torch.no_grad():
        p.copy_(torch.full_like(p, 7.0))
    saved = opt.state_dict() if getter == "state_dict" else getattr(opt, getter, None) or repr(opt)
    if getter == "state_dict":
        assert saved["state"][0]["master"].unique().tolist() == [7.0]
    with torch.no_grad():
        p.copy_(kept)
    for one, tensor in ((opt, p), (other, twin)):
        tensor.grad = torch.full_like(tensor, 0.125)
        one.step()
    assert torch.equal(opt.state_dict()["state"][0]["master"], other.state_dict()["state"][0]["master"])
    assert torch.equal(p, twin)
