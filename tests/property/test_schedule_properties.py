"""When schedules are due, on clocks that shift: against a count of every minute, and against what a person expects."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim
from hypothesis import example, given
from hypothesis import strategies as st

from common.schedule import NAMED, expression_fault, last_until, next_after, timezone_fault

ZONES = (
    *("Europe/Berlin", "America/New_York", "America/St_Johns", "America/Havana", "Atlantic/Azores", "UTC"),
    *("Australia/Lord_Howe", "Africa/Casablanca", "Antarctica/Troll", "Asia/Kathmandu", "Pacific/Chatham"),
)
DAY_S = 86_400
YEAR_2026_S = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())


def shifts(zone: str) -> list[int]:
    """The days of two years on which the zone's clocks shift, as Unix times within a day before."""

    def offset(at_s: int) -> timedelta | None:
        return datetime.fromtimestamp(at_s, ZoneInfo(zone)).utcoffset()

    days = range(YEAR_2026_S, YEAR_2026_S + 730 * DAY_S, DAY_S)
    return [day for day in days if offset(day) != offset(day + DAY_S)] or [YEAR_2026_S]


SHIFTS = {zone: shifts(zone) for zone in ZONES}


@st.composite
def near_a_shift(draw: st.DrawFn) -> tuple[str, int]:
    """A zone, and a moment within a day and a half of a shift of its clocks."""
    zone = draw(st.sampled_from(ZONES))
    return zone, draw(st.sampled_from(SHIFTS[zone])) + draw(st.integers(-DAY_S // 2, 2 * DAY_S))


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    ranges = st.tuples(number, number).map(lambda two: f"{min(two)}-{max(two)}")
    steps = st.integers(1, high).map(lambda step: f"*/{step}")
    return st.one_of(st.just("*"), number.map(str), ranges, steps)


EXPRESSIONS = st.tuples(field(0, 59), st.one_of(field(0, 4), field(0, 23))).map(lambda two: f"{two[0]} {two[1]} * * *")


def follows_the_clocks(expression: str) -> bool:
    minute, hour, *_ = expression.split()
    return minute.startswith("*") or hour.startswith("*")


def matches(expression: str, zone: str, at_s: int) -> bool:
    parsed = CronSim(expression, datetime(2026, 1, 1))  # noqa: DTZ001  # only for its fields
    shown = datetime.fromtimestamp(at_s, ZoneInfo(zone))
    return shown.minute in parsed.minutes and shown.hour in parsed.hours


def due_in(expression: str, zone: str, from_s: int, until_s: int) -> list[float]:
    found, at_s = [], float(from_s)
    while (at_s := next_after(expression, zone, at_s)) <= until_s:
        found.append(at_s)
    return found


@given(near_a_shift(), EXPRESSIONS.filter(follows_the_clocks))
@example(("Australia/Lord_Howe", 1791055932), "* 0 * * *")
@example(("Australia/Lord_Howe", 1775346285), "10 */23 * * *")
def test_a_schedule_that_follows_the_clocks_is_due_at_each_minute_that_they_show(
    place: tuple[str, int], expression: str
) -> None:
    zone, at_s = place
    until_s = at_s + 6 * 3600
    begin_s = at_s // 60 * 60
    counted = [one for one in range(begin_s, until_s + 1, 60) if one > at_s and matches(expression, zone, one)]
    assert due_in(expression, zone, at_s, until_s) == counted


@given(near_a_shift(), st.integers(0, 23), st.integers(0, 59))
def test_a_time_of_day_comes_once_on_every_date_of_the_calendar(place: tuple[str, int], hour: int, minute: int) -> None:
    """Also where the clocks skip it (then at the first moment after), and once where they show it twice (the first)."""
    zone, at_s = place
    found = due_in(f"{minute} {hour} * * *", zone, at_s - 3 * DAY_S, at_s + 3 * DAY_S)
    shown = [datetime.fromtimestamp(one, ZoneInfo(zone)) for one in found]
    dates = [moment.date() for moment in shown]
    assert dates == [dates[0] + timedelta(days=place) for place in range(len(dates))]
    assert len(dates) >= 5
    for moment in shown:
        wanted = moment.replace(hour=hour, minute=minute, fold=0)
        exists = wanted == wanted.astimezone(UTC).astimezone(ZoneInfo(zone))
        if exists:
            assert (moment.hour, moment.minute, moment.fold) == (hour, minute, 0)
        else:  # the minute before is the last one ahead of the shift
            before = datetime.fromtimestamp(moment.timestamp() - 60, ZoneInfo(zone))
            assert moment.utcoffset() != before.utcoffset()


@given(near_a_shift(), EXPRESSIONS)
def test_time_goes_on_and_where_one_looks_from_changes_nothing(place: tuple[str, int], expression: str) -> None:
    zone, at_s = place
    following = next_after(expression, zone, at_s)
    assert following > at_s
    assert next_after(expression, zone, following - 1) == following
    assert next_after(expression, zone, (at_s + following) // 2) == following


@given(near_a_shift(), EXPRESSIONS)
def test_the_last_one_is_the_one_before_the_next(place: tuple[str, int], expression: str) -> None:
    zone, at_s = place
    last = last_until(expression, zone, at_s)
    assert last <= at_s < next_after(expression, zone, last)


@given(st.text(max_size=40) | st.text("0123456789*/,-#L ?W@MON", max_size=30))
def test_any_text_is_a_schedule_or_says_why_not(text: str) -> None:
    fault = expression_fault(text)
    if not fault:
        assert next_after(text, "Europe/Berlin", YEAR_2026_S) > YEAR_2026_S


@given(st.text(max_size=30))
def test_any_text_is_a_zone_or_says_why_not(text: str) -> None:
    if not timezone_fault(text):
        ZoneInfo(text)


def test_names_mean_what_cron_says() -> None:
    assert all(not expression_fault(name) for name in NAMED)
    assert next_after("@daily", "UTC", YEAR_2026_S) == YEAR_2026_S + DAY_S
