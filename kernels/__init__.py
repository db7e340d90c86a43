"""The kernels: CUDA C++ (``*.cu``, ``*.cuh``) and Numba, for GPUs and for CPUs, two texts of one arithmetic.

The rule of an update is one scalar function in each language (`adam.py`, `adam.cuh`). Everything else here finds the elements, loads
them, calls the rule and stores what it returns.
"""
