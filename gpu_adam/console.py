"""What all programs have in common: any terminal can show what they print, they end quietly, and they look first whether they can write."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from .errors import EnvironmentVariableError

# What takes long to import waits until it is used: a program's help needs none of it.

INTERRUPTED = 130
BROKEN_PIPE = 141
"""The shell's numbers for programs that ended by these signals."""


def run(name: str, program: Callable[[], int]) -> int:
    """Run a program.

    Args:
        name: What it is called in a message.
        program: Does the work, and returns the exit status.

    Returns:
        The exit status.
    """
    _show_everything()
    try:
        try:
            return program()
        finally:
            sys.stdout.flush()  # here, where it may fail; also after the help
    except EnvironmentVariableError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Who read has seen enough, as `head` has. Nothing may be written to it when Python ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        return BROKEN_PIPE


def check_threads() -> None:
    """Raise `EnvironmentVariableError` now if the CPU engine would: what an engine raises may pass for its own fault."""
    from .engines.threads import thread_count

    thread_count()


def check_file(path: Path, option: str) -> None:
    """Make sure that a file can be written, before the work that it is for.

    Args:
        path: The file; its folder is made.
        option: The option that names it.

    Raises:
        OSError: If it cannot.
    """
    try:
        is_folder = path.is_dir()
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        if not is_folder:
            path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise OSError(f"{option} {path} cannot be written: {error.strerror or error}") from None
    if is_folder:
        raise IsADirectoryError(f"{option} {path} is a folder: name a file in it")


def check_folder(path: Path, option: str) -> None:
    """Make sure that files can be written in a folder, which is made, as `check_file` does for one.

    Raises:
        OSError: If they cannot.
    """
    from tempfile import TemporaryFile

    try:
        path.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path).close()
    except OSError as error:
        raise OSError(f"{option} {path} cannot be written in: {error.strerror or error}") from None


def _show_everything() -> None:
    """Have a question mark printed in place of a character that the output's encoding lacks."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and sys.stdout.errors == "strict":
        reconfigure(errors="replace")
