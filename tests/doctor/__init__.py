"""Tests of ``gpu-adam doctor``, and of what a person reads first."""
