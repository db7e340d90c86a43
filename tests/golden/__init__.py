"""Golden files: what a change of the code's shape must leave as it is, byte for byte.

`record` writes them, ``tests/project/test_golden.py`` compares with them. A change that is meant to alter one is committed with its new
version.
"""
