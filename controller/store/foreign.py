"""Fields of stored records that this version has no word for: kept through its writes. Pure.

While controllers are upgraded one by one, an older one may lead after a newer one: what that wrote must still be there
when a newer one leads again. Entries of lists are taken as they are; records that are never changed need none of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from controller.store.keys import Record, encode

Foreign: TypeAlias = Mapping[str, Any]
"""The fields by name, nested as they lie in the record."""


def foreign_fields(record: Record, value: bytes) -> Foreign:
    """What of `value` is not in `record`, which was read from it; empty when all is."""
    return {} if encode(record) == value else _beyond(msgspec.json.decode(value), record)


def encode_whole(record: Record, foreign: Foreign | None) -> bytes:
    """`record` as it is to be stored, with the fields kept for it."""
    known = encode(record)
    return msgspec.json.encode(_joined(msgspec.json.decode(known), foreign)) if foreign else known


def _beyond(stored: Mapping[str, Any], known: msgspec.Struct) -> dict[str, Any]:
    """By the struct's fields, not by what it is encoded as: there, what says nothing may be left out."""
    found: dict[str, Any] = {}
    for name, value in stored.items():
        if name not in known.__struct_fields__:
            found[name] = value
            continue
        inner = getattr(known, name)
        if isinstance(value, dict) and isinstance(inner, msgspec.Struct) and (beyond := _beyond(value, inner)):
            found[name] = beyond
    return found


def _joined(known: Mapping[str, Any], foreign: Foreign) -> dict[str, Any]:
    joined = dict(known)
    for name, value in foreign.items():
        if name not in known:
            joined[name] = value
        elif isinstance(value, dict) and isinstance(known[name], dict):
            joined[name] = _joined(known[name], value)
    return joined
