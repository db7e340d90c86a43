"""The program ``gpu-adam``, also ``python -m gpu_adam``: one subcommand a job, each imported when it is called."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from . import __version__
from .console import run
from .train.command import add_arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: The arguments, by default those of the program.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="gpu-adam", description="The Adam optimizer for every GPU array library.")
    parser.add_argument("--version", action="version", version=f"gpu_adam {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "doctor", help="say what was found here, which engines can run, and what the others lack", add_help=False
    )
    train = commands.add_parser(
        "train", help="train a small network on handwritten digits", description="Train a small network with GpuAdam."
    )
    add_arguments(train)
    commands.add_parser(
        "bench", help="measure the engines, in a container image; in a clone: make bench", add_help=False
    )

    def program() -> int:
        args, rest = parser.parse_known_args(argv)
        if rest and args.command == "train":
            train.error(f"unrecognized arguments: {' '.join(rest)}")
        if args.command == "doctor":
            return int(import_module("gpu_adam.doctor").main(rest))
        if args.command == "bench":
            return _bench(rest)
        return int(import_module("gpu_adam.train.command").main(args))

    return run("gpu-adam", program)


def _bench(argv: Sequence[str]) -> int:
    """``python -m benchmarks``, which is no part of the wheel."""
    try:
        benchmarks = import_module("benchmarks.__main__")
    except ModuleNotFoundError as error:
        if error.name not in ("benchmarks", "benchmarks.__main__"):
            raise
        print(
            "gpu-adam bench: the benchmarks are not in the wheel: take a clone, and there `make bench`, or a container image",
            file=sys.stderr,
        )
        return 1
    return int(benchmarks.main(argv))
