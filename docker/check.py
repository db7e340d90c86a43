"""``make image-check``: builds the container images without a Docker engine, runs them, and says what that cannot show.

buildah builds, in chroot isolation, over a base that debootstrap makes, in a storage of its own that is removed at the end. A command runs
as Docker would run it: with the image's entry point, user, environment and cache volume. What this machine's pip and apt are told of
indexes, mirrors, proxies and certificates goes to the builds as secrets, so that nothing of it is in an image.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from buildah import Buildah, Container, Failed
from machine import debootstrap, secrets

ROOT = Path(__file__).resolve().parent.parent
UID = "10001"
TESTS = (
    "engines/test_cpu_engine", "engines/test_kernel_cache", "engines/test_kernel_cache_kernels", "engines/test_kernel_cache_writers",
    "optim/test_bound_gradients", "optim/test_hyperparameters", "optim/test_refused_arrays", "optim/test_shown_and_copied",
    "optim/test_structures", "plan/test_launches", "plan/test_layout", "rules/test_bias_correction", "rules/test_paper_oracle",
    "rules/test_rules", "state/test_checkpoint", "step/test_clipping", "step/test_loss_scaling", "train/test_network",
    "train/test_train", "train/test_train_program",
)  # fmt: skip
"""The quick tests: a minute, without a compiler or a GPU."""

TRAIN = ("train", "--epochs", "3", "--out", "/tmp/loss.png")
STEP = "import numpy as np; from gpu_adam import GpuAdam; GpuAdam([np.ones(1000, 'f')]).step([np.ones(1000, 'f')])"
# What a first step on a GPU waits for: machine code of both languages. Neither needs a driver.
COMPILE = """
from gpu_adam.engines.compile import nvrtc, nvvm
from gpu_adam.kernels.specialization import PrologueKernel
from gpu_adam.kernels.rules.adam import ADAM
kernel = PrologueKernel(ADAM)
print(len(nvrtc.compile_kernel(kernel, 90).binary), "bytes from NVRTC,", len(nvvm.compile_kernel(kernel, (9, 0))[1]), "from NVVM")
"""
UNCHECKED = """Not checked, because it is not to be had here:
  - the NVIDIA runtime (`docker run --gpus all`, the device reservation of compose.yaml), and anything on a GPU;
  - the default base images and BuildKit; the base was {base};
  - that Docker itself runs the health check, fills a named volume from /cache and sends the stop signal: the command, the folder and the
    signal were tried by hand."""


def check_config(config: dict[str, Any], version: str) -> None:
    """What the image tells Docker."""
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    for name in ("title", "description", "licenses", "version", "revision", "source"):
        print(f"  label {name:12} {labels[name]}")
    expect("the version's label", labels["version"], version)
    expect("the user", config["User"], f"{UID}:{UID}")
    expect("the entry point", (config["Entrypoint"], config["Cmd"]), (["gpu-adam"], ["doctor"]))
    expect("the volume", list(config["Volumes"]), ["/cache"])
    expect("the stop signal", config["StopSignal"], "SIGINT")


def check_files(root: Path) -> None:
    """What must not be in the image."""
    wrong = ("nvcc", "gcc", "g++", "pip.conf", "ca.pem")
    names = [path for path in root.rglob("*") if path.name in wrong and not path.is_dir()]
    expect("compilers and secrets in the image", [f"/{path.relative_to(root)}" for path in names], [])
    for folder in ("tmp", "var/lib/apt/lists", "root/.cache", "run/secrets", "mnt"):
        found = [*(root / folder).iterdir()] if (root / folder).is_dir() else []
        expect(f"what was left in /{folder}", found, [])


def check_stop(root: Path, config: dict[str, Any]) -> None:
    """As the first process of its own PID namespace, training ends at the stop signal at once."""
    inside = ["chroot", f"--userspec={UID}:{UID}", str(root), "env", "-i", *config["Env"], *config["Entrypoint"]]
    script = 'mount --bind /dev "$1/dev" && shift && exec "$@"'
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", str(root), *inside]
    command += ["train", "--epochs", "1000000", "--out", "/tmp/loss.png"]
    # A shell in whose background this runs has the signal ignored.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=heed)
    try:
        stderr: Any = process.stderr
        os.read(stderr.fileno(), 1)  # the progress bar: training has begun
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
        sent = time.perf_counter()
        os.kill(int(child), signal.Signals[config["StopSignal"]])
        process.communicate(timeout=20)
        print(f"  stopped by {config['StopSignal']} within {time.perf_counter() - sent:.1f} s")
        expect("the exit status then", process.returncode, 130)
    finally:
        process.kill()


def expect(what: str, found: object, wanted: object) -> None:
    """A line for what is as wanted, and an error for what is not."""
    if found != wanted:
        raise Failed(f"{what}: {found!r} and not {wanted!r}")
    print(f"  ok: {what}: {found!r}")


def measure(new: Callable[[], Container], repeats: int, *command: str) -> tuple[float, float]:
    """Median seconds of a command, with an empty cache volume and with the volume of an earlier run."""
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(repeats):
        container = new()
        for seconds in (cold, warm):
            start = time.perf_counter()
            container.run(*command)
            seconds.append(time.perf_counter() - start)
        container.remove()
    return median(cold), median(warm)


def check(buildah: Buildah, target: str, image: str, version: str) -> None:
    """What the image holds, and what it does."""
    config: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]
    check_config(config, version)
    container = Container(buildah, image)
    expect("the user's number inside", container.run("id", "-u").strip(), UID)
    mounts = container.run("cut", "-d ", "-f5", "/proc/self/mountinfo").split()
    expect("there is a volume at /cache", "/cache" in mounts, True)
    with container.mounted() as root:
        check_files(root)
    print("\n  gpu-adam doctor")
    container.start(*config["Cmd"], show=True)
    print(f"\n  gpu-adam {' '.join(TRAIN)}")
    said = container.start(*TRAIN)
    print(said)
    expect("it says why it trains on the CPU", "On the CPU: " in said, True)
    print("\n  gpu-adam bench --quick")
    container.start("bench", "--quick", "--cases", "--budget", "0", "--out", "/tmp/bench", show=True)
    if target == "cpu":
        print("\n  the quick tests, of tests that can all be collected")
        container.run("pytest", "-q", "-p", "no:cacheprovider", "--collect-only", "/opt/gpu_adam/tests")
        files = [f"/opt/gpu_adam/tests/{name}.py" for name in TESTS]
        container.run("pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *files, show=True)
    else:
        print("\n  ok:", container.run("python", "-c", COMPILE).strip())
    container.run(*config["Healthcheck"]["Test"][1:])
    print("  ok: the health check's command")
    caches = container.run("find", "/cache", "-type", "f").split()
    expect("kernels were kept in the volume", any(name.startswith("/cache/gpu_adam/") for name in caches), True)
    container.remove()
    container = Container(buildah, image)
    with container.mounted() as root:
        check_stop(root, config)
    container.remove()


def report(buildah: Buildah, target: str, image: str, repeats: int) -> None:
    """Its size, and the times from start to end."""
    sizes = [*buildah.layers(image)]
    print(f"\n  {sum(size for size, _ in sizes) / 1e6:.0f} MB, not compressed, in {len(sizes)} layers:")
    for size, origin in sizes:
        told = re.sub(r"^.*/bin/sh -c |#\(nop\) |--mount=\S+ | (dir|file):\w+ in", "", " ".join(origin.split()))
        print(f"  {size / 1e6:8.1f} MB  {told}")
    commands = {
        "nothing (true)": ["true"],
        "a step on the CPU": ["python", "-c", STEP],
        "doctor": ["gpu-adam", "doctor"],
    }
    if target == "cuda":
        commands["a kernel by NVRTC and NVVM"] = ["python", "-c", COMPILE]
    print(f"\n  seconds from start to end, medians of {repeats}: cold, with the cache volume")
    for what, command in commands.items():
        cold, warm = measure(lambda: Container(buildah, image), repeats, *command)
        print(f"  {what:28}{cold:6.2f}{warm:6.2f}")


def build(buildah: Buildah, folder: Path, target: str, arguments: dict[str, str]) -> str:
    """Build a target of the Dockerfile; the image's name."""
    image = f"localhost/gpu_adam:{target}"
    print(f"\n{image}: building")
    start = time.perf_counter()
    command = ["build", "--layers", "--isolation", "chroot", "--format", "docker", "--file", "docker/Dockerfile"]
    command += ["--target", target, "--tag", image, "--timestamp", arguments["SOURCE_DATE_EPOCH"]]
    command += [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    command += [part for name, path in secrets(folder) for part in ("--secret", f"id={name},src={path}")]
    buildah(*command, ".")
    print(f"  built in {time.perf_counter() - start:.0f} s")
    return image


def main(argv: Sequence[str] | None = None) -> int:
    """Build, check, report.

    Returns:
        0 if all that was checked is as it should be, else 1.
    """
    parser = argparse.ArgumentParser("make image-check", description="Build the container images and run them.")
    parser.add_argument("--targets", nargs="+", choices=("cpu", "cuda"), default=("cpu", "cuda"), help="(both)")
    parser.add_argument("--cuda", choices=("12", "13"), default="12", help="the CUDA generation (%(default)s)")
    parser.add_argument("--base", metavar="IMAGE", help="pull this base (one is made by debootstrap)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="runs for each time (%(default)s)")
    options = parser.parse_args(argv)
    missing = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
    if missing:
        parser.error(f"needs {' and '.join(missing)}: apt-get install {' '.join(missing)}")
    if os.geteuid():
        parser.error("debootstrap and the chroot isolation need root")
    text = (ROOT / "gpu_adam/__init__.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "(.*)"', text, re.MULTILINE)
    revision, date = subprocess.check_output(["git", "log", "-1", "--format=%H %ct"], cwd=ROOT, text=True).split()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # in order with what the commands print
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it cleans up
    folder = Path(tempfile.mkdtemp(prefix="image-check-"))
    buildah = Buildah(folder)
    try:
        base = options.base or "localhost/base"
        if options.base is None:
            print("the base, by debootstrap")
            archive, release = debootstrap(folder)
            buildah.add_base(archive, base)
        arguments = {"CPU_BASE": base, "CUDA_BASE": base, "CUDA": options.cuda}
        arguments |= {"VERSION": version, "REVISION": revision, "SOURCE_DATE_EPOCH": date}
        for target in options.targets:
            image = build(buildah, folder, target, arguments)
            check(buildah, target, image, version)
            report(buildah, target, image, options.repeats)
    except Failed as failure:
        print(f"\nFAILED: {failure}", file=sys.stderr)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # cleaning up is to come to its end
        buildah("rm", "--all", ok=False)
        # Not into what is mounted, whatever that is.
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)
    print("\n" + UNCHECKED.format(base=options.base or f"debootstrap's {release}, which has no Python"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
