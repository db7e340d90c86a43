"""Tests of the arrays of every library: what is one, what tells two apart, the streams that they are worked on."""
