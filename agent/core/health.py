"""What the outcomes of a Compose health check say about a container, and when to look again. Never runs one.

Differs from Docker's own checker in one way, on purpose: until the first success it looks early and often (0.5 s,
doubling up to the interval), so that a task that is up within a second counts as healthy within a second. Failures seen
by those extra looks do not count: to be unhealthy takes `retries` failures an interval apart, as in Compose.
"""

from __future__ import annotations

import msgspec

from common.model.job import HealthCheck
from common.model.task import Health
from common.settings import LIMITS
from common.units import times

EARLY_PROBE_S = 0.5
_ON_TIME = 0.9
"""A probe this share of an interval after the last counts as one interval later: timers are never exact."""


class HealthMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What must be remembered from one probe to the next."""

    health: Health = Health.NONE
    failures: int = 0
    """In a row that count."""
    probes: int = 0
    counted_at_s: float = 0.0
    """When a failure last counted; the end of the start period at first."""
    output: str = ""
    """Of the last probe."""


def begin(check: HealthCheck | None, now_s: float) -> HealthMemory:
    """The memory of a container that started at `now_s`."""
    if check is None:
        return HealthMemory()
    return HealthMemory(health=Health.STARTING, counted_at_s=now_s + check.start_period_s)


def observe(check: HealthCheck, memory: HealthMemory, *, good: bool, output: str, now_s: float) -> HealthMemory:
    """The memory after one probe that ended with an answer (a time-out of the probe is a bad one)."""
    output = _clipped(output)
    if good:
        return HealthMemory(health=Health.HEALTHY, probes=memory.probes + 1, counted_at_s=now_s, output=output)
    seen = msgspec.structs.replace(memory, probes=memory.probes + 1, output=output)
    counts_in_s = memory.counted_at_s + check.interval_s * _ON_TIME - now_s
    if memory.health is Health.STARTING and 0 < counts_in_s <= _most_s(check):
        return seen
    failures = memory.failures + 1
    health = Health.UNHEALTHY if failures >= check.retries else memory.health
    return msgspec.structs.replace(seen, failures=failures, counted_at_s=now_s, health=health)


def _most_s(check: HealthCheck) -> float:
    """By this much failures may be early; a date further ahead is of before the clock was put back."""
    return check.start_period_s + check.interval_s


def next_probe_s(check: HealthCheck, memory: HealthMemory, now_s: float) -> float:
    """Seconds until the next probe."""
    if memory.health is not Health.STARTING:
        return check.interval_s
    in_start_period = memory.failures == 0 and now_s < memory.counted_at_s
    usual_s = min(check.start_interval_s, check.interval_s) if in_start_period else check.interval_s
    counts_in_s = memory.counted_at_s + check.interval_s - now_s
    return min(usual_s, EARLY_PROBE_S * 2.0 ** min(memory.probes, 20), *([counts_in_s] if counts_in_s > 0 else []))


def unhealthy_message(memory: HealthMemory) -> str:
    """For people: why the container is stopped."""
    last = memory.output.strip() or "no output"
    if memory.failures == 1:
        return f"unhealthy after a failed health check, which said: {last}"
    return f"unhealthy after {memory.failures} failed health checks in a row; the last one said: {last}"


def failing_message(memory: HealthMemory) -> str:
    """For people: what checks said that are not enough to stop it yet; empty when the last one was good."""
    if not memory.failures:
        return ""
    often = f"{times(memory.failures)} in a row" if memory.failures > 1 else "once"
    return f"health check failed {often}: {memory.output.strip() or 'no output'}"


def _clipped(output: str) -> str:
    return output.encode()[: LIMITS.health_output_bytes].decode(errors="ignore")
