"""Reads how a service's number of replicas follows its load: `x-podium.autoscale`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from client.compose import keys, optional
from client.compose.field import Field
from client.compose.tree import shown
from common.errors import Invalid
from common.model.autoscale import DOWN, UP, WAKE_WAIT_S, Autoscale, Pace, Query, ScheduledReplicas
from common.settings import LIMITS

_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_PERCENT_LIMIT = 1_000
_BESIDE_SCHEDULE = ("timezone",)


def read_autoscale(field: Field | None, active: bool) -> Autoscale | None:
    """What the texts mean together is checked with the whole spec."""
    if field is None:
        return None
    given = keys.honoured(field, keys.AUTOSCALE, active=active)
    if "max" not in given:
        field.fault("max is missing: how many replicas there may be at most")
    for key in _BESIDE_SCHEDULE:
        if key in given and "schedule" not in given:
            given[key].fault("says something of a schedule, and there is none: add schedule, or leave it out")
    least = optional.count(given.get("min"), 1, most=LIMITS.replicas)
    most = optional.count(given.get("max"), max(least, 1), least=1, most=LIMITS.replicas)
    wake = given.get("wake")
    return Autoscale(
        least=least,
        most=most,
        cpu_percent=_percent(given.get("cpu")),
        memory_percent=_percent(given.get("memory")),
        requests_per_second=_positive(given["requests_per_second"]) if "requests_per_second" in given else 0.0,
        query=_query(given.get("query"), active),
        up=_pace(given.get("up"), UP, active),
        down=_pace(given.get("down"), DOWN, active),
        schedule=_schedule(given.get("schedule"), active),
        timezone=optional.text(given.get("timezone"), "UTC"),
        wake=optional.boolean(wake, default=True),
        wake_wait_s=optional.duration_s(given.get("wake_wait"), WAKE_WAIT_S),
    )


def _query(field: Field | None, active: bool) -> Query | None:
    if field is None:
        return None
    given = keys.honoured(field, keys.AUTOSCALE_QUERY, active=active)
    for key, meaning in (("prometheus", "the expression to ask for"), ("target", "how much of it a replica has")):
        if key not in given:
            field.fault(f"{key} is missing: {meaning}")
    return Query(
        prometheus=optional.text(given.get("prometheus"), "1"),
        target=_positive(given["target"]) if "target" in given else 1.0,
    )


def _pace(field: Field | None, usual: Pace, active: bool) -> Pace:
    if field is None:
        return usual
    given: Mapping[str, Field] = keys.honoured(field, keys.AUTOSCALE_PACE, active=active)
    return Pace(
        stabilise_s=optional.duration_s(given.get("stabilise"), usual.stabilise_s),
        replicas=optional.count(given.get("replicas"), usual.replicas, most=LIMITS.replicas),
        percent=optional.count(given.get("percent"), usual.percent),
        period_s=optional.duration_s(given.get("period"), usual.period_s),
    )


def _schedule(field: Field | None, active: bool) -> tuple[ScheduledReplicas, ...]:
    found = []
    for item in field.items() if field is not None else ():
        given = keys.honoured(item, keys.AUTOSCALE_ENTRY, active=active)
        for key, meaning in (("at", "when, e.g. 0 20 * * *"), ("replicas", "how many there are from then on")):
            if key not in given:
                item.fault(f"{key} is missing: {meaning}")
        if {"at", "replicas"} <= given.keys():
            at = given["at"].text("a schedule such as 0 20 * * *") or ""
            found.append(ScheduledReplicas(at=at, replicas=optional.count(given["replicas"], 0, most=LIMITS.replicas)))
    return tuple(found)


def _percent(field: Field | None) -> int:
    """One that is faulty counts as given: what is said of it is enough."""
    return 0 if field is None else optional.count(field, 1, least=1, most=_PERCENT_LIMIT)


def _positive(field: Field) -> float:
    return optional.parsed(field, _parse_positive, "a number greater than 0", 1.0)


def _parse_positive(text: str) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else 0.0
    if not value:
        raise Invalid(f"{shown(text)} is given; a number greater than 0 is expected")
    return value
