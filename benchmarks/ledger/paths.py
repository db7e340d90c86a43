"""Ways through machine code: its blocks and loops, and what a kernel's fast path executes.

The *fast path* is the way that a thread takes through the code when its tensor is aligned and its vectors are whole, and no operand is
subnormal, infinite or NaN. It is found in the code, not known from the source: of all ways from the entry to an exit that go round each
loop once, the one that makes the most of the accesses that were asked for (those of 16 bytes, with a streaming hint), and of those the
one with the fewest other accesses to the data and calls of slow paths, and of those the shortest. A predicate that one instruction of the
way has decided stays decided until it is written again, so that a way cannot take the fast side of a load and the slow side of the store
that goes by the same predicate.

Limits: settings that the coefficients decide (weight decay, Nesterov) take their shorter side, which saves an instruction or two an
element. Predicates that are computed twice are not known to be the same; what this lets through shows as other accesses on the path,
which the tests refuse. What both sides of a branch cost is the same in issue slots where the compiler replaced it by predicates: those
instructions count whether they take effect or not, as they do on the hardware.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from .sass import Instruction, kind_of, predicate_of


@dataclass(frozen=True)
class Step:
    """An instruction on a path.

    Attributes:
        instruction: What.
        loops: The loops that it lies in, from the outermost to the innermost, by the number of their first instruction.
        works: Whether it takes effect, as far as the path decides it.
    """

    instruction: Instruction
    loops: tuple[int, ...]
    works: bool


@dataclass(frozen=True)
class _Way:
    """A way to some block: what it made of its predicates, and how good it is, the smaller the better."""

    cost: tuple[int, int, int, int]
    known: Mapping[str, bool]
    before: _Way | None
    block: int
    idle: frozenset[int]


@dataclass(frozen=True)
class Graph:
    """The control flow of a kernel.

    Attributes:
        instructions: In the order of their addresses; subroutines are behind the kernel itself.
    """

    instructions: tuple[Instruction, ...]

    @cached_property
    def blocks(self) -> dict[int, range]:
        """The basic blocks, by their first instruction."""
        starts = {0}
        for number, instruction in enumerate(self.instructions):
            if instruction.ends_block:
                starts.add(number + 1)
            if instruction.target is not None:
                starts.add(instruction.target)
        ordered = sorted(start for start in starts if start < len(self.instructions))
        return {
            start: range(start, end) for start, end in zip(ordered, [*ordered[1:], len(self.instructions)], strict=True)
        }

    def following(self, block: int) -> list[int]:
        """The blocks that may come after one: the target of its branch, then the next."""
        last = self.instructions[self.blocks[block][-1]]
        found = [] if last.target is None else [last.target]
        if not (last.ends_block and not last.conditions) and self.blocks[block].stop in self.blocks:
            found.append(self.blocks[block].stop)
        return found

    @cached_property
    def order(self) -> tuple[list[int], set[tuple[int, int]]]:
        """The blocks that the kernel can reach, each after all that lead to it, and the edges that lead back: those that close loops."""
        seen, active, done, back = {0}, [0], [], set()
        on_stack = {0}
        pending = [iter(self.following(0))]
        while active:
            after = next(pending[-1], None)
            if after is None:
                done.append(active[-1])
                on_stack.discard(active.pop())
                pending.pop()
            elif after in on_stack:
                back.add((active[-1], after))
            elif after not in seen:
                seen.add(after)
                on_stack.add(after)
                active.append(after)
                pending.append(iter(self.following(after)))
        return done[::-1], back

    @cached_property
    def loops(self) -> dict[int, set[int]]:
        """The loops: by their first block, all of their blocks."""
        order, back = self.order
        leading: dict[int, list[int]] = {}
        for block in order:
            for after in self.following(block):
                leading.setdefault(after, []).append(block)
        loops: dict[int, set[int]] = {}
        for end, first in back:
            body = loops.setdefault(first, {first})
            pending = [end]
            while pending:
                block = pending.pop()
                if block not in body:
                    body.add(block)
                    pending += leading[block]
        return loops

    def fast_path(self, wanted: str, spared: str, *, within: int | None = None, looping: bool = False) -> list[Step]:
        """What a thread executes on its fast path, each loop once.

        Args:
            wanted: A pattern of the opcodes of which the path makes the most.
            spared: A pattern of other opcodes, of which it makes the fewest.
            within: The loop in which the wanted ones count; by default anywhere.
            looping: Whether to enter as many loops as there are, after that.
        """
        wants, spares = re.compile(wanted), re.compile(spared)
        order, back = self.order
        ways: dict[int, dict[frozenset[tuple[str, bool]], _Way]] = {
            0: {frozenset(): _Way((0, 0, 0, 0), {}, None, -1, frozenset())}
        }
        exits = []
        for block in order:
            inside = within is None or block in self.loops[within]
            for way in ways.pop(block, {}).values():
                for after, arrived in self._through(block, way, wants if inside else None, spares, looping):
                    if after is None:
                        exits.append(arrived)
                    elif (block, after) not in back:
                        known = frozenset(
                            (name, value) for name, value in arrived.known.items() if name in self._read_later[after]
                        )
                        best = ways.setdefault(after, {})
                        if known not in best or arrived.cost < best[known].cost:
                            best[known] = _Way(arrived.cost, dict(known), arrived.before, arrived.block, arrived.idle)
        last: _Way | None = min(exits, key=lambda way: way.cost)
        found: list[Step] = []
        while last is not None and last.block >= 0:
            loops = tuple(
                sorted(
                    (one for one, body in self.loops.items() if last.block in body),
                    key=lambda one: -len(self.loops[one]),
                )
            )
            steps = [Step(self.instructions[k], loops, k not in last.idle) for k in self.blocks[last.block]]
            found = steps + found
            last = last.before
        return found

    def _through(
        self, block: int, way: _Way, wants: re.Pattern[str] | None, spares: re.Pattern[str], looping: bool
    ) -> Iterable[tuple[int | None, _Way]]:
        """The ways out of a block for one way in: which block comes next (``None`` for an exit), and the way with this block on it."""
        known = dict(way.known)
        made, loops, avoided, length = way.cost
        loops -= looping and block in self.loops
        idle = set()
        for number in self.blocks[block]:
            instruction = self.instructions[number]
            length += 1
            wanted = wants is not None and wants.fullmatch(instruction.opcode) is not None
            slow = instruction.base == "CALL" and instruction.target is None
            unwanted = slow or spares.fullmatch(instruction.opcode) is not None
            works = _holds(instruction.guard, known)
            if works is None and (wanted or unwanted):
                # What the way decides: to make the access or not.
                works = wanted
                _decide(instruction.guard, known, works)
            if works is False:
                idle.add(number)
            else:
                made -= wanted
                avoided += unwanted
            if instruction.ends_block:
                break
            written = instruction.writes
            if written is None:
                known.clear()
            for name in written or ():
                known.pop(name, None)

        cost = (made, loops, avoided, length)
        last = instruction
        stop = self.blocks[block].stop
        if not last.ends_block:
            yield stop, _Way(cost, known, way, block, frozenset(idle))
            return
        values = [_holds(condition, known) for condition in last.conditions]
        if False not in values:
            taken = dict(known)
            for condition in last.conditions:
                _decide(condition, taken, True)
            yield last.target, _Way(cost, taken, way, block, frozenset(idle))
        if not all(values) or None in values:
            passed = dict(known)
            if len(values) == 1:
                _decide(last.conditions[0], passed, False)
            yield stop, _Way(cost, passed, way, block, frozenset(idle))

    @cached_property
    def _read_later(self) -> dict[int, set[str]]:
        """The predicates that are read after a block's begin before they are written: no others are worth remembering."""
        reads: dict[int, set[str]] = {}
        writes: dict[int, set[str]] = {}
        for block, numbers in self.blocks.items():
            read, written = reads.setdefault(block, set()), writes.setdefault(block, set())
            for number in numbers:
                instruction = self.instructions[number]
                # Those that it writes are among them, which remembers a little too much.
                names = {predicate_of(word) for word in (instruction.guard, *instruction.operands)}
                read |= names - written - {""}
                # A guarded instruction may leave what it writes as it was.
                if not instruction.guard:
                    written.update(instruction.writes or ())
        live = {block: set(read) for block, read in reads.items()}
        changed = True
        while changed:
            changed = False
            for block in reversed(self.order[0]):
                out = set().union(*(live[after] for after in self.following(block)))
                grown = live[block] | (out - writes[block])
                changed |= grown != live[block]
                live[block] = grown
        return live


def _holds(condition: str, known: Mapping[str, bool]) -> bool | None:
    if not condition:
        return True
    name = condition.lstrip("!")
    if name in ("PT", "UPT"):
        return not condition.startswith("!")
    value = known.get(name)
    return None if value is None else value != condition.startswith("!")


def _decide(condition: str, known: dict[str, bool], holds: bool) -> None:
    name = predicate_of(condition)
    if name:
        known[name] = holds != condition.startswith("!")


def count(steps: Iterable[Step]) -> Counter[str]:
    """How many of each kind a path has; accesses that do not take effect are of the kind ``"control"``, as they only take a slot."""
    return Counter(
        "control" if not step.works and step.instruction.base in ("LDG", "STG") else kind_of(step.instruction.opcode)
        for step in steps
    )
