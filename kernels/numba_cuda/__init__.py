"""The kernels for GPUs in Python, which Numba compiles; their twins in ``cuda/`` have the same names."""
