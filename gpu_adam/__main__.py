"""``python -m gpu_adam`` is the program ``gpu-adam``."""

import sys

from .cli import main

sys.exit(main())
