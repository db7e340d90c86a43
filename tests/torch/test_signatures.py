"""The classes are called, and look, like PyTorch's of the same name: arguments, defaults, attributes, refusals."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
import gpu_adam.torch  # noqa: E402
from gpu_adam.torch.optimizer import Options  # noqa: E402
from tests.support.torch_classes import NAMES, core, ours, parameters, theirs, trained  # noqa: E402

every = pytest.mark.parametrize("name", NAMES)

OWN: dict[str, tuple[str, ...]] = {
    "Adam": ("bias_correction", "eps_hat"),
    "AdamW": ("bias_correction", "eps_hat"),
    "SGD": ("capturable", "decoupled_weight_decay"),
    "Adagrad": ("capturable", "decoupled_weight_decay"),
    "Adadelta": ("decoupled_weight_decay",),
    "Adamax": ("decoupled_weight_decay",),
    "RMSprop": ("decoupled_weight_decay",),
}
"""Arguments that PyTorch's class has not: options of the rule, a capturable step where PyTorch has none, AdamW's decay for every rule."""


def arguments(cls: type) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(cls.__init__).parameters)
    del found["self"]
    found.pop("options", None)
    return found


@every
def test_the_arguments_are_pytorchs_in_order_kind_and_default(name: str) -> None:
    mine, peers = arguments(getattr(gpu_adam.torch, name)), arguments(getattr(torch.optim, name))
    own = OWN.get(name, ())
    extra = [key for key in mine if key not in peers]
    assert sorted(extra) == sorted(own)
    assert all(mine[key].kind is inspect.Parameter.KEYWORD_ONLY for key in own)
    positional = [key for key, one in peers.items() if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert [key for key, one in mine.items() if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD] == positional
    for key, peer in peers.items():
        assert (mine[key].default, mine[key].kind) == (peer.default, peer.kind), key
    # Behind them the options of the package, by keyword only, whose defaults are the package's own.
    last = list(inspect.signature(getattr(gpu_adam.torch, name).__init__).parameters.values())[-1]
    assert (last.name, last.kind) == ("options", inspect.Parameter.VAR_KEYWORD)


@every
def test_the_defaults_have_pytorchs_keys_and_values(name: str) -> None:
    params = parameters()
    opt, peer = ours(name, params), theirs(name, params)
    assert {key: opt.defaults[key] for key in peer.defaults} == peer.defaults
    assert opt.param_groups == [{**opt.defaults, "params": params}]
    # And what the optimizer of the package has, by the same values.
    made = core(name, params)
    assert {key: opt.defaults[key] for key in made.defaults} == made.defaults
    assert opt.defaults.keys() == peer.defaults.keys() | made.defaults.keys() | {
        "foreach",
        "fused",
        "differentiable",
        "capturable",
    }


@every
def test_it_is_an_optimizer_of_pytorch_and_has_its_attributes(name: str) -> None:
    opt = ours(name, parameters())
    assert isinstance(opt, torch.optim.Optimizer)
    assert name in gpu_adam.torch.__all__
    assert {key for key in vars(opt) if not key.startswith("_")} == {"defaults", "state", "param_groups"}
    assert repr(opt).startswith(f"{name} (\nParameter Group 0\n")
    assert not hasattr(opt, "_step_supports_amp_scaling")
    assert not hasattr(opt, "grad_scale")
    assert not hasattr(opt, "found_inf")


def test_attributes_after_steps_are_those_of_before() -> None:
    _, opt = trained(fused=True, max_grad_norm=1.0)
    assert {key for key in vars(opt) if not key.startswith("_")} == {"defaults", "state", "param_groups"}
    assert opt._step_supports_amp_scaling
    assert opt.param_groups[0]["fused"] is True


@every
def test_the_documentation_names_every_argument(name: str) -> None:
    cls = getattr(gpu_adam.torch, name)
    args = inspect.getdoc(cls).partition("Args:")[2].partition("Example:")[0]
    named = {key.strip() for line in args.splitlines() if ":" in line for key in line.partition(":")[0].split(",")}
    assert arguments(cls).keys() <= named
    assert ">>> " in inspect.getdoc(cls)


UNKNOWN = [
    ("Adam", "weight_decy", "did you mean 'weight_decay'"),
    ("Adam", "max_norm", "did you mean 'max_grad_norm'"),
    ("SGD", "nestrov", "did you mean 'nesterov'"),
    ("AdamW", "decoupled_weight_decay", "unexpected keyword argument 'decoupled_weight_decay'"),
    ("SparseAdam", "weight_decay", "unexpected keyword argument 'weight_decay'"),
    ("SparseAdam", "foreach", "unexpected keyword argument 'foreach'"),
    ("SparseAdam", "eps_hat", "unexpected keyword argument 'eps_hat'"),
    ("RMSprop", "rho", "unexpected keyword argument 'rho'"),
    ("NAdam", "unheard_of", "use params, lr, betas"),
]


@pytest.mark.parametrize(("name", "key", "message"), UNKNOWN)
def test_unknown_arguments_are_refused_with_a_near_name(name: str, key: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ours(name, parameters(), **{key: 0.5})


VALUES = [
    ("Adam", {"lr": -1.0}, ValueError, "lr=-1.0"),
    ("Adam", {"betas": (1.0, 0.9)}, ValueError, r"betas\[0\]=1.0"),
    ("Adam", {"eps": float("nan")}, ValueError, "eps=nan"),
    ("Adam", {"amsgrad": 2}, TypeError, "amsgrad=2"),
    ("Adam", {"lr": torch.ones(2)}, ValueError, "lr of the defaults is a tensor of 2 elements"),
    ("Adam", {"lr": "1"}, TypeError, "lr='1'"),
    ("Adam", {"pack": 1}, TypeError, "pack=1"),
    ("Adam", {"engine": "fast"}, ValueError, "engine='fast'"),
    ("Adam", {"max_grad_norm": -1}, ValueError, "max_grad_norm=-1"),
    ("Adam", {"ema_decay": 1.0}, ValueError, "ema_decay=1.0"),
    ("Adam", {"ema_decay": 0.5, "polyak_average": True}, ValueError, "polyak_average"),
    ("SGD", {"nesterov": True}, ValueError, "nesterov=True with momentum=0"),
    ("RMSprop", {"alpha": 1.5}, ValueError, "alpha=1.5"),
    ("Adadelta", {"rho": -0.1}, ValueError, "rho=-0.1"),
    ("Adagrad", {"initial_accumulator_value": -1}, ValueError, "initial_accumulator_value=-1"),
    ("Adam", {"foreach": True, "fused": True}, RuntimeError, "`fused` and `foreach` cannot be `True` together"),
    *((name, {"differentiable": True}, RuntimeError, "differentiable=True") for name in NAMES[:-1]),
]


@pytest.mark.parametrize(("name", "settings", "error", "message"), VALUES)
def test_values_that_make_no_sense_are_refused(
    name: str, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ours(name, parameters(), **settings)


PARAMS: list[tuple[Any, type[Exception], str]] = [
    ([], ValueError, "empty parameter list"),
    (iter([]), ValueError, "empty parameter list"),
    (torch.ones(2), TypeError, "should be an iterable"),
    ([1.0], TypeError, "can only optimize Tensors"),
    (set(parameters()), TypeError, "params is a set: must be"),
    ([{"params": set(parameters())}], TypeError, "ordered collections"),
    ([torch.ones(2, requires_grad=True) * 2], ValueError, "non-leaf"),
    (parameters()[:1] * 2, ValueError, "group 0 has a parameter twice"),
    ([{"params": parameters(), "lr": -1.0}], ValueError, "lr=-1.0 of group 0"),
    ([{"params": parameters(), "differentiable": True}], ValueError, "differentiable=True of group 0"),
]


@pytest.mark.parametrize(("params", "error", "message"), PARAMS, ids=[message for *_, message in PARAMS])
def test_parameters_that_pytorch_refuses_are_refused(params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ours("Adam", params)


def test_a_group_that_is_refused_is_not_added() -> None:
    params, opt = trained()
    for group, error in (
        ({"params": params[:1]}, ValueError),
        ({"params": parameters(), "betas": (0.5, 1.0)}, ValueError),
        ({"params": parameters(), "lr": torch.ones(3)}, ValueError),
        ([1], TypeError),
    ):
        with pytest.raises(error):
            opt.add_param_group(group)
    assert [group["params"] for group in opt.param_groups] == [params]
    opt.step()


def test_any_keys_of_the_users_own_are_kept() -> None:
    params = parameters()
    opt = ours("Adam", [{"params": params, "lr_scale": 0.5, "name": "decoder", "momentum": 3}])
    assert (opt.param_groups[0]["lr_scale"], opt.param_groups[0]["momentum"]) == (0.5, 3)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    other = ours("Adam", parameters())
    other.load_state_dict(opt.state_dict())
    assert other.param_groups[0]["lr_scale"] == 0.5


def test_options_are_the_packages_own() -> None:
    known = inspect.signature(type(core("Adam", parameters())).__mro__[1].__init__).parameters
    assert Options.__annotations__.keys() == known.keys() - {
        "self", "params", "hyperparameters", "unknown", "decoupled_weight_decay", "maximize", "capturable",
    }  # fmt: skip
