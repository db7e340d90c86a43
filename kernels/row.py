"""The words of a row of coefficients, which an update reads, and of a record of settings, which a row is computed from.

A rule of one's own takes its places among them from here; `gpu_adam.kernels.abi` says what each means.
"""

from .abi import AVERAGE as AVERAGE
from .abi import AVERAGE_DECAY as AVERAGE_DECAY
from .abi import AVERAGING as AVERAGING
from .abi import DECAY as DECAY
from .abi import DECOUPLED as DECOUPLED
from .abi import FIRST_OWN as FIRST_OWN
from .abi import IS_DECOUPLED as IS_DECOUPLED
from .abi import L2 as L2
from .abi import LR as LR
from .abi import LR_ADDRESS as LR_ADDRESS
from .abi import LR_FORMAT as LR_FORMAT
from .abi import MAXIMIZE as MAXIMIZE
from .abi import OWN_0 as OWN_0
from .abi import OWN_1 as OWN_1
from .abi import OWN_SETTINGS as OWN_SETTINGS
from .abi import RECORD_WORDS as RECORD_WORDS
from .abi import ROW as ROW
from .abi import ROW_WORDS as ROW_WORDS
from .abi import SCALE as SCALE
from .abi import SCHEDULED_WORDS as SCHEDULED_WORDS
from .abi import SHRINK as SHRINK
from .abi import SKIP as SKIP
from .abi import WEIGHT_DECAY as WEIGHT_DECAY
from .abi import WIDE as WIDE
from .abi import WINDOW as WINDOW
from .abi import WINDOW_FIRST as WINDOW_FIRST
from .abi import WINDOW_LENGTH as WINDOW_LENGTH
from .abi import own as own
from .abi import own_settings as own_settings
