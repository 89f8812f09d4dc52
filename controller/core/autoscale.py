"""How many replicas a job should have now, and why. PURE: from the job, its load and what was asked for lately.

What the metrics ask for (`load`) goes, the greatest of it, through the bounds, the schedule, the window of
stabilisation and the pace, in this order, as in Kubernetes' horizontal autoscaler. The number and what counts against
the pace are in the job's record; what was asked for lately is in the leader's memory: a new leader takes the number it
finds as asked for, and so makes nothing smaller for as long as the window lasts. A job without replicas is asleep:
connections (`waking`), its query and its schedule wake it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from common.model.autoscale import Autoscale, Pace, Scaling, ScalingStep
from common.model.job import DesiredState, Job, JobSpec
from common.schedule import last_until, next_after, shown
from controller.core import rollout_machine as machine
from controller.core.clocks import CLOCKS_DIFFER_S, since_s
from controller.core.load import Recommendation, Sight, query_replicas, recommendations
from controller.core.quota import over_quota
from controller.core.settings import ROLLOUT_HOLDS_S, SCALING_STEPS_KEPT
from controller.state import State


class Asked(msgspec.Struct, frozen=True):
    """So many replicas were asked for, at a moment of a clock that never runs back."""

    at_s: float
    replicas: int


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What a leader remembers of one job between two looks."""

    replicas: int
    """As they were left: another number now was somebody else's doing."""
    asked: tuple[Asked, ...] = ()
    """Within the longer window, oldest first; where several asked for the same only the last."""


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What one look found."""

    job: Job
    """As it should be; the same object when nothing is to be written."""
    memory: Memory
    texts: tuple[str, ...] = ()
    """What every metric says and what keeps the number from following, for people."""
    wake_at_s: float = math.inf
    """When the schedule is due next."""


def scaled(job: Job, spec: JobSpec) -> bool:
    """Whether the job's number is looked after."""
    runs = job.desired is DesiredState.RUN and not job.removed
    return job.autoscale is not None and runs and spec.schedule is None


def look(job: Job, spec: JobSpec, sight: Sight, memory: Memory | None, now_s: float, steady_s: float) -> Outlook:
    """`spec` is of the job's wanted version, and the job is one that is `scaled`. `now_s` is Unix time, `steady_s` a
    clock that never runs back."""
    assert job.autoscale is not None
    autoscale = job.autoscale
    if memory is None or memory.replicas != job.replicas:  # a new leader, or somebody set the number by hand
        memory = Memory(replicas=job.replicas, asked=(Asked(steady_s, job.replicas),))
    wake_at_s = _next_due_s(autoscale, now_s)
    due = _due(autoscale, job.scaling, now_s)
    if due is not None:
        job = msgspec.structs.replace(job, scaling=due)
        if due.floor == 0 and job.replicas:
            after = with_replicas(
                job, 0, f"the schedule says 0 from {shown(due.taken_s, autoscale.timezone)} on", now_s
            )
            left = Memory(replicas=0, asked=(Asked(steady_s, 0),))
            return Outlook(job=after, memory=left, texts=(after.scaling.reason,), wake_at_s=wake_at_s)
    floor = _floor(autoscale, job.scaling)
    if not job.replicas:
        return _asleep(job, autoscale, sight, floor, now_s, steady_s, wake_at_s)
    told = recommendations(autoscale, spec.task, job.replicas, sight)
    wanted, because = _wanted(autoscale, job, told, sight, floor)
    texts = [recommendation.text for recommendation in told]
    memory = _with(memory, Asked(steady_s, wanted), _window_s(autoscale))
    after_s, held = _paced(job, spec, memory, wanted, steady_s, now_s, floor)
    texts += [text for text in (_users(autoscale, sight) if not floor else "", because, held) if text]
    changed = job if after_s == job.replicas else with_replicas(job, after_s, _reason(told, after_s, because), now_s)
    left = msgspec.structs.replace(memory, replicas=after_s)
    return Outlook(job=changed, memory=left, texts=tuple(texts), wake_at_s=wake_at_s)


def with_replicas(job: Job, replicas: int, reason: str, now_s: float) -> Job:
    """`job` with another number, and the note of it that its pace is measured by."""
    autoscale = job.autoscale
    longest_s = max(autoscale.up.period_s, autoscale.down.period_s) if autoscale is not None else 0.0
    steps = (
        *_recent(job.scaling.steps, longest_s, now_s),
        ScalingStep(at_s=now_s, before=job.replicas, after=replicas),
    )
    scaling = msgspec.structs.replace(
        job.scaling,
        reason=reason,
        steps=steps[-SCALING_STEPS_KEPT:],
        woken_at_s=job.scaling.woken_at_s if replicas else 0.0,
    )
    return msgspec.structs.replace(machine.touched(job, now_s), replicas=replicas, scaling=scaling)


def affordable(state: State, before: Job, after: Job, now_s: float) -> tuple[Job, str]:
    """`after`, or with as many more replicas than `before` as the quota of its namespace allows, and what it says."""
    refused = over_quota(state, after)
    if not refused or after.replicas <= before.replicas:
        return after, ""
    low, high = before.replicas, after.replicas - 1
    while low < high:  # the greatest number that may be
        middle = (low + high + 1) // 2
        fits = not over_quota(state, msgspec.structs.replace(after, replicas=middle))
        low, high = (middle, high) if fits else (low, middle - 1)
    if low == before.replicas:
        return before, refused
    fewer = with_replicas(msgspec.structs.replace(before, scaling=after.scaling), low, after.scaling.reason, now_s)
    steps = (*after.scaling.steps[:-1], fewer.scaling.steps[-1])
    return msgspec.structs.replace(fewer, scaling=msgspec.structs.replace(fewer.scaling, steps=steps)), refused


def begins_with(autoscale: Autoscale, replicas: int) -> int:
    """Between the ends, where a job begins or comes under other ones."""
    return max(autoscale.least, min(replicas, autoscale.most))


def asleep_text(job: Job) -> str:
    """What a job does that has no replica, or had none a moment ago; empty for one that simply runs."""
    autoscale = job.autoscale
    if autoscale is None:
        return ""
    if not job.replicas:
        return "sleeps; the next connection wakes it" if autoscale.wakes else "sleeps"
    return job.scaling.woke if job.scaling.steps and not job.scaling.steps[-1].before else ""


def kept_notes(state: State, specs: Iterable[JobSpec]) -> tuple[str, ...]:
    """For each job that has another number than its file, since it follows its load."""
    found = []
    for spec in specs:
        job = state.job_named(spec.namespace, spec.name)
        if job is None or job.autoscale is None or spec.autoscale is None or job.desired is DesiredState.STOP:
            continue
        if job.replicas != spec.replicas:
            has = f"{job.full_name} has {job.replicas} replicas by its autoscaling, {bounds_text(spec.autoscale)}"
            found.append(f"{has}; deploy.replicas, {spec.replicas}, is only what it began with")
    return tuple(found)


def bounds_text(autoscale: Autoscale) -> str:
    """`between 2 and 10 by cpu 70 %, 100 requests per second`."""
    by = [
        f"cpu {autoscale.cpu_percent} %" if autoscale.cpu_percent else "",
        f"memory {autoscale.memory_percent} %" if autoscale.memory_percent else "",
        f"{autoscale.requests_per_second:g} requests per second" if autoscale.requests_per_second else "",
        f"a query of {autoscale.query.target:g}" if autoscale.query is not None else "",
        f"a schedule of {len(autoscale.schedule)}" if autoscale.schedule else "",
        "connections" if autoscale.wakes and not autoscale.measures else "",
    ]
    return f"between {autoscale.least} and {autoscale.most} by {', '.join(filter(None, by))}"


# --- the schedule


def _due(autoscale: Autoscale, scaling: Scaling, now_s: float) -> Scaling | None:
    """The scaling after the entry that came due since the last one was carried out; None when none did.

    Of several that were missed only the latest counts. A clock that was wrong may have dated the last one.
    """
    from_s = max(scaling.schedule_from_s, scaling.taken_s)
    if from_s > now_s + CLOCKS_DIFFER_S:
        from_s = 0.0
    past = [(last_until(entry.at, autoscale.timezone, now_s), entry.replicas) for entry in autoscale.schedule]
    due_s, floor = max(past, default=(0.0, 0))
    return msgspec.structs.replace(scaling, taken_s=due_s, floor=floor) if due_s > from_s else None


def _next_due_s(autoscale: Autoscale, now_s: float) -> float:
    return min((next_after(entry.at, autoscale.timezone, now_s) for entry in autoscale.schedule), default=math.inf)


def _floor(autoscale: Autoscale, scaling: Scaling) -> int:
    """The least number now: that of the schedule from its first entry on. It never leads beyond the greatest."""
    return min(scaling.floor, autoscale.most) if _scheduled(autoscale, scaling) else autoscale.least


def _scheduled(autoscale: Autoscale, scaling: Scaling) -> bool:
    return bool(autoscale.schedule) and scaling.taken_s > 0


# --- asleep


def _asleep(
    job: Job, autoscale: Autoscale, sight: Sight, floor: int, now_s: float, steady_s: float, wake_at_s: float
) -> Outlook:
    """Without a replica there is nothing to measure but a query, which a schedule's 0 overrides."""
    off = _scheduled(autoscale, job.scaling) and floor == 0
    asked = 0 if off else min(query_replicas(autoscale, sight), autoscale.most)
    wanted = max(floor, asked)
    after, text = job, "it sleeps: the next connection wakes it" if autoscale.wakes else "it sleeps"
    if wanted:
        answer = f"the query is {sight.answer.value or 0:g}"
        text = answer if asked > floor else f"the schedule says {floor}" if autoscale.schedule else f"min is {floor}"
        after = with_replicas(job, wanted, text, now_s)
    memory = Memory(replicas=wanted, asked=(Asked(steady_s, wanted),))
    return Outlook(job=after, memory=memory, texts=(text,), wake_at_s=wake_at_s)


# --- what is asked for


def _wanted(
    autoscale: Autoscale, job: Job, told: Iterable[Recommendation], sight: Sight, floor: int
) -> tuple[int, str]:
    """The number that the metrics together ask for, within the bounds; and what kept it from being another one."""
    known = [recommendation.replicas for recommendation in told if recommendation.replicas is not None]
    unknown = [recommendation.metric for recommendation in told if recommendation.replicas is None]
    if not autoscale.measures:
        asked = floor if floor and _scheduled(autoscale, job.scaling) else job.replicas
    else:
        asked = max(known, default=job.replicas)
    because = ""
    if unknown and asked < job.replicas:
        asked, because = job.replicas, f"it is not made smaller while {' and '.join(unknown)} is not known"
    elif floor == 0 and not unknown and _idle(autoscale, sight, asked):
        return 0, ""
    least = max(floor, 1)
    if asked > autoscale.most or max(asked, 1) < least:
        because = f"{asked} is beyond its bounds of {least} to {autoscale.most}"
    return max(least, min(asked, autoscale.most)), because


def _users(autoscale: Autoscale, sight: Sight) -> str:
    """Who keeps it awake, as far as connections do."""
    if not autoscale.wakes:
        return ""
    if sight.traffic.missing:
        return f"whether anybody uses it is not known: {sight.traffic.missing}"
    number = "1 connection is" if sight.traffic.open == 1 else f"{sight.traffic.open or 'no'} connections are"
    return f"{number} open, {sight.traffic.per_second:.2g} a second come"


def _idle(autoscale: Autoscale, sight: Sight, asked: int) -> bool:
    """Whether nobody uses it: no connection, and a query that asks for none."""
    if autoscale.query is not None and query_replicas(autoscale, sight):
        return False
    if autoscale.query is not None and not autoscale.wakes:
        return asked == 0
    return sight.traffic.none


# --- how fast


def _paced(
    job: Job, spec: JobSpec, memory: Memory, wanted: int, steady_s: float, now_s: float, floor: int
) -> tuple[int, str]:
    """The number that it may have now on the way to `wanted`, and what holds it up."""
    assert job.autoscale is not None
    up, down = job.autoscale.up, job.autoscale.down
    present = job.replicas
    most = min(_within(memory.asked, up.stabilise_s, steady_s))
    least = max(_within(memory.asked, down.stabilise_s, steady_s))
    if most > present:
        allowed = max(_most_by_pace(job, up, now_s), floor)  # what the schedule says is meant at once
        if allowed < most:
            return max(allowed, present), f"at most {_rate(up)} are added in {up.period_s:g} s: {most} must wait"
        return most, ""
    if least < present:
        if _rolls_out(job, spec, now_s):
            return present, "a rollout is under way: it is not made smaller before that is through"
        allowed = _least_by_pace(job, down, now_s)
        if allowed > least:
            return min(allowed, present), f"at most {_rate(down)} are taken in {down.period_s:g} s: {least} must wait"
        return least, ""
    if wanted != present:
        pace = up if wanted > present else down
        return present, f"{wanted} must have been asked for throughout {pace.stabilise_s:g} s"
    return present, ""


def _rolls_out(job: Job, spec: JobSpec, now_s: float) -> bool:
    """Whether a rollout comes further: one that does not, since its tasks cannot start, must keep nobody awake."""
    rollout = machine.current(job, spec)
    goes_on = rollout is not None and machine.active(rollout) and not job.paused
    return goes_on and rollout is not None and since_s(rollout.advanced_at_s, now_s) < ROLLOUT_HOLDS_S


def _most_by_pace(job: Job, pace: Pace, now_s: float) -> int:
    added = sum(max(0, step.after - step.before) for step in _recent(job.scaling.steps, pace.period_s, now_s))
    begun = max(0, job.replicas - added)
    return max(begun + pace.replicas, math.ceil(begun * (1 + pace.percent / 100)))


def _least_by_pace(job: Job, pace: Pace, now_s: float) -> int:
    taken = sum(max(0, step.before - step.after) for step in _recent(job.scaling.steps, pace.period_s, now_s))
    begun = job.replicas + taken
    return max(0, min(begun - pace.replicas, math.floor(begun * (1 - min(pace.percent, 100) / 100))))


def _recent(steps: Iterable[ScalingStep], period_s: float, now_s: float) -> tuple[ScalingStep, ...]:
    """Those within the period; a date further ahead than clocks may differ is of one that was wrong."""
    return tuple(step for step in steps if now_s - period_s < step.at_s <= now_s + CLOCKS_DIFFER_S)


def _rate(pace: Pace) -> str:
    return " or ".join(filter(None, (f"{pace.replicas}" if pace.replicas else "", f"{pace.percent} %")))


# --- memory and words


def _window_s(autoscale: Autoscale) -> float:
    return max(autoscale.up.stabilise_s, autoscale.down.stabilise_s)


def _within(asked: Iterable[Asked], window_s: float, steady_s: float) -> list[int]:
    """What was asked for within the window: the newest in any case."""
    *before, newest = asked
    return [*(one.replicas for one in before if one.at_s > steady_s - window_s), newest.replicas]


def _with(memory: Memory, new: Asked, window_s: float) -> Memory:
    """With what is asked for now, without what is too old; of equal neighbours the last one is enough."""
    kept = [one for one in memory.asked if one.at_s > new.at_s - window_s]
    if kept and kept[-1].replicas == new.replicas:
        kept.pop()
    return msgspec.structs.replace(memory, asked=(*kept, new))


def _reason(told: Iterable[Recommendation], replicas: int, because: str) -> str:
    """What moved it: the metric that asks for most."""
    known = [recommendation for recommendation in told if recommendation.replicas is not None]
    if replicas == 0:
        return "nothing asks for it any more"
    if not known:
        return because or "the schedule"
    return max(known, key=lambda recommendation: recommendation.replicas or 0).text
