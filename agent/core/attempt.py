"""Crash records: how an attempt ended, put into words and cut to the size that is kept. Never reads a log itself."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from common.model.task import Attempt
from common.settings import LIMITS
from common.units import size

MESSAGE_LIMIT_CHARACTERS = 1_000
"""A message is read in a table; the log tail is where the length belongs."""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a container ended, as the runtime saw it (the fields of `agent.runtime.interface.Exit`)."""

    code: int | None = None
    signal: str = ""
    oom: bool = False
    memory_peak_bytes: int = 0
    memory_limit_bytes: int = 0
    ended_at_s: float = 0.0
    message: str = ""


def describe(ending: Ending) -> str:
    """One sentence for people."""
    if ending.oom:
        limit = f" (limit {size(ending.memory_limit_bytes)})" if ending.memory_limit_bytes else ""
        text = f"killed: out of memory{limit}"
    elif ending.signal:
        text = f"killed by {ending.signal}"
    elif ending.code is None:
        text = "ended, nobody knows how"
    else:
        text = f"exited with code {ending.code}"
    return clip_message(f"{text}: {ending.message}" if ending.message else text)


def clip_message(text: str) -> str:
    return text if len(text) <= MESSAGE_LIMIT_CHARACTERS else text[: MESSAGE_LIMIT_CHARACTERS - 1] + "…"


def bounded(record: Attempt, log_tail: Sequence[str]) -> Attempt:
    """The record with as many of the last log lines as fit: the newest are worth most, so it is cut from the front."""
    room = LIMITS.attempt_record_bytes - len(record.message.encode()) - len(record.health_output.encode())
    kept: list[str] = []
    for line in reversed(log_tail[-LIMITS.attempt_log_lines :]):
        size = len(line.encode()) + 1
        if size > room:
            break
        kept.append(line)
        room -= size
    if not kept and log_tail and room > 1:
        kept.append(log_tail[-1].encode()[: room - 1].decode(errors="ignore"))
    return msgspec.structs.replace(record, log_tail=tuple(reversed(kept)))
