"""The rules that recur in every part of a job spec: ranges, times, numbers of entries, labels and text.

Each yields what is wrong as the path of the field and a sentence, and nothing when all is well. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from common.settings import LIMITS

_SECONDS_LIMIT = 7 * 24 * 3600.0
LIST_LIMIT = 1_000
RULES_LIMIT = 64
_LABEL_KEY_CHARACTERS = 256
Found = Iterator[tuple[str, str]]


def one(path: str, fault: str) -> Found:
    if fault:
        yield path, fault


def below(prefix: str, found: Found) -> Found:
    for path, text in found:
        yield f"{prefix}.{path}", text


def in_range(path: str, value: int, least: int, most: int) -> Found:
    if not least <= value <= most:
        yield path, f"{value} is out of range: allowed is {least} to {most}"


def in_seconds(path: str, value: float, least: float = 0.0) -> Found:
    if not math.isfinite(value) or not least <= value <= _SECONDS_LIMIT:
        yield path, f"{value} seconds is out of range: allowed is {least:g} to {_SECONDS_LIMIT:.0f} (7 days)"


def at_most(path: str, items: Sequence[object] | Mapping[str, str], most: int) -> Found:
    if len(items) > most:
        yield path, f"has {len(items)} entries; at most {most} are allowed"


def label_map(path: str, labels: Mapping[str, str]) -> Found:
    yield from at_most(path, labels, LIMITS.labels_per_object)
    for key, value in labels.items():
        plain = key.isascii() and key.isprintable() and "=" not in key and key == key.strip()
        if not key or not plain or len(key) > _LABEL_KEY_CHARACTERS:
            allowed = f"1 to {_LABEL_KEY_CHARACTERS} printable ASCII characters without '='"
            yield path, f"{shown(key)} is not a name of a label: {allowed}"
        else:
            yield from plain_text(f"{path}.{key}", value)


def plain_text(path: str, value: str) -> Found:
    if not is_plain(value):
        yield path, f"{shown(value)} contains a NUL or half a surrogate pair, which no program can be given"


def is_plain(text: str) -> bool:
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


def shown(text: str) -> str:
    """As a person should see it in a message: quoted, escaped, and cut when it is long."""
    return repr(text) if len(text) <= 80 else f"{text[:77]!r}..."
