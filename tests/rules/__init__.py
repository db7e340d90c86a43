"""Tests of the update rules: what the papers and the docstrings state, and what PyTorch computes."""
