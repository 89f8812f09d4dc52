"""Cuts a long answer into pieces that each fit a message, and joins them again, so that lists may be of any length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec

StructT = TypeVar("StructT", bound=msgspec.Struct)


def cut(value: StructT, most: int) -> Iterator[StructT]:
    """Values of the same type with at most `most` items each, in order; at least one.

    Items are the elements of the tuples among its fields. The other fields stand in every piece.
    """
    lists = _lists(value)
    empty: dict[str, tuple[Any, ...]] = dict.fromkeys(lists, ())
    piece, room = dict(empty), most
    for name, items in lists.items():
        at = 0
        while at < len(items):
            if not room:
                yield msgspec.structs.replace(value, **piece)
                piece, room = dict(empty), most
            piece[name] = items[at : at + room]
            at += len(piece[name])
            room -= len(piece[name])
    yield msgspec.structs.replace(value, **piece)


def join(pieces: Sequence[StructT]) -> StructT:
    """What was cut: the first piece with the items of all. Raises `IndexError` when there is none."""
    lists = {name: tuple(item for piece in pieces for item in getattr(piece, name)) for name in _lists(pieces[0])}
    return msgspec.structs.replace(pieces[0], **lists)


def _lists(value: msgspec.Struct) -> dict[str, tuple[Any, ...]]:
    fields = ((name, getattr(value, name)) for name in value.__struct_fields__)
    return {name: field for name, field in fields if isinstance(field, tuple)}
