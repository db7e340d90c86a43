"""The optimizers of this package: one line registers one."""

from .kernels.adam import GpuAdam as GpuAdam
