"""Tests of a step: its gradients, its coefficients, and what it does where the world has changed."""
