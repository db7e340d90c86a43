"""The GPU engines: all but the compilers."""
