"""The numba engine in Numba's CUDA simulator: a machine in plain Python, tensors between guards, and the cases.

`tests/kernels/test_numba_cuda_simulated.py` runs each file of cases in a process of its own.
"""
