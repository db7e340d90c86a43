"""The table of what PyTorch tests of its own optimizers: where ours tests the same, and what ours leaves out or does otherwise, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Otherwise:
    """What ours does in the place of what PyTorch's database of errors says. `error=None`: it takes what PyTorch refuses."""

    error: type[Exception] | None
    message: str
    reason: str


_OWN_WORDS = "the package's own text for a number out of its range: what was given, where, and what is allowed"
_NO_CHOICE = "foreach chooses nothing, so tensors as hyperparameters go with it"
_ONE_BY_ONE = "each of the two may be a number or a tensor by itself"


def _out_of_range(given: str) -> Otherwise:
    return Otherwise(ValueError, rf"{given} of the defaults: must be ", _OWN_WORDS)


REFUSED_OTHERWISE: dict[str, Otherwise] = {
    "a param group cannot have duplicate parameters": Otherwise(
        ValueError,
        "has a parameter twice",
        "PyTorch warns of it and updates the parameter twice a step; here each element may be updated once",
    ),
    "Tensor lr must be 1-element": Otherwise(
        ValueError, "lr of the defaults is a tensor of 2 elements: must be of one", _OWN_WORDS
    ),
    "rho should be between 0 and 1": _out_of_range("rho=1.1"),
    "lr_decay must be bigger than 0": _out_of_range("lr_decay=-0.5"),
    "beta1 should be between 0 and 1": _out_of_range(r"betas\[0\]=1.0"),
    "beta2 should be between 0 and 1": _out_of_range(r"betas\[1\]=1.0"),
    "weight_decay should > 0": _out_of_range("weight_decay=-1.0"),
    "momentum_decay should > 0": _out_of_range("momentum_decay=-0.2"),
    "momentum should be between 0 and 1": _out_of_range(r"momentum=-(0.5|1.0)"),
    "lr as Tensor doesn't work with foreach & not capturable": Otherwise(None, "", _NO_CHOICE),
    r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True": Otherwise(None, "", _NO_CHOICE),
    "betas must be either both floats or both Tensors": Otherwise(None, "", _ONE_BY_ONE),
}
"""By the description that PyTorch's database gives to the input."""


@dataclass(frozen=True)
class Difference:
    """A reason, and the optimizers that it is of; `None` are all."""

    reason: str
    names: tuple[str, ...] | None = None


DIFFERENCES: dict[str, Difference] = {
    "mu_product": Difference(
        "it follows from hyperparameters and step count, so it is computed, not kept: `state_dict()` has it and `state` "
        "does not, and momenta that were changed on the way count as if they had always been so",
        ("NAdam",),
    ),
    "state from the start": Difference(
        "what a state begins with is in it from the first gradient on, so a frozen parameter has none", ("Adagrad",)
    ),
    "share_memory": Difference(
        "the state lies in the engine's memory, which no other process can be given", ("Adagrad",)
    ),
    "strided parameters": Difference(
        "a parameter with sparse gradients must lie in one piece: a step refuses others, and says so", ("SparseAdam",)
    ),
    "weight_decay": Difference(
        "the keys of Adam's groups mean here what they mean there; PyTorch's takes them for the user's own",
        ("SparseAdam",),
    ),
    "format of step": Difference(
        "a count is float32, and float64 beyond the integers that float32 holds, whatever torch's default format is"
    ),
    "format of the state": Difference(
        "moments of 16-bit parameters are float32, and stay so when they are loaded, where PyTorch rounds them"
    ),
    "sparse gradients": Difference(
        "every optimizer takes them, and moves the elements that have one, as PyTorch's SparseAdam does"
    ),
    "parameters without memory": Difference(
        "a step leaves them out as long as they have no gradient either; for one that has, it raises ValueError, RuntimeError in PyTorch"
    ),
}
"""What is otherwise beside that. Tests that compare with PyTorch's look here."""


def differs(name: str, what: str) -> bool:
    """Whether the table says that this optimizer differs from PyTorch's in this."""
    difference = DIFFERENCES.get(what)
    return difference is not None and (difference.names is None or name in difference.names)


@dataclass(frozen=True)
class LeftOut:
    """A reason."""

    reason: str


_LBFGS = LeftOut("of LBFGS, which is not among ours")
_GPU = LeftOut("needs a CUDA GPU, or several")
_BIG = LeftOut("needs 64 GB of memory and more; elements beyond 2³¹ are tested of the kernels")
_DIFFERENTIABLE = LeftOut("differentiable=True is refused: a kernel of ours leaves no graph for autograd")
_CHOICE = LeftOut("foreach and fused choose nothing: there is one implementation, without intermediates")

PYTORCHS_TESTS: dict[str, tuple[str | LeftOut, ...]] = {
    # test/test_optim.py
    "test_optim_infos_do_not_specify_global_cliquey_kwargs": (LeftOut("of the database itself"),),
    "test_errors": ("test_refusals::test_what_pytorch_refuses_is_refused",),
    "test_forloop_goes_right_direction": (
        "test_progress::test_it_moves_in_the_right_direction",
        "test_progress::test_it_moves_in_the_right_direction_with_schedulers",
    ),
    "test_forloop_goes_right_direction_multigpu": (_GPU,),
    "test_param_group_with_lrscheduler_goes_right_direction": (
        "test_progress::test_groups_with_schedulers_move_in_the_right_direction",
    ),
    "test_tensor_lr": ("test_progress::test_a_tensor_of_one_element_is_a_learning_rate",),
    "test_rosenbrock_sparse": ("test_sparse_gradients::test_one_coordinate_after_the_other",),
    "test_complex": ("test_complex::test_complex_parameters_are_pairs_of_real_ones",),
    "test_complex_2d": ("test_complex::test_complex_parameters_are_two_real_ones",),
    "test_adamw_serialization": ("test_state_dicts::test_adam_and_adamw_keep_what_they_are",),
    "test_foreach_matches_forloop": (
        "test_same_updates::test_updates_and_states_are_pytorchs",
        "test_same_updates::test_foreach_and_fused_choose_nothing",
    ),
    "test_fused_matches_forloop": ("test_same_updates::test_foreach_and_fused_choose_nothing",),
    "test_mixed_device_dtype": (_GPU,),
    "test_set_default_dtype_works_with_foreach": ("test_same_updates::test_torchs_default_format_changes_nothing",),
    "test_foreach_large_tensor": (_BIG,),
    "test_fused_large_tensor": (_BIG,),
    "test_peak_memory_foreach": (_CHOICE, "test_lifetimes::test_steps_leave_no_tensor_behind"),
    "test_fused_error_on_params_on_meta": (
        "test_same_updates::test_fused_refuses_gradients_of_parameters_without_memory",
    ),
    "test_fused_does_not_step_if_foundinf": ("test_same_updates::test_a_scalers_found_infinity_changes_nothing",),
    "test_cpu_load_state_dict": (_GPU,),
    "test_param_groups_weight_decay": ("test_progress::test_weight_decay_is_that_of_the_group",),
    "test_param_groups_lr": ("test_progress::test_the_learning_rate_is_that_of_the_group",),
    "test_step_is_noop_when_params_have_no_grad": ("test_gradients::test_without_gradients_a_step_does_nothing",),
    "test_step_is_noop_for_zero_grads": ("test_gradients::test_zero_gradients_without_decay_move_nothing",),
    "test_grads_are_never_inplaced_into": ("test_gradients::test_gradients_are_only_read",),
    "test_optimizer_can_be_printed": ("test_class::test_it_shows_itself_as_pytorchs_do",),
    "test_state_dict_deterministic": (
        "test_state_dicts::test_a_copy_that_loads_goes_on_in_step",
        "test_state_dicts::test_a_parameter_that_comes_twice_among_the_groups_has_one_number",
    ),
    "test_can_load_older_state_dict": ("test_state_dicts::test_a_state_dict_from_before_a_flag_came_is_taken",),
    "test_can_load_from_to_named_state_dict": ("test_state_dicts::test_a_copy_that_loads_goes_on_in_step",),
    "test_save_load_equality_with_weights_only": (
        "test_state_dicts::test_a_file_holds_the_state_dict_without_pickled_objects",
    ),
    "test_load_nontensor_step": ("test_state_dicts::test_a_step_that_is_a_number_is_taken",),
    "test_state_dict_with_cuda_params": (_GPU,),
    "test_state_dict_pre_hook": ("test_hooks::test_hooks_around_the_state_dict",),
    "test_state_dict_post_hook": ("test_hooks::test_hooks_around_the_state_dict",),
    "test_state_dict_pre_post_hook": ("test_hooks::test_hooks_around_the_state_dict",),
    "test_load_state_dict_pre_hook_and_prepend": ("test_hooks::test_hooks_around_loading",),
    "test_load_state_dict_post_hook": ("test_hooks::test_hooks_around_loading",),
    "test_load_state_dict_pre_post_hook": ("test_hooks::test_hooks_around_loading",),
    "test_step_post_hook": ("test_hooks::test_steps_call_the_hooks_in_order",),
    "test_step_pre_hook": ("test_hooks::test_steps_call_the_hooks_in_order",),
    "test_step_all_hooks": ("test_hooks::test_steps_call_the_hooks_in_order",),
    "test_deepcopy_copies_all_public_attrs": (
        "test_lifetimes::test_a_deep_copy_has_every_public_attribute_and_goes_on",
    ),
    "test_second_order_optims_return_consistent_types": (_LBFGS,),
    "test_fused_cpu_matches_cuda": (_GPU,),
    "test_defaults_changed_to_foreach": (_CHOICE,),
    "test_non_empty_state": ("test_state_dicts::test_every_entry_of_the_state_holds_something",),
    "test_step_iteration": (_LBFGS,),
    # test/optim
    "TestDifferentiableOptimizer": (_DIFFERENTIABLE, "test_refusals::test_differentiable_is_refused"),
    "TestLRScheduler": (
        "test_schedulers::test_it_changes_what_it_changes_of_pytorchs",
        "test_schedulers::test_it_goes_on_from_a_checkpoint",
        "test_schedulers::test_the_order_of_steps_is_watched_over",
        "test_schedulers::test_a_group_that_comes_later_is_scheduled",
        "test_lifetimes::test_an_optimizer_is_gone_with_its_scheduler_and_hooks",
        LeftOut("what a scheduler computes, and what its own constructor refuses, does not depend on the optimizer"),
    ),
    "TestSWAUtils": (
        "test_schedulers::test_an_average_of_the_model_is_taken",
        LeftOut("the averages of batch normalization are of the model, not of the optimizer"),
    ),
}
"""By PyTorch's name. What there is to say of a test is where ours is, or why there is none.

PyTorch's test files are not installed with it, as its database is: nothing tells of new tests, so look there with each new version.
"""
