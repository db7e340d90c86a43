"""Sets of features that processors have, and a program that compiles the CPU kernels for one and, where this machine has it, runs them.

``python tests/kernels/cpu_features.py`` with a job as JSON; the environment says what is compiled for, before Numba is imported.
What it prints is JSON too.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpu_adam.dtypes import FLOAT32, FLOAT64, FORMATS
from tests.kernels.cpu_conversions import wrong_conversions, wrong_fused
from tests.support.reference import DTYPES
from tests.support.rule_cases import SETTINGS
from tests.support.shipped import ADAM, AMSGRAD, OPTIMIZERS, RULES, formats_of
from tests.support.strategies import tame, values

Array = np.ndarray[Any, Any]

_V2 = {"sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16", "sahf"}
_V3 = _V2 | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@dataclass(frozen=True)
class Processor:
    """A set of features.

    Attributes:
        name: What LLVM calls it.
        features: What it has besides, and with a minus has not, as LLVM writes it.
        needs: What a machine must have to run it.
        converts, fuses: Whether it has instructions for float16 and for a fused multiply-add.
        triple: Another machine's; none to run it.
    """

    name: str
    features: str = ""
    needs: frozenset[str] = frozenset()
    converts: bool = False
    fuses: bool = False
    triple: str = ""

    def missing(self) -> set[str]:
        """What this machine lacks to run it."""
        import llvmlite.binding

        here = llvmlite.binding.get_host_cpu_features()
        return {self.triple} if self.triple else {need for need in self.needs if not here.get(need)}


PROCESSORS = {
    "x86-64-v2": Processor("x86-64-v2", needs=frozenset(_V2)),
    "nehalem": Processor("nehalem", needs=frozenset(_V2)),
    "x86-64-v3": Processor("x86-64-v3", needs=frozenset(_V3), converts=True, fuses=True),
    "x86-64-v4": Processor("x86-64-v4", needs=frozenset(_V4), converts=True, fuses=True),
    "x86-64": Processor("x86-64"),
    "x86-64-v3 without F16C and FMA": Processor("x86-64-v3", "-f16c,-fma", frozenset(_V3)),
}
"""In pairs: the long tests share the cases out to the two of one."""

ARM = "aarch64-unknown-linux-gnu"
ARMS = {
    "aarch64": Processor("generic", converts=True, fuses=True, triple=ARM),
    "aarch64 with FP16": Processor("generic", "+fullfp16,+sve", converts=True, fuses=True, triple=ARM),
    "Apple M1": Processor("apple-m1", converts=True, fuses=True, triple=ARM),
}


def ask(processor: Processor, folder: Path, seconds: float = 600.0, **job: Any) -> dict[str, Any]:
    """What a process says that compiles for the processor, with a kernel cache of its own."""
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": processor.name,
        "NUMBA_CPU_FEATURES": processor.features,
        "GPU_ADAM_CACHE_DIR": str(folder),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, __file__, json.dumps({**job, "triple": processor.triple})],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, f"{processor}: exit status {done.returncode}\n{done.stderr[-4000:]}"
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


# ---- Programs, whose bits are compared ----------------------------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "dense": {},
    "packed": {"pack": True},
    "strided": {},
    "rows": {},
    "clipped": {"max_grad_norm": 1.0},
    "averaged": {"ema_decay": 0.9},
    "packed, averaged and skipping": {"pack": True, "ema_decay": 0.9, "skip_nonfinite": True},
}


@dataclass(frozen=True)
class Case:
    """An optimizer with one of `rule_cases.SETTINGS`, formats of parameter and gradient, and a way to step."""

    optimizer: str
    settings: str
    param: str
    grad: str
    way: str


def few(clipped: bool) -> Iterator[Case]:
    """One of each family, in float16."""
    yield Case("GpuAdam", "defaults", "float16", "float16", "packed")
    yield Case("GpuAdam", "defaults", "float16", "float16", "strided")
    yield Case("GpuAdam", "defaults", "float16", "float16", "rows")
    if clipped:
        yield Case("GpuAdam", "defaults", "float32", "float32", "clipped")


def rules() -> dict[str, tuple[str, str]]:
    """For each rule an optimizer and settings that ask for it."""
    found: dict[str, tuple[str, str]] = {}
    for name, table in SETTINGS.items():
        for settings, options in table.items():
            optimizer: Any = OPTIMIZERS[name]([np.zeros(1)], **options)
            rule = optimizer.algorithm.rule_of(optimizer.param_groups[0], "")
            found.setdefault(rule.name, (name, settings))
    assert found.keys() == RULES.keys()
    return found


def every(half: int) -> list[Case]:
    """Adam in every format and way; the other rules in every second way, the other one in the other half, with another format each time."""
    names, cases = list(DTYPES), []
    for k, (rule, (optimizer, settings)) in enumerate(rules().items()):
        for w, way in enumerate(WAYS):
            if rule != ADAM.name and (k + w + half) % 2:
                continue
            for name in names if rule == ADAM.name else [names[(k // 2 + w) % len(names)]]:
                # Gradients of rows come in the working format or the parameter's, packed ones in the parameter's.
                other = names[(names.index(name) + 1 + w) % len(names)]
                cases.append(Case(optimizer, settings, name, other if way in ("dense", "strided") else name, way))
    return cases


def digest(case: Case, flush: bool = False) -> str:
    """Of all that a program leaves. With ``flush`` the calling thread flushes subnormals meanwhile, and must do so afterwards."""
    numbers = tame if case.way == "clipped" else values
    most = (3.0,) if numbers is tame else ()
    shape, dtype, grad = (23, 11), DTYPES[case.param], DTYPES[case.grad]

    def made(kind: np.dtype[Any], seed: int) -> Array:
        found = numbers(kind, shape[0] * shape[1], seed, *most).reshape(shape)
        return np.ascontiguousarray(found.T).T if case.way == "strided" and seed % 2 else found

    params = [made(dtype, 1), made(dtype, 3)]
    optimizer: Any = OPTIMIZERS[case.optimizer](params, **SETTINGS[case.optimizer][case.settings], **WAYS[case.way])
    for t in range(3):
        grads: list[Any] = [made(grad, 10 * t + 2), made(grad, 10 * t + 4)]
        if case.way == "rows":
            grads = [(np.array([4, 1, 4, 22, 1 + t]), g[:5].copy()) for g in grads]
        if flush:
            with flushing():
                optimizer.step(grads)
        else:
            optimizer.step(grads)
    found = hashlib.sha256()
    state = optimizer.state_dict()["state"]
    for array in (*optimizer.params, *(value for k in sorted(state) for _, value in sorted(state[k].items()))):
        array = np.ascontiguousarray(array).copy()
        if array.dtype.kind != "i":
            with np.errstate(invalid="ignore"):
                array[array != array] = 0  # which NaN it is, nobody promises
        found.update(array.tobytes())
    return found.hexdigest()


class flushing:  # noqa: N801
    """A block in which the thread's MXCSR flushes subnormals, as operands and as results."""

    _MXCSR = 28  # where glibc's fenv_t has it
    _FLUSH = 0x8040

    def __enter__(self) -> None:
        self._library = ctypes.PyDLL("libm.so.6")
        self._before = ctypes.create_string_buffer(256)
        self._library.fegetenv(self._before)
        changed = ctypes.create_string_buffer(self._before.raw, 256)
        (mode,) = struct.unpack_from("<I", changed, self._MXCSR)
        struct.pack_into("<I", changed, self._MXCSR, mode | self._FLUSH)
        self._library.fesetenv(changed)

    def __exit__(self, *error: object) -> None:
        after = ctypes.create_string_buffer(256)
        self._library.fegetenv(after)
        (mode,) = struct.unpack_from("<I", after, self._MXCSR)
        self._library.fesetenv(self._before)
        assert mode & self._FLUSH == self._FLUSH, "the thread's own mode must come back"


# ---- Symbols ------------------------------------------------------------------------------------------------------------------------

PROVIDED = ("Py", "_Py", "NRT_", "numba_")
"""What the names begin with that Python and Numba bring along."""


def undefined(elf: bytes) -> set[str]:
    """The symbols that an object file of 64 bits leaves to the process, but for those that Python and Numba bring."""
    assert elf[:5] == b"\x7fELF\x02"
    (sections_at,) = struct.unpack_from("<Q", elf, 0x28)
    (count,) = struct.unpack_from("<H", elf, 0x3C)
    # Type, offset, size, and the section with the names.
    sections = [struct.unpack_from("<4xI16xQQI", elf, sections_at + 64 * k) for k in range(count)]
    names = set()
    for kind, offset, size, link in sections:
        if kind != 2:  # a table of symbols
            continue
        for at in range(offset, offset + size, 24):
            name, section = struct.unpack_from("<I2xH", elf, at)
            if name and not section:
                start = sections[link][1] + name
                names.add(elf[start : elf.index(b"\0", start)].decode())
    return {name for name in names if not name.startswith(PROVIDED)}


def kernels() -> dict[str, tuple[Any, tuple[Any, ...], Any]]:
    """All kernels by name: what makes each, with which arguments, and its signature."""
    from gpu_adam.kernels.cpu import families as cpu
    from gpu_adam.kernels.cpu import measure as cpu_measure
    from gpu_adam.kernels.cpu import prologue as cpu_prologue
    from gpu_adam.kernels.cpu import sparse as cpu_rows
    from gpu_adam.kernels.specialization import Specialization

    found: dict[str, tuple[Any, tuple[Any, ...], Any]] = {
        "measure": (cpu_measure.make_measure, (), cpu_measure.MEASURE),
    }
    for values_format in FORMATS:
        for working in (FLOAT32, FLOAT64):
            name = f"coalesce_{values_format}_{working}"
            found[name] = (cpu_rows.make_coalesce, (values_format, working), cpu_rows.COALESCE)
    for rule in RULES.values():
        found[f"{rule.symbol}_finish"] = (cpu_prologue.make_finish, (rule,), cpu_prologue.FINISH)
        for family in ("flat", "multi_tensor", "strided", "rows"):
            # How formats are reached does not depend on the rule: all of them with Adam.
            formats = formats_of(RULES["sgd"] if rule is AMSGRAD else rule, family)
            for kind in (Specialization(family, rule, *each, average) for each in formats for average in (False, True)):
                found[kind.name] = (cpu.make_kernel, (kind,), cpu.signature(kind))
    return found


def compiled(names: list[str], triple: str) -> dict[str, Any]:
    """The named kernels compiled and not run, for another machine if a triple is given: symbols, and what each does to the mode."""
    import llvmlite.binding as llvm

    if triple:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        llvm.get_process_triple = lambda: triple
        llvm.Target.from_default_triple = classmethod(lambda cls: cls.from_triple(triple))
    from numba.core import codegen

    # Numba would make machine code of each and ask for its address.
    codegen.JITCodeLibrary._finalize_specific = lambda self: None
    codegen.JITCodeLibrary.get_pointer_to_function = lambda self, name: self._ensure_finalized() or 1
    codegen.JITCPUCodegen.set_env = lambda self, name, env: None
    symbols, modes = {}, {}
    everything = kernels()
    for name in names:
        make, arguments, signature = everything[name]
        kernel = make(*arguments)
        kernel.compile(signature)
        (overload,) = kernel.overloads.values()
        library = overload.library
        machine = library._codegen._tm
        symbols[name] = sorted(undefined(machine.emit_object(library._final_module)))
        lines = machine.emit_assembly(library._final_module).lower().splitlines()
        modes[name] = [sum(word in line for line in lines) for word in ("mrs\t", "msr\tfpcr", "stmxcsr", "ldmxcsr")]
    return {"symbols": symbols, "modes": modes}


def ran(cases: list[Case]) -> dict[str, Any]:
    """Programs' digests, in the thread's own mode and in one that flushes, and the symbols of the kernels that they needed."""
    from gpu_adam.engines import cpu_kernels

    symbols = {}
    kept = cpu_kernels._kept

    def remembered(kernel: Any, name: str, *rest: Any) -> Any:
        found = kept(kernel, name, *rest)
        (overload,) = found.overloads.values()
        symbols[name] = sorted(undefined(overload.library._get_compiled_object()))
        return found

    cpu_kernels._kept = remembered
    digests = [digest(case) for case in cases]
    return {"digests": digests, "flushed": [digest(case, flush=True) for case in cases], "symbols": symbols}


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked: ``"compile"`` kernels by name, ``"run"`` cases, ``"as_if"`` the processor could what it cannot."""
    answer: dict[str, Any] = {}
    if "as_if" in job:
        from gpu_adam.kernels.cpu import half as cpu_half

        for name, value in job["as_if"].items():
            setattr(cpu_half, name, lambda codegen, value=value: value)
    if "compile" in job:
        answer |= compiled(job["compile"], job["triple"])
    if "run" in job:
        answer |= ran([Case(**case) for case in job["run"]])
        answer["wrong"] = wrong_conversions() + wrong_fused()
    from numba.core.registry import cpu_target

    from gpu_adam.kernels.cpu import processor as cpu_processor

    codegen = cpu_target.target_context.codegen()
    answer |= {"converts": cpu_processor.converts_float16(codegen), "fuses": cpu_processor.fuses(codegen)}
    return answer


def as_job(cases: list[Case]) -> list[dict[str, str]]:
    """Cases for `ask`."""
    return [asdict(case) for case in cases]


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
