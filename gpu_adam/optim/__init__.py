"""The optimizers of this package: one line registers one."""

from .adadelta import GpuAdaDelta as GpuAdaDelta
from .adagrad import GpuAdaGrad as GpuAdaGrad
from .adam import GpuAdam as GpuAdam
from .adamax import GpuAdaMax as GpuAdaMax
from .adamw import GpuAdamW as GpuAdamW
from .nadam import GpuNAdam as GpuNAdam
from .rmsprop import GpuRmsProp as GpuRmsProp
from .sgd import GpuSgd as GpuSgd
