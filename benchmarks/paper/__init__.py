"""The paper's experiments, with this project's optimizers."""
