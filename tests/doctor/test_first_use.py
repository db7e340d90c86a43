"""What a person reads first: without a driver, a GPU or a package, or with one that does not fit; each says what to do."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpu_adam import doctor
from gpu_adam.cuda import driver
from gpu_adam.errors import EngineUnavailable
from tests.support.machines import WITHOUT_GPU, Machine, build_driver, fake_package, packages

CUPY = """
from types import SimpleNamespace
__version__ = "14.0.0"
class CUDARuntimeError(RuntimeError): pass
runtime = SimpleNamespace(is_hip=False, runtimeGetVersion=lambda: {version}, CUDARuntimeError=CUDARuntimeError)
cuda = SimpleNamespace(runtime=runtime)
"""
"""As much of CuPy as is asked before it is used."""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver") / "lib")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, stub: Path) -> Machine:
    """No package for GPUs, and a driver."""
    return Machine(packages(tmp_path_factory.mktemp("bare") / "packages"), stub)


@pytest.fixture
def changed(tmp_path: Path, stub: Path) -> Machine:
    """The same, with a folder to install packages in."""
    return Machine(packages(tmp_path / "packages"), stub)


@pytest.fixture(scope="module")
def driverless() -> Machine:
    try:
        ctypes.CDLL(driver.LIBRARY)
    except OSError:
        return Machine(None, None)
    pytest.skip("NVIDIA's driver is installed")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, stub: Path) -> pytest.MonkeyPatch:
    """In this process too it is the stub that is asked, and no package for GPUs is there."""
    monkeypatch.setattr(driver, "LIBRARY", str(stub / "libcuda.so.1"))
    monkeypatch.setattr(driver, "_is_installed", lambda name: False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def tell(monkeypatch: pytest.MonkeyPatch, environment: dict[str, object]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))


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


# The packages.


@pytest.mark.parametrize(
    ("environment", "generation"),
    [
        ({"STUB_CUDA": 12000}, 12),
        ({"STUB_CUDA": 12080}, 12),
        ({"STUB_CUDA": 13000}, 13),
        ({"STUB_CUDA": 15000}, 13),
        ({"STUB_CUDA": 13000, "STUB_CAPABILITY": 70}, 12),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_the_packages_are_those_that_the_driver_and_the_gpu_can_run(
    asked: pytest.MonkeyPatch, environment: dict[str, object], generation: int
) -> None:
    tell(asked, environment)
    assert driver.remedy() == f"pip install 'gpu_adam[cuda{generation}]'"


@pytest.mark.parametrize(("cuda", "generation"), [("12.6", 12), ("13.0", 13), (None, 13)])
def test_torch_brings_a_generation_of_its_own(asked: pytest.MonkeyPatch, cuda: str | None, generation: int) -> None:
    asked.setitem(sys.modules, "torch", SimpleNamespace(version=SimpleNamespace(cuda=cuda)))
    assert driver.remedy() == f"pip install 'gpu_adam[cuda{generation}]'"


def test_absent_packages_are_named_with_the_remedy(bare: Machine) -> None:
    said = bare.ask(STUB_CUDA=12040)
    assert said["auto"] is None
    remedy = "pip install 'gpu_adam[cuda12]'"
    assert said["cupy"] == ("EngineUnavailable", f"CuPy is not installed (No module named 'cupy'): {remedy}")
    assert said["numba"] == ("EngineUnavailable", f"numba-cuda is not installed: {remedy}")
    kind, message = said["known"]  # type: ignore[misc]
    assert kind == "EngineUnavailable"
    assert "CuPy is not installed" in message
    assert "numba-cuda is not installed" in message


def test_a_cupy_for_a_newer_cuda_than_the_driver(changed: Machine) -> None:
    assert changed.packages
    fake_package(changed.packages, "cupy-cuda13x", "14.0.0", cupy=CUPY.format(version=13000))
    fake_package(changed.packages, "nvidia-cuda-nvrtc", "13.0.0")
    assert changed.refusal("cupy", STUB_CUDA=12020) == (
        "CuPy 14.0.0 is for CUDA 13, which NVIDIA's driver (CUDA 12.2) does not run: pip uninstall --yes cupy-cuda13x nvidia-cuda-nvrtc && "
        "pip install 'gpu_adam[cuda12]', or update the driver to 580 or newer"
    )
    message = changed.refusal("cupy", STUB_CAPABILITY=70)
    assert "is for CUDA 13, which does not support Stub GPU (compute capability 7.0): pip uninstall" in message
    assert "gpu_adam[cuda12]" in message
    assert "update the driver" not in message


def test_a_cupy_for_an_older_cuda_than_the_driver_stays(changed: Machine) -> None:
    assert changed.packages
    fake_package(changed.packages, "cupy-cuda12x", "14.0.0", cupy=CUPY.format(version=12090))
    message = changed.refusal("cupy")
    assert message.startswith("cuda.bindings is not installed, through which NVRTC compiles the kernels")
    assert message.endswith(": pip install 'gpu_adam[cuda12]'")


def test_two_cupys(changed: Machine) -> None:
    assert changed.packages
    fake_package(changed.packages, "cupy-cuda12x", "14.0.0")
    fake_package(changed.packages, "cupy-cuda13x", "14.0.0", cupy=CUPY.format(version=13000))
    program = "from gpu_adam import doctor; print(doctor.describe(doctor.examine(())))"
    assert re.search(
        r"conflict .*cupy-cuda12x and cupy-cuda13x have their files in common: "
        r"pip uninstall --yes cupy-cuda12x cupy-cuda13x && pip install 'gpu_adam\[cuda12\]'",
        changed.run("-c", program).out,
    )


def test_a_cupy_that_cannot_be_imported(changed: Machine) -> None:
    assert changed.packages
    text = (
        "try:\n    import libcu\nexcept ImportError as error:\n    raise ImportError('A page\\nof advice') from error\n"
    )
    fake_package(changed.packages, "cupy-cuda13x", "14.0.0", cupy=text)
    message = changed.refusal("cupy")
    assert message == "CuPy cannot be imported (No module named 'libcu'): pip install 'gpu_adam[cuda13]'"


def test_without_nvrtc(stub: Path) -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    pytest.importorskip("cupy")
    before = """
import cuda.pathfinder as p
load = p.load_nvidia_dynamic_lib
def without(name):
    if name in ("nvrtc", "nvJitLink"):
        raise p.DynamicLibNotFoundError(f"no lib{name}\\nanywhere")
    return load(name)
p.load_nvidia_dynamic_lib = without
"""
    said = Machine(None, stub).ask(before)
    for name, message in (("cupy", "NVRTC cannot be loaded"), ("numba", "NVVM and nvJitLink, .* cannot be loaded")):
        assert said[name] is not None
        assert said[name][0] == "EngineUnavailable"
        assert re.search(rf"^{message} \(.*\): pip .*gpu_adam\[cuda1[23]\]'$", said[name][1]), said[name]


def test_real_packages_for_a_newer_cuda(stub: Path) -> None:
    cupy = pytest.importorskip("cupy")
    pytest.importorskip("numba_cuda")
    if cupy.cuda.runtime.runtimeGetVersion() < 13000:
        pytest.skip("CuPy is for CUDA 12, which every driver that is not refused runs")
    said = Machine(None, stub).ask(STUB_CUDA=12080)
    for name in ("cupy", "numba"):
        kind, message = said[name]  # type: ignore[misc]
        assert kind == "EngineUnavailable"
        assert re.search(r"is for CUDA 13, .* \(CUDA 12\.8\) does not run: pip uninstall .*gpu_adam\[cuda12\]", message)


# numba-cuda and Numba.


def test_numba_cuda_that_does_not_fit_numpy_or_numba(stub: Path) -> None:
    pytest.importorskip("numba_cuda")
    message = Machine(None, stub).refusal("numba", "import numba.cuda, numpy; del numpy.vstack")
    assert "vstack" in message
    assert re.search(r"numba-cuda \S+, Numba \S+, NumPy \S+ and cuda-core \S+ do not fit together", message)
    assert "gpu_adam[cuda1" in message


def test_a_numpy_without_row_stack_is_lent_it_and_keeps_nothing(stub: Path) -> None:
    pytest.importorskip("numba_cuda")
    before = "import numpy; vars(numpy).pop('row_stack', None)"
    kind, message = Machine(None, stub).ask(before)["numba"]  # type: ignore[misc]
    assert (kind, "lives on cpu" in message) == ("ValueError", True), "the engine is there"


def test_numba_refuses_its_numpy(bare: Machine) -> None:
    before = "import numpy; numpy.__version__ = '99.0.0'"
    kind, message = bare.ask(before)["auto"]  # type: ignore[misc]
    assert kind == "EngineUnavailable"
    assert re.search(
        r"Numba cannot be imported .*Got NumPy 99\.0.*: pip install --upgrade gpu_adam numba", " ".join(message.split())
    )
    doctor = f"{before}\nimport sys; from gpu_adam.cli import main; sys.exit(main(['doctor']))"
    done = bare.run("-c", doctor)
    assert done.status == 1
    assert "can be used: no engine" in done.out
    assert "pip install --upgrade gpu_adam numba" in done.out


def test_without_numba(tmp_path: Path, stub: Path) -> None:
    machine = Machine(packages(tmp_path / "packages", [n for n in WITHOUT_GPU if n != "numba"]), stub)
    assert re.search("No module named 'numba'.*pip install", machine.refusal("auto"))


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
