"""The package's optimizers as `torch.optim.Optimizer`s, for the loops, schedulers, trainers and checkpoints of PyTorch.

Each has the signature and the defaults of PyTorch's class of the same name, and behind these the options of this package. Importing this
module imports PyTorch; `gpu_adam` itself never does.

>>> import torch
>>> from gpu_adam.torch import AdamW
>>> model = torch.nn.Linear(3, 1)
>>> opt = AdamW(model.parameters(), lr=1e-2, max_grad_norm=1.0)
>>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=10)
>>> for _ in range(10):
...     opt.zero_grad()
...     loss = model(torch.ones(3)).square().sum()
...     loss.backward()
...     opt.step()
...     scheduler.step()
>>> int(opt.state[model.weight]["step"])
10
"""

from __future__ import annotations

from .adadelta import Adadelta
from .adagrad import Adagrad
from .adam import Adam
from .adamax import Adamax
from .adamw import AdamW
from .nadam import NAdam
from .rmsprop import RMSprop
from .sgd import SGD
from .sparse_adam import SparseAdam

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RMSprop", "SparseAdam"]
