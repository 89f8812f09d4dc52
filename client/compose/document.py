"""Reads one YAML file into a tree with lines. Owns the bounds that make any bytes safe to read: the size of the file,
the depth of its nesting, and how much its aliases may expand to. Knows nothing of Compose but its two merge tags.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scanner import Scanner

from client.compose.report import Report
from client.compose.tree import (
    Entry,
    Fields,
    Items,
    Kind,
    Mark,
    Merging,
    Node,
    Scalar,
    Source,
    described,
    kind_of,
    shown,
)
from common.errors import Fault, Invalid

FILE_BYTES = 1024 * 1024
"""A description of applications is text that people write; larger files are a mistake or an attack."""
DEPTH = 64
"""Compose nests about ten levels; extension fields may go deeper."""
NODES = 100_000
"""After aliases are expanded: the full 1,000 services of a request with a hundred values each."""
CHARACTERS = 4 * 1024 * 1024
"""Of all scalars, after aliases are expanded."""

_CORE = "tag:yaml.org,2002:"
_MERGING_TAGS = {"!reset": Merging.RESET, "!override": Merging.OVERRIDE}
_MERGE_KEY = "<<"


def read_bytes(path: Path, name: str) -> bytes:
    """The content of a file. Raises `Invalid`: not there, not a file, not readable, or larger than `FILE_BYTES`."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Invalid([Fault(path="", text="is not a file", file=name)])
        with path.open("rb") as file:
            content = file.read(FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise Invalid([Fault(path="", text=f"cannot be read: {reason}", file=name)]) from error
    if len(content) > FILE_BYTES:
        raise Invalid([Fault(path="", text=f"is larger than {FILE_BYTES} bytes, the most that is read", file=name)])
    return content


def is_there(path: Path) -> bool:
    """Whether there is anything at `path`; what cannot be looked at counts, so that reading it says why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    return True


def decode(content: bytes, name: str) -> str:
    """Text of UTF-8 bytes, without a byte order mark. Raises `Invalid` with the line of the first bad byte."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        text = f"byte {content[error.start]:#04x} is not UTF-8: save the file as UTF-8"
        raise Invalid([Fault(path="", text=text, file=name, line=line)]) from error


def parse(text: str, source: Source, report: Report) -> Node | None:
    """The one document in `text`; None when it is empty.

    Faults that leave the structure readable (a duplicate key, an unknown tag) go to the report; after others nothing
    further can be said of the file, and they are raised as `Invalid`.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Scanner = _PlacingScanner
    try:
        return _Builder(yaml.parse(text), source, report).document()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 0
        raise _unreadable(source, line, f"is not YAML: {_sentence(error)}") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _unreadable(
            source, line, f"character U+{ord(text[error.position]):04X} is not allowed in YAML"
        ) from error
    except YAMLError as error:
        raise _unreadable(source, 0, f"is not YAML: {error}") from error


def _unreadable(source: Source, line: int, text: str) -> Invalid:
    return Invalid([Fault(path="", text=text, file=source.name, line=line)])


def _with_pairs_joined(text: str) -> str:
    r"""JSON writes a character beyond the first 65,536 as two escapes, e.g. `\ud83d\ude00`, and JSON is YAML."""
    if text.isascii() or not any("\ud800" <= character <= "\udbff" for character in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _sentence(error: MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return ", ".join(part.replace("\x00", "the end of the file") for part in parts) or "it cannot be parsed"


class _PlacingScanner(Scanner):
    """The library's scanner, which lets Python's own errors through, e.g. that of `chr` for an escape beyond Unicode:
    here they get a line like all others."""

    def fetch_more_tokens(self) -> None:
        try:
            super().fetch_more_tokens()
        except (ValueError, ArithmeticError) as error:
            raise MarkedYAMLError(problem=str(error), problem_mark=self.reader.get_mark()) from error


class _Weight(msgspec.Struct, frozen=True):
    """What a node amounts to with its aliases expanded."""

    nodes: int
    characters: int

    def __add__(self, other: _Weight) -> _Weight:
        return _Weight(self.nodes + other.nodes, self.characters + other.characters)


class _Builder:
    """Composes the parser's events into nodes."""

    def __init__(self, events: Iterator[Event], source: Source, report: Report) -> None:
        self._events = events
        self._source = source
        self._report = report
        self._anchors: dict[str, tuple[Node, _Weight] | None] = {}
        """None while the anchored node is being read: an alias to it would contain itself."""

    def document(self) -> Node | None:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    self._stop(event, "a second document begins here: one file is one project, so leave out the ---")
                if event.version not in {None, (1, 2)}:
                    self._stop(event, "only YAML 1.2 is read: leave out the %YAML line")
            elif isinstance(event, NodeEvent):
                root, _ = self._node(event, 1, "")
            elif isinstance(event, StreamEndEvent):
                break
        return root

    def _node(self, event: Event, depth: int, path: str) -> tuple[Node, _Weight]:
        assert isinstance(event, NodeEvent)
        if depth > DEPTH:
            self._stop(event, f"nesting is deeper than {DEPTH} levels")
        if isinstance(event, AliasEvent):
            return self._alias(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        node, weight = self._content(event, depth, path)
        if weight.nodes > NODES:
            self._stop(event, f"more than {NODES} values are written here, aliases expanded")
        if weight.characters > CHARACTERS:
            self._stop(event, f"more than {CHARACTERS} characters are written here, aliases expanded")
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, weight)
        return node, weight

    def _content(self, event: NodeEvent, depth: int, path: str) -> tuple[Node, _Weight]:
        if isinstance(event, MappingStartEvent):
            return self._fields(event, depth, path)
        if isinstance(event, SequenceStartEvent):
            return self._items(event, depth, path)
        assert isinstance(event, ScalarEvent)
        return self._scalar(event, path), _Weight(1, len(event.value))

    def _alias(self, event: AliasEvent) -> tuple[Node, _Weight]:
        if event.anchor not in self._anchors:
            self._stop(event, f"*{event.anchor} refers to no anchor: &{event.anchor} must stand before it")
        target = self._anchors[event.anchor]
        if target is None:
            self._stop(event, f"*{event.anchor} stands inside the value it refers to")
        return target

    def _scalar(self, event: ScalarEvent, path: str) -> Scalar:
        mark, text, tag = self._mark(event), _with_pairs_joined(event.value), event.tag
        plain = not event.style and tag is None
        kind = kind_of(text) if plain else Kind.STRING
        merging = _MERGING_TAGS.get(tag or "", Merging.USUAL)
        if merging is not Merging.USUAL:
            kind = Kind.STRING if event.style else kind_of(text)
        elif tag is not None and tag not in {"!", f"{_CORE}str"}:
            kind = self._tagged_kind(mark, path, tag, text)
        return Scalar(mark, text, kind, plain, merging)

    def _tagged_kind(self, mark: Mark, path: str, tag: str, text: str) -> Kind:
        """Of a scalar with an explicit `!!int` and so on, which must look like one."""
        kinds = {"null": Kind.NULL, "bool": Kind.BOOLEAN, "int": Kind.INTEGER, "float": Kind.FLOAT}
        wanted = kinds.get(tag.removeprefix(_CORE))
        if wanted is None:
            self._report.fault(
                mark, path, f"tag {shown(tag)} is not known: allowed are !reset, !override and YAML's own"
            )
            return Kind.STRING
        if kind_of(text) is not wanted:
            self._report.fault(mark, path, f"{shown(text)} is tagged as {wanted.value}, but does not look like one")
        return wanted

    def _items(self, event: SequenceStartEvent, depth: int, path: str) -> tuple[Items, _Weight]:
        merging = self._collection_merging(event, path, "seq")
        items: list[Node] = []
        total = _Weight(1, 0)
        for inner in self._until(SequenceEndEvent):
            node, weight = self._node(inner, depth + 1, f"{path}[{len(items)}]")
            items.append(node)
            total = self._bounded(event, total + weight)
        return Items(self._mark(event), tuple(items), merging), total

    def _fields(self, event: MappingStartEvent, depth: int, path: str) -> tuple[Fields, _Weight]:
        merging = self._collection_merging(event, path, "map")
        entries: dict[str, Entry] = {}
        merges = False
        total = _Weight(1, 0)
        for inner in self._until(MappingEndEvent):
            key, key_weight = self._node(inner, depth + 1, path)
            name = key.text if isinstance(key, Scalar) else ""
            value_path = f"{path}.{name}" if path else name
            value, weight = self._node(next(self._events), depth + 1, value_path)
            total = self._bounded(event, total + key_weight + weight)
            if not isinstance(key, Scalar) or key.kind is Kind.NULL:
                self._report.fault(key.mark, path, f"a key must be a name; {described(key)} is given")
            elif name in entries:
                text = f"is given twice: first in line {entries[name].mark.line}, again in line {key.mark.line}"
                self._report.fault(key.mark, value_path, text)
            else:
                entries[name] = Entry(key.mark, value)
                merges = merges or (key.plain and name == _MERGE_KEY)
        return Fields(self._mark(event), self._merged(entries, path) if merges else entries, merging), total

    def _merged(self, entries: dict[str, Entry], path: str) -> dict[str, Entry]:
        """`<<`: what is written beside it wins, then the earlier of several mappings."""
        merge = entries[_MERGE_KEY]
        result = {key: entry for key, entry in entries.items() if key != _MERGE_KEY}
        for mapping in merge.value.items if isinstance(merge.value, Items) else (merge.value,):
            if isinstance(mapping, Fields):
                for key, entry in mapping.entries.items():
                    result.setdefault(key, entry)
            else:
                text = f"<< merges a mapping or a list of mappings; {described(mapping)} is given"
                self._report.fault(merge.mark, path, text)
        return result

    def _collection_merging(self, event: SequenceStartEvent | MappingStartEvent, path: str, own: str) -> Merging:
        tag = event.tag
        if tag not in {None, "!", f"{_CORE}{own}"} and tag not in _MERGING_TAGS:
            text = f"tag {shown(tag)} does not fit here: allowed are !reset, !override and YAML's own"
            self._report.fault(self._mark(event), path, text)
        return _MERGING_TAGS.get(tag or "", Merging.USUAL)

    def _bounded(self, event: Event, weight: _Weight) -> _Weight:
        if weight.nodes > NODES or weight.characters > CHARACTERS:
            text = f"is too much: a file holds at most {NODES} values and {CHARACTERS} characters, aliases expanded"
            self._stop(event, text)
        return weight

    def _until(self, end: type[Event]) -> Iterator[Event]:
        """The events that begin a value here; what lies within each is read by `_node` in between."""
        for event in self._events:
            if isinstance(event, end):
                return
            yield event

    def _mark(self, event: Event) -> Mark:
        return Mark(self._source, event.start_mark.line + 1)

    def _stop(self, event: Event, text: str) -> NoReturn:
        raise _unreadable(self._source, event.start_mark.line + 1, text)
