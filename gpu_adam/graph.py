"""Where documentation names `StepGraph`."""

from .step.graph import StepGraph as StepGraph
