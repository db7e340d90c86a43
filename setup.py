"""Finds the packages; all else is in pyproject.toml.

``kernels/`` lies at the top level of the checkout and ships inside the package, as ``gpu_adam.kernels``.
"""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["gpu_adam", "gpu_adam.*"])
    + [f"gpu_adam.{name}" for name in find_packages(include=["kernels", "kernels.*"])],
    package_dir={"gpu_adam": "gpu_adam", "gpu_adam.kernels": "kernels"},
)
