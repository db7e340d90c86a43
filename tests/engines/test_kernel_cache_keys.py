"""What the keys of the kernel cache cover, and what becomes of entries whose digest is good and whose content is not."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import pytest
from numba.core import config
from numba.core.serialize import dumps
from numba.core.typing import signature

from gpu_adam.dtypes import FLOAT32
from gpu_adam.engines.compile import binaries, fingerprint, nvrtc
from gpu_adam.engines.compile import disk as cache
from gpu_adam.engines.compile import numba as numba_cache
from gpu_adam.kernels.specialization import Specialization
from tests.support.shipped import ADAM

pytestmark = pytest.mark.usefixtures("folder")

INT = numba.int64
TAKES = (INT, INT)


def add(a: int, b: int) -> int:
    return a + b


def subtract(a: int, b: int) -> int:
    return a - b


def kept(function: Callable[[int, int], int], name: str = "kernel", **options: Any) -> Any:
    """The function, compiled or from the disk."""
    kernel = numba.njit(**options)(function)
    numba_cache.keep_on_disk(kernel, name)
    kernel.compile(TAKES)
    return kernel


def entry_of(**options: Any) -> str:
    kernel = numba.njit(**options)(add)
    return numba_cache._DiskCache("kernel", kernel.targetoptions)._entry(TAKES, kernel.targetctx.codegen())


# ---- Every setting is part of the key


@pytest.fixture
def restored() -> Any:
    """Numba's configuration, as it was afterwards."""
    before = _of_cpu()
    yield config
    config.reload_config()
    assert _of_cpu() == before


def _of_cpu() -> dict[str, Any]:
    """All but what numba-cuda sets up when it is imported, and a reload takes back."""
    return {name: value for name, value in vars(config).items() if not name.startswith("CUDA_")}


@pytest.mark.parametrize(
    "variable",
    [
        "NUMBA_OPT=0", "NUMBA_OPT=1", "NUMBA_OPT=2", "NUMBA_OPT=max", "NUMBA_BOUNDSCHECK=1", "NUMBA_BOUNDSCHECK=0",
        "NUMBA_LOOP_VECTORIZE=0", "NUMBA_SLP_VECTORIZE=1", "NUMBA_DEBUGINFO=1", "NUMBA_CPU_NAME=nehalem", "NUMBA_CPU_NAME=generic",
        "NUMBA_CPU_FEATURES=+sse4.2", "NUMBA_CPU_FEATURES=", "NUMBA_ENABLE_AVX=0", "NUMBA_DISABLE_INTEL_SVML=1",
        "NUMBA_LLVM_REFPRUNE_PASS=0", "NUMBA_LLVM_REFPRUNE_FLAGS=per_bb", "NUMBA_EXTEND_VARIABLE_LIFETIMES=1", "NUMBA_ENABLE_PROFILING=1",
        "NUMBA_JIT_COVERAGE=1", "NUMBA_NRT_STATS=1", "NUMBA_FUNCTION_CACHE_SIZE=1", "NUMBA_OF_A_LATER_RELEASE=1",
        "LLVMLITE_ENABLE_IR_LAYER_TYPED_POINTERS=0",
    ],
)  # fmt: skip
def test_another_environment_is_another_entry(
    monkeypatch: pytest.MonkeyPatch, restored: ModuleType, variable: str
) -> None:
    usual = entry_of()
    assert entry_of() == usual
    with monkeypatch.context() as patch:
        patch.setenv(*variable.split("="))
        assert entry_of() != usual
    assert entry_of() == usual


def test_another_setting_is_another_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that Numba's configuration knows, also where a program and not the environment has set it."""
    names = {name for name in vars(config) if name.isupper() and not name.startswith("CUDA_")}
    assert len(names) > 60
    kernel = numba.njit(add)
    codegen, same = kernel.targetctx.codegen(), set()
    entry = numba_cache._DiskCache("kernel", kernel.targetoptions)._entry
    usual = entry(TAKES, codegen)
    for name in names:
        with monkeypatch.context() as patch:
            patch.setattr(config, name, "another")
            if entry(TAKES, codegen) == usual:
                same.add(name)
    assert same == {
        "NUMBA_NUM_THREADS", "NUMBA_DEFAULT_NUM_THREADS", "CACHE_DIR", "CACHE_LOCATOR_CLASSES", "GDB_BINARY", "COLOR_SCHEME",
    } & names  # fmt: skip


@pytest.mark.parametrize("variable", ["NUMBA_NUM_THREADS", "NUMBA_CACHE_DIR", "NUMBA_COLOR_SCHEME", "OMP_NUM_THREADS"])
def test_what_reaches_no_code_is_no_part_of_the_key(
    monkeypatch: pytest.MonkeyPatch, restored: ModuleType, variable: str
) -> None:
    usual = entry_of()
    with monkeypatch.context() as patch:
        patch.setenv(variable, "1")
        assert entry_of() == usual


def test_a_change_of_the_threads_that_numba_refuses_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = entry_of()

    def refuse() -> None:
        raise RuntimeError("Cannot set NUMBA_NUM_THREADS")

    monkeypatch.setattr(config, "reload_config", refuse)
    assert entry_of() == usual


@pytest.mark.parametrize(
    "options", [{"fastmath": True}, {"error_model": "numpy"}, {"boundscheck": True}, {"nogil": True}]
)
def test_other_options_are_another_entry(options: dict[str, Any]) -> None:
    assert entry_of(**options) != entry_of()


def test_other_versions_are_another_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_cache, "_origin", numba_cache._origin.__wrapped__)
    keys = {entry_of()}
    for k in range(len(numba_cache._versions())):
        changed = tuple("other" if k == j else part for j, part in enumerate(numba_cache._versions()))
        with monkeypatch.context() as patch:
            patch.setattr(numba_cache, "_versions", lambda changed=changed: changed)
            keys.add(entry_of())
    with monkeypatch.context() as patch:
        patch.setattr(numba_cache, "sources", lambda: ("other",))
        keys.add(entry_of())
    assert len(keys) == 2 + len(numba_cache._versions())


@pytest.mark.parametrize("prefix", ["NVCC_", "NVRTC_", "NVVM_", "LIBNVVM_"])
def test_what_nvrtc_is_told_is_part_of_its_key(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    from gpu_adam.kernels.specialization import UpdateKernel

    monkeypatch.setattr(nvrtc, "version", lambda: (13, 0))
    kernel = UpdateKernel(Specialization("flat", ADAM, FLOAT32, FLOAT32, False), 256, 1)
    keys = {nvrtc.key(kernel, "sm_90")}
    monkeypatch.setenv(f"{prefix}APPEND_FLAGS", "-G")
    keys.add(nvrtc.key(kernel, "sm_90"))
    monkeypatch.setattr(nvrtc, "library", lambda name: f"/elsewhere/{name}")
    keys.add(nvrtc.key(kernel, "sm_90"))
    assert len(keys) == 3


def test_what_numba_cuda_is_told_is_part_of_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba_cuda")
    from gpu_adam.engines.compile import nvvm

    module = pytest.importorskip("numba.cuda.core.config")
    usual = nvvm._settings()
    for name, other in (
        ("OPT", 0),
        ("CUDA_DEBUGINFO_DEFAULT", 1),
        ("CUDA_DEBUG_POLY", None),
        ("OF_A_LATER_RELEASE", 1),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, other, raising=False)
            assert nvvm._settings() != usual
    monkeypatch.setenv("NVVM_APPEND_FLAGS", "-opt=0")
    assert nvvm._settings() != usual


def test_a_library_that_cannot_be_found_is_no_error() -> None:
    assert fingerprint.library("no such library").startswith("no such library: ")
    assert fingerprint.file(None) == "None is not there"
    assert fingerprint.file("/no/such/file") == "/no/such/file is not there"


def test_parts_do_not_run_together() -> None:
    texts = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("ä",), ("\udcff",)]
    assert len({fingerprint.digest(parts) for parts in texts}) == len(texts)


# ---- A good digest over something else


def test_a_kernel_comes_back_without_being_compiled(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    assert kept(add).overloads[TAKES].entry_point is not None
    monkeypatch.setattr(type(numba.njit(add)._compiler), "compile", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kept(add)(2, 3) == 5
    assert len(list(folder.iterdir())) == 1


def damaged(change: Callable[[bytes, bytes], tuple[bytes, bytes]]) -> Callable[[bytes], bytes]:
    """A change of the machine code and the bitcode in an entry's content."""

    def changed(content: bytes) -> bytes:
        digest, ((name, kind, code), *rest) = pickle.loads(content)
        return dumps((digest, ((name, kind, change(*code)), *rest)))

    return changed


def of_another_signature(content: bytes) -> bytes:
    digest, parts = pickle.loads(content)
    changed = list(parts)
    changed[3] = signature(INT, INT)
    return dumps((digest, tuple(changed)))


def of_another_class(content: bytes) -> bytes:
    digest, parts = pickle.loads(content)
    changed = list(parts)
    changed[1] = "a description"
    return dumps((digest, tuple(changed)))


BAD: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda content: b"",
    "no pickle": lambda content: b"no pickle",
    "half a pickle": lambda content: content[: len(content) // 2],
    "all but a byte": lambda content: content[:-1],
    "a module that is not there": lambda content: b"cno_such_module\nthing\n.",
    "a name that is not there": lambda content: b"cnumba\nno_such_name\n.",
    "None": lambda content: pickle.dumps(None),
    "a number": lambda content: pickle.dumps(1),
    "an empty tuple": lambda content: pickle.dumps(()),
    "two things": lambda content: pickle.dumps((1, 2)),
    "nested nothing": lambda content: pickle.dumps((b"", (((), (), ((), ())), None, None, None))),
    "as it was kept before": lambda content: dumps(pickle.loads(content)[1]),
    "too few parts": lambda content: dumps((pickle.loads(content)[0], pickle.loads(content)[1][:5])),
    "too many parts": lambda content: dumps((pickle.loads(content)[0], (*pickle.loads(content)[1], 1))),
    "no machine code": damaged(lambda code, bitcode: (b"", bitcode)),
    "half the machine code": damaged(lambda code, bitcode: (code[: len(code) // 2], bitcode)),
    "other machine code": damaged(lambda code, bitcode: (code[:64] + bytes(len(code) - 64), bitcode)),
    "half the bitcode": damaged(lambda code, bitcode: (code, bitcode[: len(bitcode) // 2])),
    "another signature": of_another_signature,
    "another class": of_another_class,
}


@pytest.mark.parametrize("how", BAD)
def test_an_entry_that_is_no_kernel_is_compiled_again_and_replaced(folder: Path, how: str) -> None:
    kept(add)
    (entry,) = folder.iterdir()
    good = cache.read(entry.name)
    cache.write(entry.name, BAD[how](good))
    with pytest.warns(RuntimeWarning, match=r"cannot be used \(.*compiled again"):
        assert kept(add)(2, 3) == 5
    assert cache.read(entry.name) != BAD[how](good)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kept(add)(2, 3) == 5


def test_entries_that_are_exchanged_are_found_out(folder: Path) -> None:
    kept(add, "add"), kept(subtract, "subtract")
    one, other = sorted(folder.iterdir())
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    with pytest.warns(RuntimeWarning, match="damaged") as caught:
        assert (kept(add, "add")(5, 3), kept(subtract, "subtract")(5, 3)) == (8, 2)
    assert len(caught) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (kept(add, "add")(5, 3), kept(subtract, "subtract")(5, 3)) == (8, 2)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"{}\ncode", b"[]\ncode", b"null\ncode", b'{"symbol": "a"}\ncode', b'{"symbol": 1, "bytes": 4}\ncode',
        b'{"symbol": "a", "bytes": 3}\ncode', b'{"symbol": "a", "bytes": 0}\n', b'{"symbol": "", "bytes": 4}\ncode', b"\xff\xfe\ncode",
        b"symbol\ncode",
    ],
)  # fmt: skip
def test_an_entry_that_is_no_kernel_for_gpus_is_built_again_and_replaced(content: bytes) -> None:
    cache.write("kernel", content)
    with pytest.warns(RuntimeWarning, match="cannot be used"):
        assert binaries.kept("kernel", lambda: ("a", b"code")) == ("a", b"code")
    assert binaries.kept("kernel", lambda: pytest.fail("it is there")) == ("a", b"code")


def test_a_binary_that_holds_anything_comes_back() -> None:
    binary = bytes(range(256)) + b"\n" + os.urandom(100)
    assert binaries.kept("kernel", lambda: ("a\n", binary)) == ("a\n", binary)
    assert binaries.kept("kernel", lambda: pytest.fail("it is there")) == ("a\n", binary)
