"""Tests of the optimizers as a user meets them."""
