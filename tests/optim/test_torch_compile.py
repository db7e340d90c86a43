"""``torch.compile`` over an optimizer's methods: the same bits as without, one clean break, nothing compiled again.

In processes of their own: what a compiler does wrong here ends the process.
"""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from gpu_adam import GpuAdam, GpuOptimizer, LossScaler
from gpu_adam.process.tracing import untraced
from gpu_adam.step.graph import StepGraph

pytest.importorskip("torch")

COMMON = """
    import sys, copy
    import torch
    import torch._dynamo.config
    from torch._dynamo.utils import counters
    import gpu_adam
    from gpu_adam import GpuAdam, GpuSgd, LossScaler
    from gpu_adam.schedules import linear
    torch._dynamo.config.fail_on_recompile_limit_hit = True

    def net(n, dtype=torch.float32):
        torch.manual_seed(n)
        return torch.nn.Sequential(torch.nn.Linear(n, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)).to(dtype)

    def same(a, b):
        return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
"""


def run(script: str) -> str:
    code = textwrap.dedent(COMMON) + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_steps_of_every_class_shape_and_option_are_those_that_are_not_compiled() -> None:
    # More classes and patterns of arguments than the compiler would compile one function for.
    out = run("""
        options = [{}, {"max_grad_norm": 0.5}, {"pack": True}, {"lr": linear(0.1, 10)}, {"skip_nonfinite": True},
                   {"ema_decay": 0.5}, {"group_norms": True, "max_grad_norm": float("inf")}]
        classes = [getattr(gpu_adam, name) for name in dir(gpu_adam) if name.startswith("Gpu") and name != "GpuOptimizer"]
        classes += [type(f"Mine{k}", (GpuAdam,), {}) for k in range(10)]
        for k, cls in enumerate(classes):
            given = {"lr": 0.1, **options[k % len(options)]}
            dtype = (torch.float32, torch.float64, torch.bfloat16)[k % 3]
            plain, compiled = net(k + 1, dtype), net(k + 1, dtype)
            a, b = cls(plain.parameters(), **given), cls(compiled.parameters(), **given)
            step = torch.compile(b.step, backend="eager")
            for t in range(3):
                for p, q in zip(plain.parameters(), compiled.parameters(), strict=True):
                    p.grad, q.grad = (torch.full_like(p, 0.1 + t + k) for _ in "ab")
                grads = [p.grad for p in plain.parameters()]
                for args, kwargs in (((), {}), ((), {"grad_scale": 2.0}), ((grads,), {}), ((grads,), {"grad_scale": 4.0})):
                    a.step(*args, **kwargs)
                    step(*args, **kwargs)
            assert same(plain, compiled), (cls, given)
        assert not counters["stats"], counters["stats"]  # there was nothing to make a graph of
        assert not counters["recompiles"] and not counters["recompile_limit"]
        print("the same")
    """)
    assert out == "the same\n"


def test_a_compiled_training_function() -> None:
    out = run("""
        def train(model, opt, scaler, x):
            opt.zero_grad()
            loss = model(x).square().sum()
            (loss if scaler is None else scaler.scale(loss)).backward()
            opt.step(grad_scale=scaler)
            return loss.detach()

        options = [{}, {"max_grad_norm": 0.1}, {"pack": True}, {"lr": linear(0.1, 10)}]
        cases = [("eager", given, scaled) for given in options for scaled in (False, True)] + [("aot_eager", options[1], True)]
        for backend, given, scaled in cases:
            torch._dynamo.reset()
            compiled = torch.compile(train, backend=backend)
            a, b = net(4), net(4)
            ours, theirs = (GpuAdam(m.parameters(), **{"lr": 0.1, **given}) for m in (a, b))
            scalers = [LossScaler(o, 4.0) if scaled else None for o in (ours, theirs)]
            for t in range(3):
                x = torch.full((5, 4), 0.5 + t)
                assert torch.equal(train(a, ours, scalers[0], x), compiled(b, theirs, scalers[1], x))
            assert same(a, b), (backend, given, scaled)
        print("the same")
    """)
    assert out == "the same\n"


def test_the_default_backend() -> None:
    out = run("""
        model = net(3)
        opt = GpuAdam(model.parameters(), lr=0.1, max_grad_norm=1.0)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        step = torch.compile(opt.step)
        before = model[0].weight.clone()
        step()
        step()
        print(not torch.equal(model[0].weight, before), int(opt.state_dict()["state"][0]["step"]))
    """)
    assert out == "True 2\n"


def test_a_step_is_one_break_and_may_be_a_subclass_s_or_a_scaler_s() -> None:
    out = run("""
        model = net(3)
        opt = GpuAdam(model.parameters(), lr=0.1)
        for p in model.parameters():
            p.grad = torch.ones_like(p)

        @torch.compile(backend="eager")
        def around_a_step(x):
            y = x * 2
            opt.step()
            return y + 1

        for _ in range(3):
            assert torch.equal(around_a_step(torch.ones(2)), torch.full((2,), 3.0))
        print(sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"])

        class Counted(GpuAdam):
            def step(self, *args, **kwargs):
                self.calls = getattr(self, "calls", 0) + 1
                return super().step(*args, **kwargs)

        a, b = net(4), net(4)
        one, other = Counted(a.parameters(), lr=0.1), Counted(b.parameters(), lr=0.1)
        step = torch.compile(other.step, backend="eager")
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            p.grad, q.grad = torch.ones_like(p), torch.ones_like(p)
        for _ in range(3):
            one.step()
            step()
        print(same(a, b), one.calls, other.calls)

        def loop(model, opt, scaler, x):
            opt.zero_grad()
            scaler.scale(model(x).sum()).backward()
            scaler.step(opt)
            scaler.update()

        a, b = net(4), net(4)
        for model, function in ((a, loop), (b, torch.compile(loop, backend="eager"))):
            opt, scaler = GpuAdam(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=16.0)
            for t in range(3):
                function(model, opt, scaler, torch.full((2, 4), 1.0 + t))
                assert not hasattr(opt, "grad_scale") and not hasattr(opt, "found_inf")
        print(same(a, b))
    """)
    assert out == "1 2\nTrue 3 3\nTrue\n"


def test_everything_else_that_a_compiled_function_may_call() -> None:
    out = run("""
        def everything(model, x):
            opt = GpuAdam([{"params": model[0].parameters()}], lr=0.1, max_grad_norm=1.0, ema_decay=0.5, group_norms=True)
            opt.add_param_group({"params": model[2].parameters(), "lr": 0.2})
            scaler = LossScaler(opt, 8.0)
            for _ in range(2):
                opt.zero_grad(set_to_none=False)
                scaler.scale(model(x).sum()).backward()
                opt.step(grad_scale=scaler)
            opt.reread_params()
            saved, scale = opt.state_dict(), scaler.state_dict()
            opt.step([torch.ones_like(p) for p in opt.params[0] + opt.params[1]])
            norms = float(opt.grad_norm), opt.group_grad_norms.tolist(), opt.steps_skipped
            opt.load_state_dict(saved)
            scaler.load_state_dict(scale)
            with opt.averaged():
                inside = [p.detach().clone() for p in model.parameters()]
            other = copy.deepcopy(opt)
            told = repr(opt), str(opt.plan), repr(scaler), scaler.get_scale(), len(opt.grads), len(other.params)
            return saved, norms, inside, told, opt.averaged_params

        def flat(tree):
            if isinstance(tree, dict):
                tree = list(tree.items())
            return [leaf for part in tree for leaf in flat(part)] if isinstance(tree, (list, tuple)) else [tree]

        a, b = net(4), net(4)
        x = torch.linspace(-1, 1, 12).reshape(3, 4)
        plain = flat(everything(a, x))
        traced = flat(torch.compile(everything, backend="eager")(b, x))
        assert len(plain) == len(traced)
        for one, other in zip(plain, traced, strict=True):
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, (one, other)
        assert same(a, b)
        print("the same")
    """)
    assert out == "the same\n"


def test_nothing_is_imported_for_it() -> None:
    code = """
        import sys, torch
        from gpu_adam import GpuAdam
        p = torch.nn.Parameter(torch.ones(2))
        p.grad = torch.ones(2)
        GpuAdam([p]).step()
        print("torch._dynamo" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (GpuOptimizer, ["__init__", "step", "zero_grad", "state_dict", "load_state_dict", "add_param_group", "graph"]),
        (GpuOptimizer, ["prepare_replay", "reread_params", "__getstate__", "__setstate__"]),
        (LossScaler, ["__init__", "get_scale", "state_dict", "load_state_dict"]),
        (StepGraph, ["replay"]),
    ],
)
def test_signatures_and_documentation_are_the_functions_own(owner: type, names: list[str]) -> None:
    for name in names:
        method = getattr(owner, name)
        assert method.__name__ == name
        home = next(kind for kind in owner.__mro__ if name in vars(kind))
        assert method.__qualname__ == f"{home.__name__}.{name}"
        assert "args" not in inspect.signature(method).parameters
        assert method.__doc__ or name.startswith("__")


def test_a_method_can_be_pickled() -> None:
    opt = GpuAdam([np.ones(2, np.float32)], lr=0.1)
    step = pickle.loads(pickle.dumps(opt.step))
    step([np.ones(2, np.float32)])
    assert step.__self__.params[0][0] < 1


def test_an_error_passes_through() -> None:
    @untraced
    def fails(value: int, *, name: str = "x") -> int:
        raise KeyError(name)

    with pytest.raises(KeyError, match="y"):
        fails(1, name="y")
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        fails()  # type: ignore[call-arg]
