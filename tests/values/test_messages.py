"""What errors say: what was given, by its own name; what is allowed; what to do; and never a million names."""

from __future__ import annotations

import copy
import doctest
import inspect
import pickle
import re
from functools import partial
from typing import Any

import numpy as np
import pytest

import gpu_adam
from gpu_adam import GpuAdam, GpuAdaMax, GpuOptimizer, GpuSgd, LossScaler, messages
from tests.support.own_rule import Lion

CLASSES = [getattr(gpu_adam, name) for name in gpu_adam.__all__ if name.startswith("Gpu") and name != "GpuOptimizer"]
OPTIONS = [
    "engine",
    "pack",
    "master_weights",
    "group_norms",
    "skip_nonfinite",
    "capturable",
    "ema_decay",
    "polyak_average",
]


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def test_examples() -> None:
    assert doctest.testmod(messages).failed == 0


# Keywords that are none.


@pytest.mark.parametrize("cls", [*CLASSES, Lion])
def test_an_unknown_keyword_is_the_class_s(cls: type[GpuOptimizer]) -> None:
    with pytest.raises(
        TypeError, match=rf"^{cls.__name__}\(\) got an unexpected keyword argument 'nonsense_x': use params, lr, "
    ):
        cls([ones(2)], nonsense_x=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'max_grad_nrm': did you mean 'max_grad_norm'"):
        cls([ones(2)], max_grad_nrm=1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'weight_decy': did you mean 'weight_decay'"):
        cls([ones(2)], weight_decy=1.0)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("cls", "given", "meant"),
    [
        (GpuAdam, "amsgrd", "amsgrad"),
        (GpuAdam, "beta", "betas"),
        (GpuSgd, "nestrov", "nesterov"),
        (GpuAdaMax, "epsilon", "eps"),
        (GpuAdam, "capturabel", "capturable"),
    ],
)
def test_the_keyword_that_was_meant(cls: Any, given: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"'{given}': did you mean '{meant}'"):
        cls([ones(2)], **{given: 1})


def test_a_subclass_with_fewer_keywords_names_its_own() -> None:
    class Mine(GpuAdam):
        def __init__(self, params: Any, **kwargs: Any) -> None:
            super().__init__(params, amsgrad=True, **kwargs)

    with pytest.raises(
        TypeError, match=r"^Mine\(\) got an unexpected keyword argument 'mximize': did you mean 'maximize'"
    ):
        Mine([ones(2)], mximize=True)
    assert Mine([ones(2)], maximize=True).param_groups[0]["amsgrad"] is True


# Attributes that are none.


@pytest.mark.parametrize("cls", [*CLASSES, Lion])
def test_a_hyperparameter_is_no_attribute(cls: Any) -> None:
    opt = cls([ones(2)])
    for key in cls.algorithm.keys:
        where = rf"^{cls.__name__} has no attribute '{key}': it is a hyperparameter: read or edit param_groups\[0\]\['{key}'\]"
        with pytest.raises(AttributeError, match=where):
            setattr(opt, key, 3)
        with pytest.raises(AttributeError, match=where):
            getattr(opt, key)
        assert not hasattr(opt, key)
        assert key not in vars(opt)


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_chosen_once_is_no_attribute(name: str) -> None:
    opt = GpuAdam([ones(2)])
    with pytest.raises(AttributeError, match=f"'{name}': it is chosen when the optimizer is made"):
        setattr(opt, name, True)
    assert not hasattr(opt, name)


def test_attributes_of_ones_own() -> None:
    class Mine(GpuAdam):
        @property
        def lr(self) -> float:
            return float(self.param_groups[0]["lr"])

    opt = Mine([ones(2)], lr=0.5)
    assert opt.lr == 0.5
    opt.comment = "mine"  # type: ignore[attr-defined]
    opt.max_grad_norm = 1.0
    for other in (copy.deepcopy(opt), copy.copy(opt)):
        assert other.lr == 0.5
    with pytest.raises(AttributeError, match="chosen"):
        opt.pack = True  # type: ignore[attr-defined]


def test_pickled_optimizers_have_none_of_them_either() -> None:
    opt = pickle.loads(pickle.dumps(GpuAdam([ones(2)])))
    with pytest.raises(AttributeError, match="param_groups"):
        opt.lr = 3


def test_signatures_name_every_keyword() -> None:
    names = set(inspect.signature(GpuOptimizer).parameters)
    assert {"params", "hyperparameters", "max_grad_norm", *OPTIONS} <= names


# What is no list of arrays.


class NoArrays:
    """Neither an array nor a collection."""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (ones(2), r"is a numpy\.ndarray: give a list of arrays, such as \[w\], or a dict"),
        (np.float32(3), r"is a numpy\.float32: give a list of arrays, such as \[w\], or a dict"),
        (3, "is an int: give a list or a dict of arrays"),
        (object(), "is an object: give a list or a dict of arrays"),
        ("abc", "is a str: give a list or a dict of arrays"),
        (b"abc", "is a bytes: give a list or a dict of arrays"),
        (NoArrays(), r"is a tests\.values\.test_messages\.NoArrays: give a list or a dict of arrays"),
        (
            lambda: 1.0,
            (
                r"is a function: give a list or a dict of arrays; a closure is not called: compute the gradients before the "
                r"step, or use gpu_adam\.torch, whose optimizers call it"
            ),
        ),
        (print, "is a builtin_function_or_method: .*; a closure is not called"),
    ],
)
def test_neither_parameters_nor_gradients(given: Any, told: str) -> None:
    with pytest.raises(TypeError, match=f"params of group 0 {told}"):
        GpuAdam(given)
    for params in ([ones(2)], {"w": ones(2)}, [{"params": [ones(2)]}], [("w", ones(2))]):
        with pytest.raises(TypeError, match=f"^grads {told}"):
            GpuAdam(params).step(given)


def test_torch_modules_tensors_and_closures() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    modules = [
        nn.Linear(2, 2),
        nn.Sequential(nn.Linear(2, 2)),
        nn.ModuleList([nn.Linear(1, 1)]),
        nn.ModuleDict({"a": nn.Linear(1, 1)}),
    ]
    modules += [nn.ReLU(), nn.ParameterDict({"a": nn.Parameter(torch.ones(1))})]
    for module in modules:
        name = type(module).__name__
        with pytest.raises(
            TypeError,
            match=rf"is a torch\.nn\.\S+\.{name}: give its parameters\(\), or dict\(its named_parameters\(\)\)",
        ):
            GpuAdam(module)
        with pytest.raises(TypeError, match=f"{name}: give its parameters"):
            GpuAdam([{"params": module}])
    with pytest.raises(TypeError, match=r"is a torch\.nn\.parameter\.Parameter: give a list of arrays, such as \[w\]"):
        GpuAdam(nn.Parameter(torch.ones(2)))
    listed = nn.ParameterList([nn.Parameter(torch.ones(2))])
    opt = GpuAdam(listed)
    with pytest.raises(TypeError, match="a closure is not called"):
        opt.step(lambda: listed[0].sum())


@pytest.mark.parametrize("cls", [GpuAdam, GpuSgd])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"closure": lambda: 1.0},
            "'closure': a closure is not called: compute the gradients before the step, or use gpu_adam.torch",
        ),
        ({"gradscale": 2.0}, "'gradscale': did you mean 'grad_scale'?"),
        ({"x": 1}, "'x': use grads, grad_scale, stream"),
    ],
)
def test_keywords_that_a_step_does_not_know(cls: Any, given: dict[str, Any], told: str) -> None:
    w = ones(2)
    opt = cls([w])
    with pytest.raises(TypeError, match=re.escape(f"{cls.__name__}.step() got an unexpected keyword argument {told}")):
        opt.step([ones(2)], **given)
    assert (w == 1).all()


@pytest.mark.parametrize("given", [[1], [ones(2)], ones(2), None, 3, "params", (("params", [ones(2)]),)])
def test_a_group_that_is_no_dict(given: Any) -> None:
    opt = GpuAdam([ones(2)])
    with pytest.raises(TypeError, match=r"the group is an? .*: must be a dict with the parameters as its 'params'"):
        opt.add_param_group(given)
    assert len(opt.param_groups) == 1


@pytest.mark.parametrize("given", [ones(2), 3, "opt", None])
def test_a_loss_scaler_of_no_optimizer(given: Any) -> None:
    with pytest.raises(TypeError, match=r"optimizer is an? \S+: must be an optimizer of gpu_adam, such as GpuAdam"):
        LossScaler(given)


# Many names, and long values.

MANY = 20_000


def short(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert len(text) < 1200, len(text)
    return text


def test_names_that_come_twice_are_found_at_once_and_some_are_told() -> None:
    array = ones(1)
    pairs = [(f"name{k // 2}", array) for k in range(2 * MANY)]
    with pytest.raises(ValueError, match=f"and {MANY - 8:,} more more than once") as error:
        GpuAdam(pairs)
    short(error)


def test_gradients_whose_names_are_others() -> None:
    opt = GpuAdam({f"p{k}": ones(1) for k in range(1000)})
    with pytest.raises(
        ValueError, match=r"lacks \['p0', .*and 992 more and has unknown \['q0', .*and 992 more"
    ) as error:
        opt.step({f"q{k}": ones(1) for k in range(1000)})
    short(error)


@pytest.mark.parametrize(
    "group",
    [
        {"betas": list(range(MANY))},
        {"betas": tuple(range(MANY))},
        {"lr": list(range(MANY))},
        {"lr": "x" * MANY},
        {"eps": {k: k for k in range(MANY)}},
        {"amsgrad": [True] * MANY},
        {"maximize": "y" * MANY},
        {f"betas{k}": k for k in range(MANY)},
        {k: k for k in range(MANY)},
    ],
)
def test_values_of_a_group(group: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        GpuAdam([{"params": [ones(1)], **group}])
    short(error)


@pytest.mark.parametrize("name", ["grad_scale", "max_grad_norm", "pack", "engine", "ema_decay"])
def test_long_arguments(name: str) -> None:
    value: Any = ["x"] * MANY
    opt = GpuAdam([ones(1)])
    act = partial(opt.step, [ones(1)]) if name == "grad_scale" else partial(GpuAdam, [ones(1)])
    with pytest.raises((TypeError, ValueError)) as error:
        act(**{name: value})
    short(error)
