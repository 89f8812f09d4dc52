"""Collects what is wrong with a project and what is only worth a warning, so that everything is said at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from client.compose.tree import Mark
from common.errors import Fault, Invalid

_SUGGESTIONS = 100
"""Finding the nearest name is slow, and nobody reads the thousandth suggestion."""
_SUGGESTED_CHARACTERS = 64


class Report:
    """Faults and warnings in the order they were met; the same one twice counts once."""

    def __init__(self) -> None:
        self._faults: dict[Fault, None] = {}
        self._warnings: dict[Fault, None] = {}
        self._faulty: set[str] = set()
        self._suggestions = 0

    def fault(self, mark: Mark | None, path: str, text: str) -> None:
        self._faults[_fault(mark, path, text)] = None
        self._faulty.add(path)

    def warn(self, mark: Mark | None, path: str, text: str) -> None:
        self._warnings[_fault(mark, path, text)] = None

    def add(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            self._faults[fault] = None
            self._faulty.add(fault.path)

    def is_faulty(self, path: str) -> bool:
        return path in self._faulty

    @property
    def faults(self) -> tuple[Fault, ...]:
        return tuple(self._faults)

    @property
    def warnings(self) -> tuple[Fault, ...]:
        return tuple(self._warnings)

    def refuse_if_faulty(self) -> None:
        """Raise `Invalid` with every fault so far, by file and line."""
        if self._faults:
            raise Invalid(in_order(self._faults))

    def nearest(self, name: str, known: Iterable[str]) -> str:
        """` (did you mean image?)`, or empty when no known name is near."""
        if self._suggestions >= _SUGGESTIONS or len(name) > _SUGGESTED_CHARACTERS:
            return ""
        self._suggestions += 1
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
        return f" (did you mean {near[0]}?)" if near else ""


def in_order(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """By file, in the order the files were first met, then by line; the order of a reader's corrections."""
    kept = tuple(faults)
    files = {name: place for place, name in enumerate(dict.fromkeys(fault.file for fault in kept))}
    return tuple(sorted(kept, key=lambda fault: (files[fault.file], fault.line)))


def _fault(mark: Mark | None, path: str, text: str) -> Fault:
    if mark is None:
        return Fault(path=path, text=text)
    return Fault(path=path, text=text, file=mark.source.name, line=mark.line)
