"""What is said of packages for GPUs that are absent, or do not fit the driver, NumPy or Numba."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpu_adam.cuda import driver
from tests.support.machines import WITHOUT_GPU, Machine, fake_package, packages, tell

CUPY = """
from types import SimpleNamespace
__version__ = "14.0.0"
class CUDARuntimeError(RuntimeError): pass
runtime = SimpleNamespace(is_hip=False, runtimeGetVersion=lambda: {version}, CUDARuntimeError=CUDARuntimeError)
cuda = SimpleNamespace(runtime=runtime)
"""
"""As much of CuPy as is asked before it is used."""


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
