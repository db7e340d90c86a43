"""What an optimizer computes, seen from the host: its rules, its hyperparameters, and what is allowed of them."""
