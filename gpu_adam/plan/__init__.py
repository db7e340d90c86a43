"""What a step runs, as values that can be printed, compared and tested without a GPU."""
