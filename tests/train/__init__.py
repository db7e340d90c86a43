"""Tests of ``gpu-adam train``."""
