"""How people write amounts: `1m30s`, `256M`, `0.5`. Turns them into seconds, bytes and millicores, or says why not;
and how sentences tell amounts: `0.25 cores`, `512 MiB`.

Strict on purpose: a number without its unit, a finer fraction than is kept, or an amount that overflows is refused
rather than guessed. The units are those of the Compose Specification; bytes are counted in powers of 1024.
"""

from __future__ import annotations

import re
from decimal import Decimal

from common.errors import Invalid

_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,18})?"
_DURATION_SECONDS = {
    "h": Decimal(3600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
    "us": Decimal("0.000001"),
}
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>{_NUMBER}){unit})?" for unit in _DURATION_SECONDS))
_SIZE = re.compile(rf"(?P<number>{_NUMBER})(?P<unit>b|[kmgtp]b?)?", re.IGNORECASE)
_SIZE_POWERS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DECIMAL = re.compile(r"(?P<whole>[0-9]{0,9})(?:\.(?P<fraction>[0-9]{1,18}))?")
_SIGNED_64 = 1 << 63
_MIB = 1 << 20
_GIB = 1 << 30
_SHOWN_CHARACTERS = 60


def parse_duration_s(text: str) -> float:
    """`1h30m`, `10s`, `250ms` in seconds. Raises `Invalid`."""
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        hint = f" (did you mean {text}s?)" if re.fullmatch(_NUMBER, text) else ""
        raise Invalid(f"{_shown(text)} is not a duration: write numbers with units h, m, s, ms, us, e.g. 1m30s{hint}")
    total = sum(Decimal(number) * _DURATION_SECONDS[unit] for unit, number in match.groupdict().items() if number)
    return float(total)


def parse_bytes(text: str) -> int:
    """`256M`, `1.5g`, `64kb` or plain bytes. Raises `Invalid`, also when it would not fit into 64 bits."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise Invalid(f"{_shown(text)} is not a size: write a number with one of the units b, k, m, g, t, p, e.g. 256M")
    unit = (match["unit"] or "").lower()
    size = int(Decimal(match["number"]) * 1024 ** _SIZE_POWERS[unit[:1]])
    if size >= _SIGNED_64:
        raise Invalid(f"{_shown(text)} is too large: sizes are below 2^63 bytes (8192p)")
    return size


def parse_cpu_millis(text: str) -> int:
    """A number of cores such as `0.5` or `2` in millicores. Raises `Invalid`."""
    return _millis(text, "a number of CPUs: write a decimal number of cores, e.g. 0.5 or 2", "CPUs")


def parse_share_millis(text: str) -> int:
    """A share of one device such as `0.5` in thousandths. Raises `Invalid`, also for nothing and for more than one."""
    millis = _millis(text, "a share: write a part of one device, e.g. 0.5", "of a device")
    if not 0 < millis <= 1000:
        raise Invalid(f"{_shown(text)} is out of range: a share is of one device, more than 0 and at most 1")
    return millis


def parse_devices(text: str) -> tuple[int, int]:
    """How many devices, and the thousandths of each: `2` is (2, 1000), `0.5` is (1, 500). Raises `Invalid`."""
    millis = _millis(text, "a number of devices: write whole ones, e.g. 2, or a share of one, e.g. 0.5", "of a device")
    if not millis:
        raise Invalid(f"{_shown(text)} asks for no device: leave it out, or ask for more than 0")
    if millis <= 1000:
        return 1, millis
    if millis % 1000:
        raise Invalid(f"{_shown(text)} is more than one device but no whole number: only one device can be shared")
    return millis // 1000, 1000


def cores(cpu_millis: int) -> str:
    """`2 cores`, `1 core`, `0.25 cores`."""
    return f"{decimal(cpu_millis / 1000)} {'core' if cpu_millis == 1000 else 'cores'}"


def size(amount_bytes: int) -> str:
    """`512 MiB`, `1.5 GiB`, `100 bytes`."""
    if abs(amount_bytes) >= _GIB:
        return f"{decimal(amount_bytes / _GIB)} GiB"
    if abs(amount_bytes) >= _MIB:
        return f"{decimal(amount_bytes / _MIB)} MiB"
    return f"{amount_bytes} bytes"


def cores_and_memory(cpu_millis: int, memory_bytes: int) -> str:
    """What a machine has: `2 cores and 7.86 GiB of memory`."""
    return f"{cores(cpu_millis)} and {size(memory_bytes)} of memory"


def times(count: int) -> str:
    """`once`, `3 times`."""
    return "once" if count == 1 else f"{count} times"


def decimal(value: float) -> str:
    """At most three digits after the point, and no zeros at the end."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _millis(text: str, expected: str, unit: str) -> int:
    match = _DECIMAL.fullmatch(text)
    if match is None or not (match["whole"] or match["fraction"]):
        raise Invalid(f"{_shown(text)} is not {expected}")
    fraction = (match["fraction"] or "").rstrip("0")
    if len(fraction) > 3:
        raise Invalid(f"{_shown(text)} is finer than 0.001 {unit}, the least that is counted")
    return int(match["whole"] or 0) * 1000 + int(fraction.ljust(3, "0"))


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]!r}..."
