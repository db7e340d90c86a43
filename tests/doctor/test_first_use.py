"""What a person reads first: without a driver, a GPU or a package, or with one that does not fit; each says what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpu_adam import doctor
from gpu_adam.cuda import driver
from gpu_adam.errors import EngineUnavailable
from tests.support.machines import Machine, tell

# The driver.


def test_without_a_driver(driverless: Machine) -> None:
    said = driverless.ask()
    assert said["auto"] is None
    for name in ("cupy", "numba", "array", "known"):
        kind, message = said[name]  # type: ignore[misc]
        assert kind == ("ValueError" if name == "array" else "EngineUnavailable")
        assert re.search(
            r"there is no NVIDIA driver .*: install driver (525|580) or newer .* or use engine='cpu'", message
        )


def test_in_a_container_that_was_given_no_gpu(driverless: Machine) -> None:
    message = driverless.refusal("cupy", NVIDIA_VISIBLE_DEVICES="all")
    assert "container was started without a GPU" in message
    assert "docker run --gpus all" in message


def test_a_container_is_known_by_the_hosts_kernel_module(
    driverless: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = tmp_path / "version"
    module.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: gcc 12\n"
    )
    monkeypatch.setattr(driver, "_KERNEL_MODULE", module)
    monkeypatch.setattr(driver, "_CONTAINERS", (tmp_path,))
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(EngineUnavailable, match="docker run --gpus all"):
        driver.find()
    monkeypatch.setattr(driver, "_CONTAINERS", ())
    with pytest.raises(EngineUnavailable, match=r"libcuda\.so\.1 of NVIDIA's driver 580\.65\.06 is missing"):
        driver.find()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"STUB_CUDA": 11040}, r"\(CUDA 11\.4\) is too old: update it to 525 or newer for CUDA 12, or 580"),
        ({"STUB_INIT": 100, "CUDA_VISIBLE_DEVICES": ""}, r"CUDA_VISIBLE_DEVICES='' hides every GPU: unset it"),
        ({"STUB_COUNT": 0, "CUDA_VISIBLE_DEVICES": "7"}, r"CUDA_VISIBLE_DEVICES='7' hides every GPU: unset it"),
        ({"STUB_INIT": 100}, r"finds no GPU: `nvidia-smi -L` .* `docker run --gpus all`"),
        ({"STUB_CAPABILITY": 61}, r"Stub GPU \(compute capability 6\.1\) is too old: use a GPU of .* 7\.0 or newer"),
        ({"STUB_INIT": 3}, r"forked from one that had used the GPU: .*'spawn'"),
        ({"STUB_VERSION": 34, "STUB_INIT": 34}, r"stub of a CUDA toolkit .* LD_LIBRARY_PATH"),
        ({"STUB_INIT": 803}, r"restart the machine"),
        ({"STUB_INIT": 804}, r"cuda-compat"),
        ({"STUB_INIT": 999}, r"\(CUDA 13\.0\) does not start \(CUDA_ERROR_OF_THE_STUB\): `nvidia-smi`"),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_a_driver_that_cannot_be_used(asked: pytest.MonkeyPatch, environment: dict[str, object], message: str) -> None:
    tell(asked, environment)
    with pytest.raises(EngineUnavailable, match=message):
        driver.find()


def test_without_a_gpu_arrays_on_the_host_have_an_engine(bare: Machine) -> None:
    said = bare.ask(STUB_INIT=100, CUDA_VISIBLE_DEVICES="")
    assert said["auto"] is None
    hidden = "CUDA_VISIBLE_DEVICES='' hides every GPU: unset it, or name a GPU that `nvidia-smi -L` lists"
    for name in ("cupy", "numba", "known"):
        assert said[name] == ("EngineUnavailable", hidden)
    kind, message = said["array"]  # type: ignore[misc]
    assert kind == "ValueError", "nobody knows which GPU it would lie on"
    assert message.endswith(f"parameter 0 of group 0 lives on a GPU, and no GPU can be asked about it: {hidden}")


# The program.


def test_the_doctor_says_once_why_there_is_no_gpu(bare: Machine) -> None:
    done = bare.run("-m", "gpu_adam", "doctor", STUB_INIT=100, CUDA_VISIBLE_DEVICES="-1")
    assert (done.status, done.error) == (0, "")
    assert done.out.count("CUDA_VISIBLE_DEVICES='-1' hides every GPU") == 1
    assert done.out.count("no GPU, see above") == 2
    assert done.out.endswith("can be used: cpu\n")


def test_the_doctor_names_the_gpu_and_the_driver(asked: pytest.MonkeyPatch) -> None:
    tell(asked, {"STUB_CUDA": 12040})
    report = doctor.examine(())
    assert report.machine.no_gpu is None
    assert re.search(r"GPUs +Stub GPU\n +driver .*for CUDA 12\.4\n", doctor.describe(report))


def test_training_on_an_engine_that_cannot_run_is_one_line(stub: Path) -> None:
    for module in ("tqdm", "threadpoolctl", "matplotlib", "sklearn"):
        pytest.importorskip(module)
    done = Machine(None, stub).run("-m", "gpu_adam", "train", "--engine", "numba", STUB_CUDA=11040)
    assert done.status == 1
    assert re.fullmatch(r"gpu-adam train: NVIDIA's driver .*too old: update it to 525.*\n", done.error)


# The cache folder.


def test_a_user_without_a_home_gets_no_folder_called_tilde(bare: Machine, tmp_path: Path) -> None:
    program = f"""
import os, pwd, warnings
for name in ("HOME", "XDG_CACHE_HOME", "GPU_ADAM_CACHE_DIR"):
    os.environ.pop(name, None)
def unknown(uid):
    raise KeyError(uid)
pwd.getpwuid = unknown
os.chdir({str(tmp_path)!r})
import numpy as np
from gpu_adam import GpuAdam
p = np.ones(3)
GpuAdam([p]).step([p.copy()])
print(p[0] < 1, os.listdir())
"""
    done = bare.run("-c", program)
    assert (done.status, done.out) == (0, "True []\n")
    assert done.error.count("this user has no home folder") == 1
    assert "Set GPU_ADAM_CACHE_DIR to another folder" in done.error


def test_a_full_disk_costs_a_warning(bare: Machine, tmp_path: Path) -> None:
    program = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file may grow
import numpy as np
from gpu_adam import GpuAdam
p = np.ones(3)
GpuAdam([p]).step([p.copy()])
print(p[0] < 1)
"""
    done = bare.run("-B", "-c", program, GPU_ADAM_CACHE_DIR=tmp_path / "kernels")
    assert (done.status, done.out) == (0, "True\n")
    assert "the kernel is kept in memory only" in done.error
    assert list((tmp_path / "kernels").iterdir()) == []


# A GPU that is too old beside one that is not.


def test_numbas_compilers_do_not_know_an_old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = pytest.importorskip("gpu_adam.engines.cuda.numba")
    monkeypatch.setattr(numba, "package_version", lambda name: "13.0.0")
    with pytest.raises(EngineUnavailable, match=r"CUDA 13 do not know compute capability 7\.0: pip .*\[cuda12\]"):
        numba.NumbaEngine(None).compiled(None, 70)
