"""The kernels for CPUs, which Numba compiles."""
