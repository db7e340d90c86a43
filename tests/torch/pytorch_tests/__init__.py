"""What PyTorch tests of its own optimizers, tested of ours: the same cases, from PyTorch's own database of them."""
