"""The kernels: CUDA C++ and Numba, for GPUs and for CPUs, texts of one arithmetic.

The rule of an update is one scalar function in each language (``rules/adam.py``, ``rules/adam.cuh``). Everything else here finds the
elements, loads them, calls the rule and stores what it returns.

Nothing here uses anything of the package but its dtypes.
"""
