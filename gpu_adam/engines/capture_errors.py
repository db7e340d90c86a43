"""Why a step, or a graph of one, cannot be captured, replayed or followed: each error once, whoever finds it."""

from __future__ import annotations

_FIRST = "call step() once before the capture"
_COMPILED = "the step before, which compiled it"


# A step that is being captured.


def not_capturable() -> RuntimeError:
    """Its coefficients are the host's."""
    return RuntimeError(
        "step() cannot be captured in a CUDA graph, which would repeat this step's coefficients for ever: "
        "make the optimizer with capturable=True"
    )


def nothing_compiled() -> RuntimeError:
    """No step has run yet, or the parameters are on several devices."""
    return RuntimeError(
        f"a step is captured after one has run, which compiles the kernels, and on one device only: {_FIRST}"
    )


def several_devices() -> RuntimeError:
    """The devices would wait for each other."""
    return RuntimeError("a step on several devices cannot be captured in a CUDA graph: they wait for each other")


def parameter_moved(label: str) -> RuntimeError:
    """A parameter has other memory than was compiled for."""
    return RuntimeError(f"{label} of a captured step lies elsewhere than in {_COMPILED}: {_FIRST}")


def parameter_written(label: str) -> RuntimeError:
    """A parameter's master weight must be read anew from it."""
    return RuntimeError(f"{label} was written to, and is read before it is stepped, which cannot be captured: {_FIRST}")


def parameter_thawed(label: str) -> RuntimeError:
    """A parameter trains now that did not when the others were packed."""
    return RuntimeError(f"{label} was thawed, and a captured step cannot take it in: call step() once")


def state_loaded() -> RuntimeError:
    """Parameters must be read since their state was loaded."""
    return RuntimeError(
        f"parameters whose state was loaded are read before they are stepped, which cannot be captured: {_FIRST}"
    )


def other_scaling() -> RuntimeError:
    """The gradients are scaled in another way than was compiled for."""
    return RuntimeError(
        "the gradients of a captured step are scaled otherwise than those of the step before: "
        "call step() once with the same grad_scale before the capture"
    )


def other_gradients() -> RuntimeError:
    """The gradients have other formats, strides or places than was compiled for."""
    return RuntimeError(
        f"the gradients of a captured step differ from those of {_COMPILED}: "
        "call step() once with gradients like these before the capture"
    )


def other_mode() -> RuntimeError:
    """The step does other things with the gradients' norm than was compiled for."""
    return RuntimeError(f"a captured step clips, skips or measures otherwise than {_COMPILED}: {_FIRST}")


def other_rule() -> RuntimeError:
    """The hyperparameters ask for another rule than was compiled."""
    return RuntimeError(f"the update rule of a captured step differs from that of {_COMPILED}: {_FIRST}")


def settings_sent() -> RuntimeError:
    """A graph would send the same settings again at each replay."""
    return RuntimeError("settings cannot be sent in a CUDA graph, which would repeat them for ever")


def addresses_used_up() -> RuntimeError:
    """No page-locked memory is left for what a graph sends, and none can be had in a capture."""
    return RuntimeError(
        "the gradients' addresses have changed too often among captured steps: "
        "run a step that is not captured between the captures"
    )


# A graph that was captured.


def no_graphs() -> RuntimeError:
    """The parameters are on a CPU."""
    return RuntimeError("a CPU has no CUDA graphs: call step()")


def graph_not_capturable() -> RuntimeError:
    """As `not_capturable`, of a graph that is asked for."""
    return RuntimeError("a graph needs its coefficients on the device: make the optimizer with capturable=True")


def graph_in_graph(instead: str) -> RuntimeError:
    """A graph is replayed where another one is captured; ``instead`` is what can be captured there."""
    return RuntimeError(f"a graph's replay cannot be captured in another graph: capture {instead} there")


def graph_of_other_plan() -> RuntimeError:
    """The optimizer's plan is no longer the graph's."""
    return RuntimeError("the optimizer's plan has changed since the graph was captured: make another with graph()")


def graph_of_other_rule() -> RuntimeError:
    """The optimizer's rule is no longer the graph's."""
    return RuntimeError(
        "the update rule or what its states begin with has changed, and a graph has the old one: capture step() again"
    )


def graph_of_other_parameters() -> RuntimeError:
    """The groups no longer have the graph's parameters."""
    return RuntimeError(
        "param_groups has other parameters, or in another order, than the graph that has captured a step: "
        "put them back, or make a new optimizer"
    )


def nothing_captured() -> RuntimeError:
    """There is no captured step to send anything to."""
    return RuntimeError("no step was captured: capturable=True, and a step before the capture")
