"""The optimizers of this package: one line registers one."""

from .kernels.adadelta import GpuAdaDelta as GpuAdaDelta
from .kernels.adagrad import GpuAdaGrad as GpuAdaGrad
from .kernels.adam import GpuAdam as GpuAdam
from .kernels.adamax import GpuAdaMax as GpuAdaMax
from .kernels.nadam import GpuNAdam as GpuNAdam
from .kernels.rmsprop import GpuRmsProp as GpuRmsProp
from .kernels.sgd import GpuSgd as GpuSgd
