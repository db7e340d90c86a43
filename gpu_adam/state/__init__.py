"""What an optimizer keeps of each parameter, where it lies, and how it is saved and loaded."""
