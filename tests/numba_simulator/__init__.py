"""The numba engine in Numba's CUDA simulator: a machine in plain Python, tensors between guards, and the cases.

`tests/test_numba_simulator.py` runs each file of cases in a process of its own.
"""
