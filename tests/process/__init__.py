"""Tests of what a process does around a step: signals, threads, forks, its end."""
