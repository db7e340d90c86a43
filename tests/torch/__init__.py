"""The optimizers of gpu_adam.torch, in PyTorch's own loops."""
