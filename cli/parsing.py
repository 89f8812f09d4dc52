"""What people type, as values: sizes, moments, labels, ports, targets. Each refusal says what is allowed. Pure."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from common.errors import Fault, Invalid
from common.model.api import ScaleTarget
from common.model.device import WHOLE_MILLIS, DeviceRequest
from common.model.job import Port, Protocol, PublishMode
from common.settings import LIMITS
from common.tokens import USER, parse_token
from common.units import parse_devices

_UNITS_BYTES = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([kmgt]?)(?:i?b)?", re.ASCII)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_SPANS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PORT = re.compile(r"(?:(\d{1,9}):)?(\d{1,9})(?:/(tcp|udp))?", re.ASCII)
_SIZE_LIMIT_BYTES = 2**50
_CPUS_LIMIT = 100_000
_Read = TypeVar("_Read")


def invalid(path: str, text: str) -> Invalid:
    return Invalid([Fault(path=path, text=text)])


class Together:
    """Reads one thing after another; what is wrong with any of them is told at once."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def read(self, parse: Callable[[], _Read], otherwise: _Read) -> _Read:
        """What `parse` makes of it; `otherwise` while something is wrong."""
        try:
            return parse()
        except Invalid as error:
            self._faults += error.faults
            return otherwise

    def check(self) -> None:
        """Raises `Invalid` with everything that was wrong."""
        if self._faults:
            raise Invalid(self._faults)


def size_bytes(path: str, text: str) -> int:
    """`512M`, `4G`, `1.5gib` or a number of bytes."""
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        raise invalid(path, f"{text!r} is not a size: give e.g. 512M or 4G")
    size = int(float(match[1]) * _UNITS_BYTES[match[2]])
    if not 0 < size <= _SIZE_LIMIT_BYTES:
        raise invalid(path, f"{text!r} is out of range: more than 0, at most 1024T")
    return size


def cpu_millis(path: str, cpus: float) -> int:
    """Cores as millicores."""
    if not math.isfinite(cpus) or not 0 < cpus <= _CPUS_LIMIT:
        raise invalid(path, f"{cpus} is out of range: more than 0, at most {_CPUS_LIMIT} cores")
    return max(1, round(cpus * 1000))


def moment_s(path: str, text: str, now_s: float) -> float:
    """Unix seconds of a moment: a span before now (`90s`, `1h30m`, `2d`), RFC 3339, or Unix seconds."""
    given = text.strip()
    if parts := _spans(given):
        return max(0.0, now_s - sum(float(number) * _SPANS_S[unit] for number, unit in parts))
    try:
        return _finite(float(given))
    except ValueError:
        pass
    try:
        parsed = datetime.datetime.fromisoformat(given)
        return _finite((parsed if parsed.tzinfo else parsed.astimezone()).timestamp())
    except (ValueError, OverflowError):
        raise invalid(path, f"{text!r} is not a moment: give e.g. 10m, 2h or 2030-01-31T12:00:00Z") from None


def span_s(path: str, text: str) -> float:
    """Seconds of a span such as `90s`, `1h30m` or `7d`."""
    parts = _spans(text.strip())
    if not parts:
        raise invalid(path, f"{text!r} is not a span of time: give e.g. 30m, 1h or 7d")
    return sum(float(number) * _SPANS_S[unit] for number, unit in parts)


def token_text(given: str, file: str) -> str:
    """A user's token as given, or from a file; empty when neither was named. Raises `Invalid`."""
    if file:
        try:
            given = Path(file).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise invalid("token-file", f"cannot read {file}: {error}") from None
    return str(parse_token(given, USER)) if given else ""


def _spans(given: str) -> list[tuple[str, str]]:
    parts = _SPAN.findall(given)
    return parts if "".join(number + unit for number, unit in parts) == given else []


def _finite(number: float) -> float:
    if not math.isfinite(number) or number < 0:
        raise ValueError
    return number


def labels(path: str, text: str) -> dict[str, str]:
    """`zone=eu,rack=1`."""
    return pairs(path, [part for part in text.split(",") if part.strip()])


def pairs(path: str, items: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE` each; a value may hold more `=`."""
    found: dict[str, str] = {}
    faults: list[Fault] = []
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            faults.append(Fault(path=path, text=f"{item!r} is not KEY=VALUE"))
        found[key.strip()] = value
    if faults:
        raise Invalid(faults)
    return found


def port(path: str, text: str) -> Port:
    """`8080:80`, `80` (not published under a fixed port) or either with `/udp`."""
    match = _PORT.fullmatch(text.strip())
    if match is None:
        raise invalid(path, f"{text!r} is not PUBLISHED:CONTAINER, e.g. 8080:80 or 5353:53/udp")
    published, container = int(match[1] or 0), int(match[2])
    if not 0 < container < 65536 or published > 65535 or (match[1] and not published):
        raise invalid(path, f"{text!r}: ports are 1 to 65535")
    return Port(
        container_port=container,
        published_port=published,
        protocol=Protocol(match[3] or "tcp"),
        mode=PublishMode.INGRESS,
    )


def device_requests(items: Iterable[str]) -> tuple[DeviceRequest, ...]:
    """`gpu=2` or, for a share of one, `gpu=0.5`; a kind alone is one unit."""
    found: list[DeviceRequest] = []
    faults: list[Fault] = []
    for item in items:
        kind, equals, number = item.partition("=")
        try:
            count, share_millis = parse_devices(number) if equals else (1, WHOLE_MILLIS)
        except Invalid as error:
            faults += [Fault(path="device", text=f"{item!r}: {fault.text}") for fault in error.faults]
        else:
            found.append(DeviceRequest(kind=kind, count=count, share_millis=share_millis))
    if faults:
        raise Invalid(faults)
    return tuple(found)


def scale_targets(items: Iterable[str]) -> list[ScaleTarget]:
    """`JOB=N` each, no job twice."""
    targets: list[ScaleTarget] = []
    faults: list[Fault] = []
    for item in items:
        job, _, number = item.partition("=")
        if not job or not (number.isascii() and number.isdigit() and len(number) < 10) or int(number) > LIMITS.replicas:
            text = f"{item!r} is not JOB=N with N from 0 to {LIMITS.replicas}"
            faults.append(Fault(path="scale", text=text))
        elif job in {target.job for target in targets}:
            faults.append(Fault(path="scale", text=f"{job!r} is named twice"))
        else:
            targets.append(ScaleTarget(job=job, replicas=int(number)))
    if faults:
        raise Invalid(faults)
    return targets


def job_name(namespace: str, text: str) -> tuple[str, str]:
    """Namespace and name of `name` (in the current namespace) or `namespace/name`."""
    given, slash, name = text.rpartition("/")
    if slash and (not given or not name or "/" in given):
        raise invalid("job", f"{text!r} is neither NAME nor NAMESPACE/NAME")
    if not name:
        raise invalid("job", "is empty: give NAME or NAMESPACE/NAME")
    return (given, name) if slash else (namespace, name)
