"""Every number that the host and the kernels of all languages must agree on: rows, records, tables, control words, orders of sums.

For CUDA C++ `gpu_adam.kernels.header` writes them down; the rules' own are in the rules' files.
"""

from __future__ import annotations

from gpu_adam.dtypes import FORMATS

from .row import AVERAGE as AVERAGE
from .row import AVERAGE_DECAY as AVERAGE_DECAY
from .row import AVERAGING as AVERAGING
from .row import COHORT_WORDS as COHORT_WORDS
from .row import DECAY as DECAY
from .row import DECOUPLED as DECOUPLED
from .row import FIRST_OWN as FIRST_OWN
from .row import IS_DECOUPLED as IS_DECOUPLED
from .row import L2 as L2
from .row import LR as LR
from .row import LR_ADDRESS as LR_ADDRESS
from .row import LR_FORMAT as LR_FORMAT
from .row import MAXIMIZE as MAXIMIZE
from .row import OWN_0 as OWN_0
from .row import OWN_1 as OWN_1
from .row import OWN_SETTINGS as OWN_SETTINGS
from .row import RECORD_AT as RECORD_AT
from .row import RECORD_WORDS as RECORD_WORDS
from .row import RESTS as RESTS
from .row import ROW as ROW
from .row import ROW_WORDS as ROW_WORDS
from .row import SCALE as SCALE
from .row import SCHEDULED_WORDS as SCHEDULED_WORDS
from .row import SHRINK as SHRINK
from .row import SKIP as SKIP
from .row import WEIGHT_DECAY as WEIGHT_DECAY
from .row import WIDE as WIDE
from .row import WINDOW as WINDOW
from .row import WINDOW_FIRST as WINDOW_FIRST
from .row import WINDOW_LENGTH as WINDOW_LENGTH
from .row import own as own
from .row import own_settings as own_settings

EXPONENTIAL_AVERAGE = 1

MEAN_AVERAGE = 2
"""What `AVERAGING` may be besides 0."""

VECTOR_BYTES = 16
"""Bytes of the widest access of one thread."""

MAX_DIMS = 8
"""Dimensions that a strided walk may have once neighbouring dimensions are merged."""

WALK_WORDS = 1 + 3 * MAX_DIMS
"""Words that describe one strided walk in a table: its dimensions, then sizes, parameter strides and gradient strides."""

PROLOGUE_THREADS = 256
"""Threads of a block; as many as the sum over all slots has accumulators."""

LEAF_THREADS = 16
"""Threads that sum a leaf together: each has 8 of its accumulators, and a vector of every format fits."""

ROW_THREADS = 128
"""Threads of a block that updates rows of a sparse gradient, or sums them; a tile of it, of a power of two of threads, has a row. More
blocks of fewer threads leave fewer of a multiprocessor's registers over."""

MEASURE_WALK_WORDS = 1 + 2 * MAX_DIMS
"""Words that describe the walk of a strided gradient: its dimensions, then sizes and strides."""

STRIDED = len(FORMATS)
"""What is added to the format of a gradient whose elements do not lie one after the other."""

LEAF = 1024
"""Elements of a leaf."""

LEAF_LANES = 128
"""Accumulators of a leaf."""

SUM_LANES = 256
"""Accumulators of the sum over all slots."""

CLIP_EPS = 1e-6
"""What is added to the norm that the clip factor is divided by, as in PyTorch."""

LARGEST_SINGLE = (2.0 - 2.0**-23) * 2.0**127
"""The largest float32."""

LARGEST_DOUBLE = (2.0 - 2.0**-52) * 2.0**1023
"""The largest float64."""

WORD = 8
"""Bytes of a word, of which all that follows is made: int64 or float64."""

# The control words: what a device remembers from step to step.
TICKET = 0
"""Blocks of the running kernel that are done; 0 between kernels."""

SKIPPED = 1
"""Steps that were skipped so far."""

SKIPS = 2
"""Flag: whether the current step is skipped."""

FACTOR = 3
"""Number: the clip factor over the loss scale."""

CLIP = 4
"""Number: the clip factor of the last step that was measured."""

NORMS = 8
"""Numbers, one for each range of slots: first its sum of squares, then the norm of the unscaled gradients. The first is the norm of all."""

# The settings: a header, then cohorts, records, ranges and windows.
MAX_NORM = 0
"""Number: what the norm is clipped to; infinity to measure only."""

LOSS_SCALE = 1
"""Number: what the gradients are divided by, unless it is on the device."""

SKIP_NONFINITE = 2
"""Flag: a step is skipped whose norm is not finite, or has a square, once it is clipped, beyond the narrowest working format: a rule sums
squares in that."""

RANGES = 3
"""How many ranges of slots are summed; 0 where nothing is measured."""

RANGES_AT = 4
"""Where in the settings they lie: for each its first slot, and the slot after its last."""

COHORTS = 5
"""How many cohorts there are."""

SCALE_ADDRESS = 6

SCALE_FORMAT = 7
"""The loss scale as a number on the device, and the format's place in `gpu_adam.dtypes.FORMATS`; 0 where there is none."""

FOUND_ADDRESS = 8

FOUND_FORMAT = 9
"""A number on the device which, unless 0, says that an infinity was found; 0 where there is none."""

SCALER_ADDRESS = 10
"""The state of a `gpu_adam.LossScaler`; 0 where there is none."""

NARROW = 11
"""Flag: the narrowest working format is float32; else all are float64."""

HEADER_WORDS = 16

# The state of a loss scaler.
SCALER_SCALE = 0
"""The scale, a float32 in the word's first four bytes."""

SCALER_TRACKER = 1
"""Steps since the scale last changed."""

SCALER_GROWTH = 2

SCALER_BACKOFF = 3
"""Numbers: what the scale is multiplied by."""

SCALER_INTERVAL = 4
"""Steps without an infinity after which it grows."""

SCALER_WORDS = 8

MAX_STATES = 3
"""State arrays that a rule may keep for each parameter. The signatures of rules and of flat kernels spell so many."""

ROLES = ("param", "grad", *(f"state{k}" for k in range(MAX_STATES)), "master", "average")
"""The streams of an update, in the order of a kernel's pointers and of a table's rows."""

# The table of many tensors: rows with a word for each segment, of which these come after the pointers; then what `kernels.table` says.
BEGIN_ROW = len(ROLES)
"""The first of a segment's elements."""

END_ROW = BEGIN_ROW + 1
"""The element after its last."""

COEFFICIENTS_ROW = BEGIN_ROW + 2
"""The row of coefficients that belongs to it."""

TABLE_ROWS = BEGIN_ROW + 3

# The table of gradients that are measured: rows with a word for each of them.
POINTER_ROW = 0

SIZE_ROW = 1
"""Its elements."""

FIRST_LEAF_ROW = 2
"""The number of its first leaf among those of the table."""

SLOT_ROW = 3
"""The slot of its first leaf."""

FORMAT_ROW = 4
"""Its format's place in `gpu_adam.dtypes.FORMATS`, ``STRIDED`` more for a strided gradient."""

MEASURE_ROWS = 5

# A walk: how many dimensions, then for each of MAX_DIMS its size, then for each tensor as many strides.
WALK_SIZES = 1

WALK_STRIDES = WALK_SIZES + MAX_DIMS
"""Those of the first tensor, the parameter or the gradient that is measured; those of the next are ``MAX_DIMS`` further."""
