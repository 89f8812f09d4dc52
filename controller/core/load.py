"""How many replicas each metric of a job asks for, from what is known of its load. PURE.

The formula is that of Kubernetes' horizontal autoscaler: the load over the target, rounded up, and the present number
where the two differ by no more than the tolerance. What is not known argues against any change: a task without a
figure counts as idle when more are asked for, and as just busy enough when fewer are; a metric without one has no say,
and while it has none nothing is made smaller.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from common.model.autoscale import Autoscale
from common.model.job import TaskSpec
from common.units import decimal

TOLERANCE = 0.1
"""Of the target: load that wavers by less moves nothing."""
_ROUNDING = 1e-9
"""Sums of floating-point shares may be this much above a whole number that they mean."""


class TaskLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One task's use: CPU averaged over the last evaluation period."""

    cpu_millis: float
    memory_bytes: int


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What the nodes' proxies had for one job lately."""

    per_second: float = 0.0
    open: int = 0
    """Connections at this moment."""
    missing: str = ""
    """Why it may be more than that, for people; empty when every proxy has told."""

    @property
    def none(self) -> bool:
        """Whether there certainly was none."""
        return not self.missing and not self.open and self.per_second <= 0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What Prometheus said: a number, or why there is none."""

    value: float | None = None
    problem: str = ""


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one job's load now."""

    tasks: Mapping[int, TaskLoad] = {}
    """By slot, of those that are well; a slot that is missing here is not known."""
    traffic: Traffic = Traffic(missing="nothing was measured yet")
    answer: Answer = Answer(problem="nothing was asked yet")


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """What one metric asks for. `replicas` is None while it does not know."""

    metric: str
    replicas: int | None
    text: str
    """`cpu is 140 % of the reservation, 70 % is wanted: 4 replicas`."""


def recommendations(autoscale: Autoscale, task: TaskSpec, replicas: int, sight: Sight) -> tuple[Recommendation, ...]:
    """Of every metric that the job names. `replicas`, at least 1, is their present number."""
    return tuple(_recommended(autoscale, task, replicas, sight))


def query_replicas(autoscale: Autoscale, sight: Sight) -> int:
    """What the query asks for while there is no replica; 0 where there is none, or it does not know."""
    if autoscale.query is None or sight.answer.value is None:
        return 0
    return _up(max(0.0, sight.answer.value) / autoscale.query.target)


def base_of(task: TaskSpec, resource: str) -> tuple[int, str]:
    """What a percentage of a resource (`cpu_millis`, `memory_bytes`) is of: the reservation, or else the limit; 0 where
    the job says neither."""
    reserved = getattr(task.reservations, resource)
    return (reserved, "reservation") if reserved else (getattr(task.limits, resource), "limit")


def _recommended(autoscale: Autoscale, task: TaskSpec, replicas: int, sight: Sight) -> Iterator[Recommendation]:
    if autoscale.cpu_percent:
        used = {slot: load.cpu_millis for slot, load in sight.tasks.items()}
        yield _of_each("cpu", used, base_of(task, "cpu_millis"), autoscale.cpu_percent, replicas)
    if autoscale.memory_percent:
        used = {slot: float(load.memory_bytes) for slot, load in sight.tasks.items()}
        yield _of_each("memory", used, base_of(task, "memory_bytes"), autoscale.memory_percent, replicas)
    if autoscale.requests_per_second:
        yield _requests(autoscale.requests_per_second, replicas, sight.traffic)
    if autoscale.query is not None:
        yield _query(autoscale.query.target, replicas, sight.answer)


def _of_each(
    metric: str, used: Mapping[int, float], base: tuple[int, str], percent: int, replicas: int
) -> Recommendation:
    amount, what = base
    if not used or not amount:
        text = f"{metric}: no task has told what it uses" if amount else f"{metric}: the version has no {what} of it"
        return Recommendation(metric=metric, replicas=None, text=text)
    shares = [value / amount * 100 / percent for slot, value in sorted(used.items()) if slot <= replicas]
    if not shares:
        return Recommendation(metric=metric, replicas=None, text=f"{metric}: no task has told what it uses")
    wanted = _filled(shares, replicas)
    mean = sum(shares) / len(shares) * percent
    unknown = f", {replicas - len(shares)} of {replicas} tasks are not known" if len(shares) < replicas else ""
    text = f"{metric} is {decimal(round(mean, 1))} % of the {what}{unknown}, {percent} % is wanted: {_count(wanted)}"
    return Recommendation(metric=metric, replicas=wanted, text=text)


def _filled(shares: Iterable[float], replicas: int) -> int:
    """From the shares of the target that the known tasks use; see the module for those that are not known."""
    known = list(shares)
    ratio = sum(known) / len(known)
    if abs(ratio - 1) <= TOLERANCE + _ROUNDING:
        return replicas
    if ratio > 1:
        return max(replicas, _rounded(sum(known), replicas))
    return min(replicas, _rounded(sum(known) + replicas - len(known), replicas))


def _requests(target: float, replicas: int, traffic: Traffic) -> Recommendation:
    wanted = _rounded(traffic.per_second / target, replicas)
    told = f"requests are {decimal(round(traffic.per_second, 1))} a second"
    text = f"{told}, {target:g} a second for each replica are wanted: {_count(wanted)}"
    if not traffic.missing:
        return Recommendation(metric="requests", replicas=wanted, text=text)
    if wanted > replicas:  # whatever is missing can only add to it
        return Recommendation(metric="requests", replicas=wanted, text=text)
    return Recommendation(metric="requests", replicas=None, text=f"requests are not known: {traffic.missing}")


def _query(target: float, replicas: int, answer: Answer) -> Recommendation:
    if answer.value is None:
        return Recommendation(metric="query", replicas=None, text=f"query: {answer.problem}")
    wanted = _rounded(max(0.0, answer.value) / target, replicas)
    text = f"query is {answer.value:g}, {target:g} for each replica is wanted: {_count(wanted)}"
    return Recommendation(metric="query", replicas=wanted, text=text)


def _rounded(total: float, replicas: int) -> int:
    """`total` is the load in replicas that are exactly at their target."""
    return replicas if abs(total - replicas) <= TOLERANCE * replicas + _ROUNDING else _up(total)


def _up(total: float) -> int:
    return math.ceil(min(total, 1e9) - _ROUNDING)


def _count(replicas: int) -> str:
    return "1 replica" if replicas == 1 else f"{replicas} replicas"
