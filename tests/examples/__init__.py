"""Of the examples: a checkout has them, the source distribution has not."""
