"""The rooms of the package: each uses only what lies below it, also in imports that are late or for types alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gpu_adam
import gpu_adam.kernels
from tests.support import imports as support

PACKAGE = Path(gpu_adam.__file__).parent
KERNELS = Path(gpu_adam.kernels.__file__).parent

ROOMS = (
    ("errors", "messages", "lazy", "casting", "checks", "dtypes", "device", "strides", "schedules"),
    ("process",),
    ("kernels",),
    ("cuda",),
    ("arrays",),
    ("rules",),
    ("plan",),
    ("engines",),
    ("state",),
    ("step",),
    ("optim",),
    ("torch",),
    ("graph", "moved", "", "console"),
    ("train", "doctor"),
    ("cli",),
    ("__main__",),
)
"""From the lowest to the highest; those of one line are of the same height, and the files of a line use each other without a circle."""

HEIGHT = {room: height for height, rooms in enumerate(ROOMS) for room in rooms}


def modules() -> dict[str, tuple[Path, bool]]:
    """All modules by their names, with their files and whether they are packages."""
    found = {}
    for folder, prefix in ((PACKAGE, ("gpu_adam",)), (KERNELS, ("gpu_adam", "kernels"))):
        for file in folder.rglob("*.py"):
            parts = (*prefix, *file.relative_to(folder).with_suffix("").parts)
            is_package = parts[-1] == "__init__"
            found[".".join(parts[:-1] if is_package else parts)] = file, is_package
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """The modules of the package that a module imports anywhere in its text."""
    file, is_package = MODULES[name]
    parts = name.split(".")
    return support.imports(file, parts if is_package else parts[:-1], MODULES)


def room_of(name: str) -> str:
    return ".".join(name.split(".")[1:2])


def test_every_module_has_a_room() -> None:
    assert {room_of(name) for name in MODULES} == HEIGHT.keys()


def test_a_room_uses_what_lies_below_it() -> None:
    upwards = [
        f"{name} -> {used}"
        for name in sorted(MODULES)
        for used in imports(name)
        if HEIGHT[room_of(used)] > HEIGHT[room_of(name)] and name != "gpu_adam"
    ]
    assert upwards == []


def test_kernels_use_the_dtypes_and_nothing_else_of_the_package() -> None:
    used = {used for name in MODULES if room_of(name) == "kernels" for used in imports(name)}
    assert {room_of(name) for name in used} == {"kernels", "dtypes"}


def test_no_modules_go_in_a_circle() -> None:
    # A package that imports its own modules, as for names that stand there too, is one with them.
    below = {name: {used for used in imports(name) if not is_of(used, name)} for name in MODULES}
    left = set(below)
    while True:
        done = {name for name in left if not below[name] & left}
        if not done:
            break
        left -= done
    assert left == set()


def is_of(used: str, name: str) -> bool:
    return used == name or name.startswith(f"{used}.")
