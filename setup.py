"""Finds the packages, packs the source distribution, and makes README fit for PyPI; all else is in pyproject.toml.

``kernels/`` lies at the top level of the checkout and ships inside the package, as ``gpu_adam.kernels``.
"""

import gzip
import os
import re
import tarfile
import time
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.sdist import sdist


class ReproducibleSdist(sdist):
    """The same bytes from the same files, wherever they lie and whenever, with ``SOURCE_DATE_EPOCH`` in the environment.

    Setuptools heeds it for the wheel, but writes the time and the modes and owners of the day into the source distribution.
    """

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        if format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        moment = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))

        def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = moment, 0, 0, "", ""
            entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            return entry

        path = f"{base_name}.tar.gz"
        with (
            gzip.GzipFile(path, "wb", mtime=moment) as packed,
            # Setuptools puts hard links into `base_dir`, which are files here. `add` goes by the order of names.
            tarfile.open(mode="w", fileobj=packed, dereference=True) as archive,
        ):
            archive.add(base_dir, filter=plain)
        return path


README = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")

setup(
    # PyPI shows it without the files beside it: their names remain of links to them.
    long_description=re.sub(r"\[([^]]+)\]\((?!https:|#)[^)]+\)", r"`\1`", README),
    long_description_content_type="text/markdown",
    cmdclass={"sdist": ReproducibleSdist},
    packages=find_packages(include=["gpu_adam", "gpu_adam.*"])
    + [f"gpu_adam.{name}" for name in find_packages(include=["kernels", "kernels.*"])],
    package_dir={"gpu_adam": "gpu_adam", "gpu_adam.kernels": "kernels"},
)
