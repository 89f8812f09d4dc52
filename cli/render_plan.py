"""How a plan is told to people: what is alike is told once, so that a plan of a thousand replicas can be read. Pure;
`-o json` has every step, placement and stop by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from cli.render_json import Plain
from cli.render_table import changes, printable, why

ALONE = 5
"""So many placements or stops of a job are told one by one: then which slot goes where is worth a line."""
NODES_NAMED = 6
NODES_LISTED = 12
PERIODS = (2, 3)
"""Kinds of steps that take turns in a rollout: start and stop, with a wait between."""


def plan(plain: Plain) -> list[str]:
    """What would happen, in order."""
    lines = changes(plain["changes"])
    lines += _numbered(_turns(_merged(_told(plain["steps"], plain["stops"]))))
    lines += _placements(plain["placements"]) + _stops(plain["stops"])
    for item in plain["unplaced"]:
        several = "s" if len(item["slots"]) > 1 else ""
        lines.append(f"  ! {item['job']} slot{several} {spans(item['slots'])} fit{'' if several else 's'} nowhere")
        lines += [f"    {line}" for line in why(item["verdict"])]
    if plain["before"] != plain["after"]:
        lines += ["tasks per node:", *_per_node(plain["before"], plain["after"])]
    return [*lines, *(f"note: {printable(note)}" for note in plain["notes"])]


def moves(plain: Iterable[Plain]) -> list[str]:
    """One line per task that is to move: `shop/web.3 from n1 to n4: ...`."""
    return [
        f"{item['job']}.{item['slot']} from {item['node']} to {item['to']}: {printable(item['text'])}" for item in plain
    ]


def spans(numbers: Iterable[int]) -> str:
    """`1-30`, `1-3,7`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


# --- steps


@dataclass(slots=True)
class _Told:
    """Steps that differ in slot and node only."""

    action: str
    subject: str
    text: str
    floor: int
    slots: list[int] = field(default_factory=list)
    nodes: Counter[str] = field(default_factory=Counter)

    @property
    def kind(self) -> Hashable:
        return self.action, self.subject, self.text

    def add(self, other: _Told) -> None:
        self.floor = min(self.floor, other.floor)
        self.slots += other.slots
        self.nodes += other.nodes

    def line(self, *, at_a_time: int = 0, floor: bool = True) -> str:
        slots = f".{spans(self.slots)}" if self.slots else ""
        where = f" on {_where(self.nodes)}" if self.nodes else ""
        pace = f" ({at_a_time} at a time)" if at_a_time else ""
        healthy = f" (at least {self.floor} healthy meanwhile)" if floor and self.floor else ""
        return f"{self.action} {self.subject}{slots}{where}{pace}: {printable(self.text)}{healthy}"


@dataclass(frozen=True, slots=True)
class _Turns:
    """Kinds of steps that follow each other again and again."""

    kinds: tuple[_Told, ...]
    count: int

    def lines(self) -> Iterator[str]:
        floor = min(told.floor for told in self.kinds)
        yield f"in {self.count} turns" + (f" (at least {floor} healthy meanwhile)" if floor else "") + ":"
        for told in self.kinds:
            yield "- " + told.line(at_a_time=-(-len(told.slots) // self.count), floor=False)


def _told(steps: Iterable[Plain], stops: Iterable[Plain]) -> Iterator[_Told]:
    nodes: dict[tuple[str, int], list[str]] = {}
    for stop in stops:
        nodes.setdefault((stop["job"], stop["slot"]), []).append(stop["node"])
    for step in steps:
        job, _, slot = step["subject"].rpartition(".")
        told = _Told(step["action"], step["subject"], step["text"], step["healthy_at_least"])
        if job and slot.isdigit():
            told.subject, told.slots = job, [int(slot)]
            for node in nodes.get((job, int(slot)), ()):
                if f" on {node}:" in told.text:
                    told.text, told.nodes = told.text.replace(f" on {node}:", ":", 1), Counter([node])
                    break
        yield told


def _merged(steps: Iterable[_Told]) -> list[_Told]:
    merged: list[_Told] = []
    for told in steps:
        if merged and told.slots and merged[-1].kind == told.kind:
            merged[-1].add(told)
        else:
            merged.append(told)
    return merged


def _turns(steps: Sequence[_Told]) -> Iterator[_Told | _Turns]:
    at = 0
    while at < len(steps):
        found = max((_repeated(steps, at, period) * period, period) for period in PERIODS)
        length, period = found
        if length < 2 * period:
            yield steps[at]
            at += 1
            continue
        kinds = steps[at : at + period]
        for place in range(at + period, at + length):
            kinds[(place - at) % period].add(steps[place])
        yield _Turns(tuple(kinds), length // period)
        at += length


def _repeated(steps: Sequence[_Told], at: int, period: int) -> int:
    """How often the next kinds of steps follow each other, all of tasks."""
    length = 0
    while at + length < len(steps) and steps[at + length].slots:
        if steps[at + length].kind != steps[at + length % period].kind:
            break
        length += 1
    return length // period


def _numbered(steps: Iterable[_Told | _Turns]) -> Iterator[str]:
    for number, step in enumerate(steps, start=1):
        first, *more = step.lines() if isinstance(step, _Turns) else (step.line(),)
        yield f"  {number}. {first}"
        yield from (f"     {line}" for line in more)


# --- where tasks come and go


def _placements(placements: Sequence[Plain]) -> list[str]:
    lines: list[str] = []
    for job, group in groupby(placements, key=lambda item: item["job"]):
        items = list(group)
        if len(items) <= ALONE:
            lines += [f"  + {job}.{item['slot']} on {item['node']}" for item in items]
        else:
            where = _where(Counter(item["node"] for item in items))
            lines.append(f"  + {job}.{spans(item['slot'] for item in items)} on {where}")
    return lines


def _stops(stops: Sequence[Plain]) -> list[str]:
    groups: dict[tuple[str, str], list[Plain]] = {}
    for item in stops:
        groups.setdefault((item["job"], item["reason"]), []).append(item)
    lines: list[str] = []
    for (job, reason), items in groups.items():
        if len(items) <= ALONE:
            lines += [f"  - {job}.{item['slot']} on {item['node'] or 'no node'}: {printable(reason)}" for item in items]
        else:
            where = _where(Counter(item["node"] or "no node" for item in items))
            lines.append(f"  - {job}.{spans(item['slot'] for item in items)} on {where}: {printable(reason)}")
    return lines


def _where(nodes: Counter[str]) -> str:
    """`n1 10, n2 10`, `n1, n2` for one on each, `500 nodes, 1 to 3 each`."""
    if len(nodes) <= NODES_NAMED:
        return ", ".join(
            f"{name} {count}" if max(nodes.values()) > 1 else name for name, count in sorted(nodes.items())
        )
    return f"{len(nodes)} nodes, {_each(nodes.values())} each"


def _each(counts: Collection[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _per_node(before: dict[str, int], after: dict[str, int]) -> list[str]:
    names = sorted({*before, *after})
    change = {name: (before.get(name, 0), after.get(name, 0)) for name in names}
    if len(names) <= NODES_LISTED:
        return [f"  {name}: {was} -> {will}" for name, (was, will) in change.items()]
    alike: dict[tuple[int, int], list[str]] = {}
    for name, counts in change.items():
        alike.setdefault(counts, []).append(name)
    return [
        f"  {', '.join(group) if len(group) <= 3 else f'{len(group)} nodes'}: {was} -> {will}"
        for (was, will), group in alike.items()
    ]
