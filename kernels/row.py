"""The words of a row of coefficients, which an update reads, and of what it is computed from: a record of settings, and a cohort's own."""

from __future__ import annotations

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
LR_ADDRESS = 9
"""The address of a number on the device that is the learning rate; 0 where `LR` is."""
LR_FORMAT = 10
"""The format of that number, as its place in ``gpu_adam.dtypes.FORMATS``."""
OWN_SETTINGS = 16
"""Where the rule's other settings begin."""

COHORT_WORDS = 6
"""Words of 8 bytes, all int64, for each cohort: parameters that share a row and a step count."""

RECORD_AT = 0
"""Where in the settings its record begins, in words; others may have the same."""
ROW = 1
"""Which of its working format's rows is computed."""
RESTS = 2
"""1 where it has no part in the step, so that it counts none and its row says to skip; else 0."""
WINDOW = 3
"""Where in the settings the first entry of its window begins, in words; 0 where there is no window."""
WINDOW_FIRST = 4
"""The step number that this entry is for."""
WINDOW_LENGTH = 5
"""Entries of the window."""


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
