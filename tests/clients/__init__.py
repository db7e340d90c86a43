"""The optimizers of gpu_adam.torch in other people's trainers, which come with the extra `clients`; `make test-clients` runs them."""
