"""What a job may say of how it follows its load: ends, targets, pace and schedule, and what they need of the rest.

Pure. Part of `common.validation`; what the number should be is decided in the controller.
"""

from __future__ import annotations

import math

from common.model.autoscale import Autoscale, Pace, Query
from common.model.job import JobMode, JobSpec
from common.rules import Found, below, in_range, in_seconds, one, plain_text
from common.schedule import expression_fault, timezone_fault
from common.settings import LIMITS

_PERCENT_LIMIT = 1_000
"""Of a reservation: tasks may use more than they reserve."""
_PACE_PERCENT_LIMIT = 10_000
_STABILISE_LIMIT_S = 3600.0
"""As in Kubernetes: a number that is an hour behind follows nothing."""
_ENTRIES_LIMIT = 20
_QUERY_CHARACTERS = 4_096
_RATE_LIMIT = 1e9


def autoscale_faults(spec: JobSpec, autoscale: Autoscale) -> Found:
    if spec.mode is not JobMode.SERVICE:
        yield "", f"is for services with replicas; this job's mode is {spec.mode.value}"
    if spec.gang:
        yield "", "a gang has a fixed number of tasks: leave one of the two out"
    yield from _ends(autoscale)
    yield from _targets(spec, autoscale)
    yield from below("up", _pace(autoscale.up))
    yield from below("down", _pace(autoscale.down))
    yield from _schedule(autoscale)
    yield from in_seconds("wake_wait_s", autoscale.wake_wait_s, least=1.0)
    if not (autoscale.measures or autoscale.schedule or autoscale.wakes):
        text = "says nothing to scale by: add cpu, memory, requests_per_second, query or schedule, or min: 0"
        yield "", text


def _ends(autoscale: Autoscale) -> Found:
    yield from in_range("most", autoscale.most, 1, LIMITS.replicas)
    yield from in_range("least", autoscale.least, 0, LIMITS.replicas)
    if autoscale.least > autoscale.most >= 1:
        yield "least", f"{autoscale.least} is more than max, which is {autoscale.most}"


def _targets(spec: JobSpec, autoscale: Autoscale) -> Found:
    for name, of, key in (("cpu_percent", "cpu_millis", "cpus"), ("memory_percent", "memory_bytes", "memory")):
        percent = getattr(autoscale, name)
        yield from in_range(name, percent, 0, _PERCENT_LIMIT)
        if percent and not (getattr(spec.task.reservations, of) or getattr(spec.task.limits, of)):
            place = "deploy.resources.reservations"
            yield name, f"{percent} % of what? The service reserves nothing of it: add {place}.{key}, or a limit"
    rate = autoscale.requests_per_second
    if not 0 <= rate <= _RATE_LIMIT:
        yield "requests_per_second", f"{rate:g} is out of range: allowed is more than 0, at most {_RATE_LIMIT:g}"
    public = bool(spec.task.public_names)
    if rate and not public:
        yield "requests_per_second", "nobody counts its requests: it publishes no port for the cluster and has no route"
    if autoscale.query is not None:
        yield from below("query", _query(autoscale.query))
    if autoscale.sleeps and not public and autoscale.query is None:
        where = "least" if autoscale.least == 0 else "schedule"
        if where == "least":
            text = "0 leaves nothing that could wake it: it publishes no port for the cluster and has no query"
            yield where, text


def _query(query: Query) -> Found:
    if not query.prometheus.strip():
        yield "prometheus", "is empty: write an expression with one value, e.g. sum(rate(orders_total[1m]))"
    if len(query.prometheus) > _QUERY_CHARACTERS:
        yield "prometheus", f"is {len(query.prometheus)} characters; at most {_QUERY_CHARACTERS} are allowed"
    yield from plain_text("prometheus", query.prometheus)
    if not math.isfinite(query.target) or query.target <= 0:
        yield "target", f"{query.target:g} is not what a replica could have: allowed is more than 0"


def _pace(pace: Pace) -> Found:
    if not 0 <= pace.stabilise_s <= _STABILISE_LIMIT_S:
        yield "stabilise_s", f"{pace.stabilise_s:g} seconds is out of range: allowed is 0 to {_STABILISE_LIMIT_S:g}"
    yield from in_range("replicas", pace.replicas, 0, LIMITS.replicas)
    yield from in_range("percent", pace.percent, 0, _PACE_PERCENT_LIMIT)
    if not 1 <= pace.period_s <= _STABILISE_LIMIT_S:
        yield "period_s", f"{pace.period_s:g} seconds is out of range: allowed is 1 to {_STABILISE_LIMIT_S:g}"


def _schedule(autoscale: Autoscale) -> Found:
    yield from one("timezone", timezone_fault(autoscale.timezone))
    if len(autoscale.schedule) > _ENTRIES_LIMIT:
        yield "schedule", f"has {len(autoscale.schedule)} entries; at most {_ENTRIES_LIMIT} are allowed"
    for place, entry in enumerate(autoscale.schedule):
        yield from one(f"schedule[{place}].at", expression_fault(entry.at))
        bounded = autoscale.least <= autoscale.most
        if entry.replicas and bounded and not autoscale.least <= entry.replicas <= autoscale.most:
            text = f"{entry.replicas} is beyond the bounds: allowed is 0, or {autoscale.least} to {autoscale.most}"
            yield f"schedule[{place}].replicas", text
