"""Machine code as data: the instructions of a kernel, what each is for, and what the kernel takes of a multiprocessor."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

BYTES = 16
"""Of an instruction, since sm_70."""

_PREDICATE = re.compile(r"!?(U?P\d)")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        opcode: With its modifiers, such as ``"LDG.E.EF.128"``.
        operands: As the disassembler lists them.
        guard: The predicate that it takes effect under, such as ``"!P0"``; empty if it always does.
    """

    opcode: str
    operands: tuple[str, ...]
    guard: str = ""

    @property
    def base(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def target(self) -> int | None:
        """Where it may branch to, as the number of an instruction.

        A call of an address, and not of a name, is a branch out of a loop: on sm_80 and its like the compiler writes them so.
        """
        branches = self.base in ("BRA", "CALL") and self.operands[-1].startswith("0x")
        return int(self.operands[-1], 16) // BYTES if branches else None

    @property
    def ends_block(self) -> bool:
        """Whether another instruction than the next may follow."""
        return self.base in ("EXIT", "RET") or self.target is not None

    @property
    def conditions(self) -> tuple[str, ...]:
        """The predicates, all of which must hold for it to branch or to exit."""
        own = [word for word in self.operands if predicate_of(word)] if self.base == "BRA" else []
        return (*([self.guard] if self.guard else []), *own)

    @property
    def writes(self) -> tuple[str, ...] | None:
        """The predicates that it writes; ``None`` if that may be any.

        >>> Instruction("ISETP.GE.AND", ("P2", "PT", "R6", "UR6", "P3")).writes
        ('P2',)
        >>> Instruction("IADD3", ("R6", "P0", "PT", "R36", "0x4", "RZ")).writes
        ('P0',)
        >>> Instruction("SEL", ("R6", "R5", "R36", "P0")).writes
        ()
        """
        if self.base == "R2P":
            return None
        # Destinations come first: a register and what it carries out, or one or two predicates.
        places = self.operands[:2] if _is_predicate(self.operands[:1]) else self.operands[1:3]
        written = []
        for word in places:
            if not _is_predicate((word,)):
                break
            written.append(word)
        return tuple(word for word in written if predicate_of(word))


def predicate_of(word: str) -> str:
    """The predicate that a word stands for, negated or not; empty if it is none, or the one that is always true.

    >>> predicate_of("!UP0"), predicate_of("PT"), predicate_of("R0")
    ('UP0', '', '')
    """
    match = _PREDICATE.fullmatch(word)
    return match[1] if match else ""


def _is_predicate(words: tuple[str, ...]) -> bool:
    return bool(words) and re.fullmatch(r"U?P[T\d]", words[0]) is not None


@dataclass(frozen=True)
class Code:
    """A kernel's machine code.

    Attributes:
        instructions: In the order of their addresses; subroutines are behind the kernel itself.
        registers: Of a thread.
        stack: Bytes of local memory of a thread, which is where spilled registers go.
        shared: Bytes of shared memory of a block.
        compiler: The version of what emitted it, to the last digit.
    """

    instructions: tuple[Instruction, ...]
    registers: int
    stack: int
    shared: int
    compiler: str


KINDS = {
    "load": r"LDG\..*128.*",
    "store": r"STG\..*128.*",
    "other": r"(LDG|STG|LD|ST|ATOMG|ATOM|RED|LDL|STL|LDC|LDS|STS|SHFL|MEMBAR|ERRBAR|CCTL|CGAERRBAR)\b.*",
    "fp32": r"(FFMA|FMUL|FADD)\d?\b.*",
    "fp64": r"D(FMA|MUL|ADD|SETP|MNMX)\b.*",
    "special": r"(MUFU|FCHK)\b.*",
    "widen": r"(F2F|I2F|F2I)\b.*F64.*",
    "convert": r"(F2F|I2F|I2FP|F2I|FRND)\b.*",
    "half": r"(HADD2|HFMA2|F2FP)\b.*",
    "multiply": r"IMAD(?!\.(MOV|IADD|SHL|X)\b).*",
    "control": r"(BRA|EXIT|RET|CALL|BSSY|BSYNC|BREAK|BMOV|WARPSYNC|YIELD|NOP|BAR|DEPBAR|PREEXIT|ACQBULK)\b.*",
    "uniform": r"(U[A-Z]|LDCU|R2UR|S2UR|VOTEU|CREDUX)[A-Z0-9]*\b.*",
}
"""What an instruction is for, by opcode, the first that fits; ``"integer"`` is what is left: addresses, comparisons, selects, moves."""


@cache
def kind_of(opcode: str) -> str:
    """An instruction's kind.

    >>> [kind_of(opcode) for opcode in ("LDG.E.EF.128", "MUFU.RSQ", "IADD3", "ULDC.64", "F2F.F64.F32")]
    ['load', 'special', 'integer', 'uniform', 'widen']
    """
    return next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, opcode)), "integer")


@cache
def tool(name: str) -> str:
    """One of CUDA's binary tools, from its package or the path.

    Raises:
        FileNotFoundError: If there is none.
    """
    from importlib.metadata import PackageNotFoundError, files

    try:
        packaged = [file for file in files(f"nvidia-cuda-{name}") or () if file.stem == name]
    except PackageNotFoundError:
        packaged = []
    found = str(packaged[0].locate()) if packaged else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} was not found: pip install nvidia-cuda-{name}")
    return found


def disassemble(binary: bytes) -> Code:
    """The machine code of a binary that holds one kernel."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(binary)
        listing = _run(tool("nvdisasm"), "-json", file)
        usage = _run(tool("cuobjdump"), "-res-usage", file)
    head, (kernel,) = json.loads(listing)
    instructions = tuple(_instruction(**one) for one in kernel["sass-instructions"])
    registers, stack, shared = (int(re.findall(rf"{name}:(\d+)", usage)[0]) for name in ("REG", "STACK", "SHARED"))
    compiler = head.get(".note.nv.tkinfo", {}).get("tki_toolVersion", "unknown").rpartition(" ")[2]
    return Code(instructions, registers, stack, shared, compiler)


def _instruction(opcode: str, operands: str = "", predicate: str = "", **_: object) -> Instruction:
    # Where an instruction moves all predicates to a register, or back, the listing has them in the guard's place.
    guarded = predicate.startswith("@")
    words = [*([] if guarded else [predicate]), *operands.split(",")]
    return Instruction(opcode, tuple(word for word in words if word), predicate[1:] if guarded else "")


def _run(*command: object) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout
