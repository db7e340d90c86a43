"""What a step is to update, as the planner wants it, from parameters and gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..kernels.abi import ROLES
from ..plan.cohorts import Mode
from ..plan.planner import plan_step
from ..plan.step_plan import StepPlan
from ..plan.updates import Machine, Operand, Update
from ..rules.algorithm import Hyperparameters
from ..rules.hyperparameters import Averaging
from ..state.parameter import AVERAGE, Placed, states_of
from .gradients import Gradients


def plan_of(
    active: Sequence[Placed],
    params: Sequence[Placed],
    gradients: Gradients,
    steps: NDArray[np.int64],
    hyper: Sequence[Hyperparameters],
    averaging: Averaging,
    mode: Mode,
    may_rest: bool = False,
) -> StepPlan:
    """The plan of a step.

    Args:
        active: The parameters that the plan is made for; see `members_of`.
        params: The parameters of the optimizer; those that have a gradient have a place.
        gradients: Their gradients.
        steps: Their step counts.
        hyper: The groups' hyperparameters.
        averaging: Which average of the parameters is kept.
        mode: How the step comes to its coefficients.
        may_rest: Whether any of those that it is made for may be absent from a step.
    """
    states = states_of(params)
    numbers = {state: number for number, state in enumerate(states)}
    updates = [
        _update_of(placed, gradients.operand(placed.index), hyper[placed.group], bool(averaging), numbers[placed.state])
        for placed in active
    ]
    engines = {placed.ref.device: placed.engine for placed in active}
    machines = {device: Machine(engine.multiprocessors(device), engine.policy) for device, engine in engines.items()}
    buckets = [state.bucket for state in states]
    rules = [own.rule for own in hyper]
    return plan_step(
        updates,
        buckets,
        steps,
        mode,
        rules,
        hyper[0].algorithm.rules[0],
        machines,
        may_rest=may_rest,
        is_scheduled=not may_rest or any(own.is_scheduled for own in hyper),
    )


def members_of(
    params: Sequence[Placed], gradients: Gradients, steps: NDArray[np.int64], *, may_rest: bool
) -> list[Placed]:
    """The parameters that a plan is made for: those that have a gradient, and of a plan whose members may rest those that had one."""
    members = gradients.present
    if may_rest:
        # The state of one that has made no step is not begun yet.
        members = members | (gradients.known & (steps > 0))
    return [params[index] for index in np.flatnonzero(members).tolist()]


def _update_of(placed: Placed, operand: Operand, hyper: Hyperparameters, averages: bool, bucket: int) -> Update:
    rule = hyper.rule
    addresses = {
        "param": placed.ref.address,
        "grad": operand.address,
        "master": placed.address("master"),
        "average": placed.address(AVERAGE) if averages else 0,
        **{f"state{k}": placed.address(name) for k, name in enumerate(rule.states)},
    }
    pointers = tuple(addresses.get(role, 0) for role in ROLES)
    home = (placed.address("param"), placed.address("grad"))
    return Update(
        index=placed.index,
        label=placed.label,
        group=placed.group,
        device=placed.ref.device,
        format=placed.ref.format,
        rule=rule,
        master=placed.master,
        average=averages,
        operand=operand,
        bucket=bucket,
        segment=placed.segment,
        is_home=placed.has("param") and home == pointers[:2],
        pointers=pointers,
    )
