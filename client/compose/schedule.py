"""Reads what makes a service one that is run again and again: `x-podium.schedule`, and the keys that go with it."""

from __future__ import annotations

from collections.abc import Mapping

from client.compose import optional
from client.compose.field import Field
from common.model.job import Overlap, Schedule
from common.settings import LIMITS
from common.units import parse_duration_s

OVERLAPS: Mapping[str, Overlap] = {overlap.value: overlap for overlap in Overlap}
_BESIDE = ("timezone", "overlap", "keep", "start_within")


def read_schedule(given: Mapping[str, Field]) -> Schedule | None:
    """From the honoured keys of `x-podium`. What the texts mean is checked with the whole spec."""
    if "schedule" not in given:
        for key in _BESIDE:
            if key in given:
                given[key].fault("says something of a schedule, and there is none: add schedule, or leave it out")
        return None
    usual = Schedule(cron="")
    return Schedule(
        cron=given["schedule"].text("a schedule such as 30 3 * * *") or "",
        timezone=optional.text(given.get("timezone"), usual.timezone),
        overlap=optional.choice(given.get("overlap"), OVERLAPS, usual.overlap),
        keep=optional.count(given.get("keep"), usual.keep, most=LIMITS.runs_kept),
        start_within_s=optional.parsed(
            given.get("start_within"), parse_duration_s, "a duration such as 6h", usual.start_within_s
        ),
    )
