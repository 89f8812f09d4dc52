"""When a schedule is due: five fields of cron, or a name like `@daily`, on the clocks of a time zone.

Owns what an expression means; what is done when it is due is decided elsewhere. Pure but for reading the database of
time zones, which it takes as a table that does not change. The meaning is that of Debian's cron, by way of `cronsim`: a
schedule that names its hours and minutes runs once when the clocks skip that time (at the first moment that exists) and
once when they pass it twice (at the first of the two); one that begins its hour or minute with `*` follows the clocks
as they go. Times are Unix seconds.
"""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

EXPRESSION_CHARACTERS = 256
"""Beyond that a list of times is data."""
NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FORMS = f"five fields (minute hour day-of-month month day-of-week), e.g. 30 3 * * *, or {', '.join(NAMED)}"
_SAMPLE = datetime(2000, 1, 1, tzinfo=UTC)
"""Any year will do: `cronsim` looks 50 years ahead."""
_LOOK_S = 2 * 86_400
"""Clocks shift by less than a day, so what a shift may change about a search lies so near its result."""
_STEP_S = 6 * 3600
"""No zone shifts its clocks twice within this."""


def expression_fault(expression: str) -> str:
    """What is wrong with an expression; empty when it is due some day."""
    if len(expression) > EXPRESSION_CHARACTERS:
        return f"is {len(expression)} characters; at most {EXPRESSION_CHARACTERS} are allowed"
    fields = NAMED.get(expression.strip().lower(), expression)
    if len(fields.split()) != 5:
        return f"{expression!r} is not a schedule: write {_FORMS}"
    try:
        next(CronSim(fields, _SAMPLE))
    except CronSimError as error:
        if _readable(fields):
            return f"{expression!r} never comes: no month it names has such a day"
        return f"{expression!r} is not a schedule: {_field_of(error)} cannot be read; write {_FORMS}"
    except StopIteration:
        return f"{expression!r} never comes: no day of the next 50 years is one of those it names"
    return ""


def _field_of(error: CronSimError) -> str:
    """`Bad day-of-month` is how the library names the field."""
    return f"its {str(error).removeprefix('Bad ')}"


def _readable(fields: str) -> bool:
    """Whether it is its days alone that fit no month."""
    minute, hour, day, _month, weekday = fields.split()
    try:
        CronSim(f"{minute} {hour} {day} * {weekday}", _SAMPLE)
        CronSim(f"{minute} {hour} * {fields.split()[3]} {weekday}", _SAMPLE)
    except CronSimError:
        return False
    return True


def timezone_fault(name: str) -> str:
    """What is wrong with the name of a time zone; empty when there is one."""
    if name in zone_names():
        return ""
    near = difflib.get_close_matches(name.lower(), _by_lower_case(), 1, 0.6)
    meant = f" (did you mean {_by_lower_case()[near[0]]}?)" if near else ""
    return f"{name!r} is not a time zone: write a name such as Europe/Berlin, or UTC{meant}"


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """Of the machine's database of time zones, or that of the `tzdata` package."""
    return frozenset(available_timezones()) | {"UTC"}


@lru_cache(maxsize=1)
def _by_lower_case() -> dict[str, str]:
    """Also by the last part alone: people write `Berlin`."""
    cities = {name.rpartition("/")[2].lower(): name for name in sorted(zone_names(), reverse=True)}
    return cities | {name.lower(): name for name in sorted(zone_names())}


def next_after(expression: str, timezone: str, after_s: float) -> float:
    """The first moment later than `after_s` at which the schedule is due. Both are right ones: see the faults above."""
    fields, zone = _parsed(expression, timezone)
    if _follows_clocks(fields):
        return _next_on_clocks(fields, zone, int(after_s))
    forwards = CronSim(fields, datetime.fromtimestamp(int(after_s), zone))
    return next(moment.timestamp() for moment in forwards if moment.timestamp() > after_s)


def last_until(expression: str, timezone: str, until_s: float) -> float:
    """The last moment not later than `until_s` at which the schedule was due."""
    fields, zone = _parsed(expression, timezone)
    moments = (
        moment.timestamp() for moment in CronSim(fields, datetime.fromtimestamp(int(until_s) + 1, zone), reverse=True)
    )
    due = (at_s for at_s in moments if at_s <= until_s and next_after(expression, timezone, at_s - 1) == at_s)
    found = next(due)
    while (later := next_after(expression, timezone, found)) <= until_s:
        found = later  # going back over a shift of the clocks, the library passes some by
    return found


def _parsed(expression: str, timezone: str) -> tuple[str, ZoneInfo]:
    return NAMED.get(expression.strip().lower(), expression), ZoneInfo(timezone)


def _follows_clocks(fields: str) -> bool:
    """Debian's rule."""
    minute, hour, *_days = fields.split()
    return minute.startswith("*") or hour.startswith("*")


def _next_on_clocks(fields: str, zone: ZoneInfo, after_s: int) -> float:
    """The first match of what the zone's clocks show, whatever they do.

    Between two shifts the clocks run evenly, so the library searches without a zone there. With one it looks for an
    hour in steps of one, and comes out of step where clocks shift by half of that (Lord Howe Island).
    """
    while True:
        offset_s = _offset_s(zone, after_s + 1)
        shows = datetime.fromtimestamp(after_s + offset_s, UTC).replace(tzinfo=None)
        found_s = int(next(CronSim(fields, shows)).replace(tzinfo=UTC).timestamp()) - offset_s
        near_s = max(after_s, found_s - _LOOK_S)  # before this nothing matches, whatever the shifts
        if _offset_s(zone, near_s + 1) != offset_s:
            after_s = near_s
            continue
        shift_s = _first_shift(zone, near_s + 1, found_s)
        if shift_s is None:
            return float(found_s)
        after_s = shift_s - 1


def _first_shift(zone: ZoneInfo, from_s: int, until_s: int) -> int | None:
    """The first moment, not later than `until_s`, whose offset is not that of `from_s`."""
    for low in range(from_s, until_s, _STEP_S):
        high = min(low + _STEP_S, until_s)
        if _offset_s(zone, low) != _offset_s(zone, high):
            return _shift_between(zone, low, high)
    return None


def _shift_between(zone: ZoneInfo, low: int, high: int) -> int:
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_s(zone, middle) == _offset_s(zone, low):
            low = middle
        else:
            high = middle
    return high


def _offset_s(zone: ZoneInfo, at_s: int) -> int:
    offset = datetime.fromtimestamp(at_s, zone).utcoffset()
    assert offset is not None, "a zone always has one"
    return int(offset.total_seconds())


def shown(at_s: float, timezone: str) -> str:
    """A moment for people: `2026-03-29 03:00 CEST`."""
    return datetime.fromtimestamp(at_s, ZoneInfo(timezone)).strftime("%Y-%m-%d %H:%M %Z")
