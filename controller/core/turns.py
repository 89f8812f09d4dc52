"""Work in small pieces, so that a caller may do something else in between: a generator that yields wherever it may rest
and returns what it found."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

ResultT = TypeVar("ResultT")

Turns: TypeAlias = Generator[None, None, ResultT]


def at_once(work: Turns[ResultT]) -> ResultT:
    """All of it, for callers that have nothing else to do."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: ResultT = end.value
            return result
