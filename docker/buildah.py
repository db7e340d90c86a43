"""buildah as the Docker engine of ``make image-check``: images and containers in a storage of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Failed(Exception):
    """A check that an image did not pass."""


class Buildah:
    """buildah with a storage of its own.

    Args:
        folder: Where the storage goes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._driver = "overlay"
        if subprocess.run(self.command("info"), capture_output=True, check=False).returncode:
            self._driver = "vfs"  # slower, and copies each layer

    def command(self, *arguments: str) -> list[str]:
        """What to call."""
        places = ("--root", str(self._folder / "root"), "--runroot", str(self._folder / "run"))
        return ["buildah", *places, "--storage-driver", self._driver, *arguments]

    def __call__(self, *arguments: str, show: bool = False, ok: bool = True) -> str:
        """Standard output; with ``show`` it goes to the screen instead, and without ``ok`` a failure is let pass."""
        pipe = None if show else subprocess.PIPE
        done = subprocess.run(self.command(*arguments), cwd=ROOT, stdout=pipe, stderr=pipe, text=True, check=False)
        if ok and done.returncode:
            said = f"{done.stdout or ''}{done.stderr or ''}"
            raise Failed(f"{' '.join(arguments)}: status {done.returncode}\n{said}")
        return done.stdout or ""

    def add_base(self, archive: Path, name: str) -> None:
        """Make an image of the files in a tar archive."""
        container = self("from", "scratch").strip()
        self("add", "--quiet", container, str(archive), "/")
        self("commit", "--quiet", "--rm", container, name)

    def layers(self, image: str) -> Iterator[tuple[int, str]]:
        """Bytes and origin of each layer."""
        told = json.loads(self("inspect", "--type", "image", image))["OCIv1"]
        known = json.loads(
            (self._folder / "root" / f"{self._driver}-layers" / "layers.json").read_text(encoding="utf-8")
        )
        sizes = {layer["diff-digest"]: layer["diff-size"] for layer in known if "diff-digest" in layer}
        origins = [step["created_by"] for step in told["history"] if not step.get("empty_layer")]
        for digest, origin in zip(told["rootfs"]["diff_ids"], origins, strict=True):
            yield sizes[digest], origin


class Container:
    """A container of an image, with its own cache volume, which is empty at first."""

    def __init__(self, buildah: Buildah, image: str) -> None:
        self._buildah = buildah
        self._name = buildah("from", "--pull-never", image).strip()
        self._entry: list[str] = json.loads(buildah("inspect", self._name))["Docker"]["config"]["Entrypoint"]

    def run(self, *command: str, show: bool = False) -> str:
        """A command in the image, in place of the entry point."""
        return self._buildah("run", "--isolation", "chroot", self._name, "--", *command, show=show)

    def start(self, *arguments: str, show: bool = False) -> str:
        """The entry point with arguments, as ``docker run IMAGE ARGUMENTS``."""
        return self.run(*self._entry, *arguments, show=show)

    def remove(self) -> None:
        """The container and its volume."""
        self._buildah("rm", self._name)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """The folder of its files."""
        yield Path(self._buildah("mount", self._name).strip())
        self._buildah("umount", self._name)
