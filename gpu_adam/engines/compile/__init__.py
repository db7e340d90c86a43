"""From kernels to machine code, and where it is kept."""
