"""The kernels for GPUs in CUDA C++, which NVRTC compiles; their twins in ``numba_cuda/`` have the same names."""
