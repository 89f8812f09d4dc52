"""Signals by name and number, as users write them and exit codes hide them. Never sends one."""

from __future__ import annotations

import signal

from common.errors import Fault, Invalid

KILLED = 128 + signal.SIGKILL
"""Exit code of a container that was killed."""

_NAMES = {number.value: number.name for number in signal.Signals}


def signal_of_exit(code: int) -> str:
    """`SIGTERM` for 143 and so on; empty when the code does not stand for a signal."""
    return _NAMES.get(code - 128, "") if code > 128 else ""


def signal_number(name: str) -> int:
    """The number of `SIGTERM`, `TERM` or `15`. Raises `Invalid` for anything else."""
    text = name.strip().upper()
    if text.isdecimal() and int(text) in _NAMES:
        return int(text)
    try:
        return signal.Signals[text if text.startswith("SIG") else f"SIG{text}"].value
    except KeyError:
        raise Invalid([Fault(path="signal", text=f"`{name}` is not a signal; give a name like SIGTERM")]) from None
