"""From a Numba kernel to machine code: what is kept in the cache folder, what a compiler's refusal says, what the engine compiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpu_adam.dtypes import BFLOAT16, FLOAT32
from gpu_adam.kernels.specialization import Specialization
from tests.support.shipped import ADAM

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
pytest.importorskip("cuda.core", reason="cuda-core is not installed")

from gpu_adam.engines.compile import nvvm
from gpu_adam.kernels.specialization import UpdateKernel
from tests.support.ptx import HOPPER, THREADS

SMALL = Specialization("strided", ADAM, FLOAT32, FLOAT32, False)


@pytest.fixture
def compile_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`compile_kernel` past its memory, over a cache folder of its own."""
    monkeypatch.setenv("GPU_ADAM_CACHE_DIR", str(tmp_path))
    return lambda: nvvm.compile_kernel.__wrapped__(UpdateKernel(SMALL, THREADS, 1), HOPPER)


def test_a_kernel_is_compiled_once(compile_kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compile_kernel()
    monkeypatch.setattr(nvvm, "compile_ptx", None)
    assert compile_kernel() == first


def test_a_damaged_entry_is_compiled_again(compile_kernel: Any, tmp_path: Path) -> None:
    compile_kernel()
    (entry,) = tmp_path.glob("*.cubin")
    entry.write_bytes(entry.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match="damaged"):
        again = compile_kernel()
    assert compile_kernel() == again


@pytest.mark.parametrize("changed", ["_sources", "_versions"])
def test_a_change_is_another_entry(
    compile_kernel: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: str
) -> None:
    compile_kernel()
    monkeypatch.setattr(nvvm, changed, lambda: ("changed",))
    compile_kernel()
    assert len(list(tmp_path.glob("*.cubin"))) == 2


def test_another_geometry_is_another_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Entries of one specialization share their names but for the key."""
    monkeypatch.setenv("GPU_ADAM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(nvvm, "compile_ptx", lambda kernel, capability: ("symbol", repr(kernel)))
    monkeypatch.setattr(nvvm, "link", lambda ptx, capability: ptx.encode())
    usual = UpdateKernel(SMALL, THREADS, 1)
    others: list[dict[str, Any]] = [
        {"threads": 128},
        {"vectors": 2},
        {"hint": "plain"},
        {"hint": "keep_param"},
        {"persistent": True},
    ]
    kernels = [usual, *(replace(usual, **other) for other in others)]
    for _ in range(2):
        found = [nvvm.compile_kernel.__wrapped__(kernel, HOPPER) for kernel in kernels]
        assert found == [("symbol", repr(kernel).encode()) for kernel in kernels]
    assert len(list(tmp_path.glob("*.cubin"))) == len(kernels)


def test_the_compilers_log_is_shown() -> None:
    def make(fma: Any, sqrt: Any) -> Any:
        return lambda p, g, s0, s1, s2, c: fma(p, 1.0, g)

    broken = replace(SMALL, rule=replace(ADAM, make=make))
    with pytest.raises(nvvm.CompileError, match=r"(?s)adam_strided_float32_float32 for sm_90.*fma"):
        nvvm.compile_ptx(UpdateKernel(broken, THREADS, 1), HOPPER)
    with pytest.raises(nvvm.CompileError, match="could not be linked for sm_90"):
        nvvm.link(".version 8.0\n.target sm_90\nnonsense", HOPPER)


def test_the_engine_compiles_every_kind_of_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from gpu_adam.engines.cuda import numba
    from gpu_adam.kernels.specialization import CoalesceKernel, Kernel, PrologueKernel, UpdateKernel

    monkeypatch.setenv("GPU_ADAM_CACHE_DIR", str(tmp_path))
    engine = numba.NumbaEngine(numba.NumbaBinding())
    kernels: list[Kernel] = [
        UpdateKernel(SMALL, 128, 1),
        PrologueKernel(ADAM),
        CoalesceKernel(BFLOAT16, FLOAT32),
    ]
    for kernel in kernels:
        symbol, binary = engine.compiled(kernel, 90)
        assert symbol
        assert binary[:4] == b"\x7fELF"
    assert {entry.name.split("-")[0] for entry in tmp_path.glob("*.cubin")} == {
        "adam_strided_float32_float32",
        "adam_prologue",
        "coalesce_bfloat16_float32",
    }


def test_all_that_a_kernel_is_made_of_is_digested() -> None:
    import gpu_adam
    from gpu_adam import kernels

    texts = nvvm._sources()
    folder, package = Path(kernels.__file__).parent, Path(gpu_adam.__file__).parent
    for file in (*folder.rglob("*.py"), package / "dtypes.py", package / "engines" / "compile" / "nvvm.py"):
        assert file.read_text(encoding="utf-8") in texts
