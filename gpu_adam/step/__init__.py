"""What happens between the arguments of a step and its launches."""
