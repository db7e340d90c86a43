"""Tests of the plan: where state lies, how parameters are walked, which launches come out."""
