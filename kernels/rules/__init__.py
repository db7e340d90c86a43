"""The update rules of this package: one line registers one, when its file is imported."""

from ..abi import MAX_STATES as MAX_STATES
from . import adadelta as adadelta
from . import adagrad as adagrad
from . import adam as adam
from . import adamax as adamax
from . import nadam as nadam
from . import rmsprop as rmsprop
from . import sgd as sgd
from .rule import Rule as Rule
from .rule import coefficients as coefficients
from .rule import decayed as decayed
from .rule import power as power
from .rule import rule_named as rule_named
from .rule import shipped as shipped
