"""What the optimizers do, in programs of some size; in a checkout only."""
