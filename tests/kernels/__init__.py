"""Tests of the kernels of every language: their bits, their indices, and the code that they are compiled to."""
