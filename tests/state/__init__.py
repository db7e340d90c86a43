"""Tests of the state: saved, loaded, copied, sent, averaged."""
