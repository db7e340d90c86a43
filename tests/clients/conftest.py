"""No network and no progress bars."""

from __future__ import annotations

import os

# Read when the libraries are imported, which the files of tests do later.
os.environ.update(
    HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false"
)
