"""Tests of the engines: how they compile, cache, bind, queue and capture."""
