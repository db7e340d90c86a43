"""Tests of what is around the code: the package, the documentation, the images, the workflows."""
