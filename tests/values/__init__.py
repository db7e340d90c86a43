"""Tests of the values below everything: numbers, schedules, messages."""
