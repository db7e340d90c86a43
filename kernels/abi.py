"""Every number that the host and the kernels of all languages must agree on: rows, records, tables, control words, orders of sums."""

from __future__ import annotations

from gpu_adam.dtypes import FORMATS

ROW_WORDS = 16
"""Numbers in a row, in the working format."""

# What every row begins with.
SCALE = 0
"""What the gradient is multiplied by, ``fl(clip factor / loss scale)``; negative to maximize."""
L2 = 1
"""1 where weight decay is added to the gradient, else 0."""
DECOUPLED = 2
"""1 where weight decay shrinks the parameter (AdamW), else 0."""
WEIGHT_DECAY = 3
"""The factor of L2 decay."""
SHRINK = 4
"""The factor of decoupled decay, ``fl(-lr * weight_decay)``."""
SKIP = 5
"""1 where the step changes nothing, else 0."""
AVERAGE = 6
"""The weight of the new parameter in the average of the parameters."""
FIRST_OWN = 7
"""Where the rule's own coefficients begin."""

RECORD_WORDS = 24
"""Words of 8 bytes in a record. Those called numbers and flags are float64, the others int64."""

# What a schedule may give as functions of the step comes first: a window's entry takes the place of these.
LR = 0
"""The learning rate, a number."""
OWN_0 = 1
"""A number of the rule's own that may follow a schedule."""
OWN_1 = 2
"""Another one."""
DECAY = 3
"""The weight decay, a number."""
SCHEDULED_WORDS = 4
"""Words of a window's entry."""

IS_DECOUPLED = 4
"""Whether decay is decoupled, a flag."""
MAXIMIZE = 5
"""Whether the gradient is followed upwards, a flag."""
AVERAGING = 6
"""Which average of the parameters is kept, a number; 0 for none, 1 for an exponential one, 2 for the plain mean."""
AVERAGE_DECAY = 7
"""The decay of the exponential average, a number."""
WIDE = 8
"""Whether the working format is float64, a flag."""
ROW = 9
"""Which of its working format's rows is computed."""
LR_ADDRESS = 10
"""The address of a number on the device that is the learning rate; 0 where `LR` is."""
LR_FORMAT = 11
"""The format of that number, as its place in ``gpu_adam.dtypes.FORMATS``."""
WINDOW = 12
"""Where in the settings the window's first entry begins, in words; 0 where there is no window."""
WINDOW_FIRST = 13
"""The step number that the window's first entry is for."""
WINDOW_LENGTH = 14
"""Entries of the window."""
OWN_SETTINGS = 16
"""Where the rule's other settings begin."""


def own(count: int) -> range:
    """The places in a row of a rule's own coefficients, in their order.

    >>> W1, W2, EPS = own(3)

    Raises:
        ValueError: If a row has no room for so many.
    """
    return _places(FIRST_OWN, count, ROW_WORDS)


def own_settings(count: int) -> range:
    """The words in a record of a rule's settings that follow no schedule, in their order.

    Raises:
        ValueError: If a record has no room for so many.
    """
    return _places(OWN_SETTINGS, count, RECORD_WORDS)


def _places(first: int, count: int, end: int) -> range:
    if count > end - first:
        raise ValueError(f"{count} places of a rule's own: there are {end - first}")
    return range(first, first + count)


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

MEASURE_WALK_WORDS = 1 + 2 * MAX_DIMS
"""Words that describe the walk of a strided gradient: its dimensions, then sizes and strides."""

STRIDED = len(FORMATS)
"""What is added to the format of a gradient whose elements do not lie one after the other."""

LEAF = 1024
"""Elements of a leaf."""

LANES = 128
"""Accumulators of a leaf."""

SUM_LANES = 256
"""Accumulators of the sum over all slots."""

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

# The settings: a header, then records, ranges and windows.
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
"""How many records there are."""

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
"""State arrays that a rule may keep for each parameter."""
