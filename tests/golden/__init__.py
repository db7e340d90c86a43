"""Golden files: what a change of the code's shape must leave as it is, byte for byte.

`record` writes them, ``tests/project/test_golden.py`` compares with them. A change that is meant to alter one is committed with its new
version.
"""

import sys
from pathlib import Path

TESTS = str(Path(__file__).parent.parent)
if TESTS not in sys.path:
    # Where it is not pytest that imports this, whose tests find each other by their bare names.
    sys.path.insert(0, TESTS)
