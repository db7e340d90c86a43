"""NVIDIA's driver: what is there, whose context is current, which stream is meant."""
