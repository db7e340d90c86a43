"""What ``make image-check`` takes from the machine that it runs on: a Debian of its kind, and how it reaches packages."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries")


def debootstrap(folder: Path) -> tuple[Path, str]:
    """An archive of a minimal system of this machine's own release, from its own mirror, and the release's name."""
    system = platform.freedesktop_os_release()
    suite = system["VERSION_CODENAME"]
    told = _output(
        "apt-get",
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        f"Origin: {system['ID'].capitalize()}",
        f"Codename: {suite}",
        "Component: main",
    )
    # debootstrap takes the distribution's own where apt has a list of mirrors, as on GitHub's runners.
    mirror = [uri for uri in told.split() if uri.startswith(("http:", "https:", "file:"))][:1]
    root, archive = folder / "base", folder / "base.tar"
    # Ubuntu's python3-venv is in universe, and debootstrap passes over what a distribution does not have. In a mount namespace of its own:
    # what it mounts is gone when it ends, however it ends.
    subprocess.run(
        ["unshare", "--mount", "debootstrap", "--variant=minbase", "--components=main,universe", suite, root, *mirror],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    subprocess.run(
        ["tar", "-C", root, "--one-file-system", "--exclude=./proc/*", "--exclude=./sys/*", "-cf", archive, "."],
        check=True,
    )
    return archive, suite


def secrets(folder: Path) -> Iterator[tuple[str, Path]]:
    """The secrets that the Dockerfile knows, by their names, as far as this machine has something to tell."""
    apt = [
        line
        for line in _output("apt-config", "dump").splitlines()
        if line.startswith(("Acquire::http", "Acquire::Check"))
    ]
    yield "apt.conf", _written(folder / "apt.conf", apt)
    # Folders of this machine mean nothing in a build.
    settings = {name: value for name, value in _pip_settings() if name in PIP_SETTINGS and value}
    yield (
        "pip.conf",
        _written(folder / "pip.conf", ["[global]", *(f"{name} = {value}" for name, value in settings.items())]),
    )
    certificates = os.environ.get("PIP_CERT") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    if certificates:
        yield "ca.pem", Path(certificates)


def _pip_settings() -> Iterator[tuple[str, str]]:
    if find_spec("pip") is None:
        return
    # The environment comes first in pip's list, and goes before the files.
    for line in reversed(_output(sys.executable, "-m", "pip", "config", "list").splitlines()):
        name, _, value = line.partition("=")
        words = shlex.split(value)[0].split()
        yield name.rpartition(".")[2], " ".join(word for word in words if not word.startswith("file:"))


def _written(path: Path, lines: list[str]) -> Path:
    path.touch(mode=0o600)  # there may be passwords in it
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
