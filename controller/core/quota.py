"""What quotas allow: whether a write asks for more than its namespace may have, and whether a job that grows by itself
may grow. Lowering a quota stops nothing: what is there stays, only growth is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from common.errors import Conflict
from common.model.api import QuotaView, SetQuota
from common.model.job import Job, JobSpec, JobVersion
from common.model.quota import CPU, DEVICES, MEMORY, TASKS, Quota
from common.units import cores, size
from controller.state import Erase, Group, State, Write
from controller.usage import Amounts, added, amounts_of, asked_by, grows_by_itself


def check_quotas(state: State, groups: Iterable[Group]) -> None:
    """Raises `Conflict` with every limit that these changes would exceed; then none of them may be carried out."""
    if not state.quotas:
        return
    changes = [change for group in groups for change in group]
    specs = {
        (change.record.job_id, change.record.version): change.record.spec
        for change in changes
        if isinstance(change, Write) and isinstance(change.record, JobVersion)
    }
    growth: dict[str, dict[str, int]] = {}
    for change in changes:
        if isinstance(change, Write) and isinstance(change.record, Job):
            job = change.record
            spec = specs.get((job.id, job.version)) or state.versions_of(job.id)[job.version].spec
            more = added(_asked(state, job, spec), _asked_now(state, job.id), -1)
            growth[job.namespace] = added(growth.get(job.namespace, {}), more)
    faults = [text for namespace, more in sorted(growth.items()) for text in exceeded(state, namespace, more)]
    if faults:
        raise Conflict("\n".join(faults))


def over_quota(state: State, job: Job) -> str:
    """Why a job as it would be asks for more than its namespace may have; empty when it does not."""
    try:
        check_quotas(state, [(Write(job),)])
    except Conflict as refusal:
        return str(refusal)
    return ""


def exceeded(state: State, namespace: str, more: Amounts) -> Iterator[str]:
    """Each limit of a namespace that asking for `more` would exceed, with the numbers. What shrinks exceeds none."""
    quota = state.quotas.get(namespace)
    used = state.usage_of(namespace) if quota is not None else {}
    for name, limit in sorted(quota.limits.items()) if quota is not None else ():
        asked, now = more.get(name, 0), used.get(name, 0)
        if asked > 0 and now + asked > limit:
            needed = shown(name, now + asked)
            yield (
                f"over the quota of namespace {namespace}: asks for {words(name, asked)} more, "
                f"{shown(name, now)} of {words(name, limit)} {'is' if now == 1 else 'are'} used; "
                f"allow it with `podium quota set {namespace} {_key(name)}={needed}`, or ask for less"
            )


def may_grow(state: State, job: Job, spec: JobSpec, decided: int) -> str:
    """Why a job that grows by itself may not have one slot more; empty when it may. `decided` were not counted yet."""
    if job.namespace not in state.quotas or not grows_by_itself(job, spec):
        return ""
    return next(exceeded(state, job.namespace, amounts_of(spec.task, decided + 1)), "")


def set_quota(state: State, request: SetQuota) -> tuple[Group, ...]:
    """The change that gives a namespace these limits; those that are not named stay as they are."""
    before = state.quotas.get(request.namespace)
    kept = {} if request.lift_all or before is None else before.limits
    limits = {name: limit for name, limit in (kept | request.limits).items() if name not in request.lifted}
    if before is not None and not limits:
        return ((Erase(before),),)
    if not limits or (before is not None and before.limits == limits):
        return ()
    return ((Write(Quota(namespace=request.namespace, limits=dict(sorted(limits.items())))),),)


def quota_view(state: State, namespace: str) -> QuotaView:
    """Limits beside what is used; with a warning for each that is exceeded already."""
    quota = state.quotas.get(namespace)
    limits = quota.limits if quota is not None else {}
    used = state.usage_of(namespace)
    over = tuple(
        f"{shown(name, used[name])} of {words(name, limit)} are used: nothing is stopped, but nothing more is admitted"
        for name, limit in limits.items()
        if used.get(name, 0) > limit
    )
    return QuotaView(namespace=namespace, limits=limits, used=dict(sorted(used.items())), warnings=over)


def words(name: str, amount: int) -> str:
    """`2 cores`, `1 GiB of memory`, `3 tasks`, `0.5 gpu`."""
    if name == CPU:
        return cores(amount)
    if name == MEMORY:
        return f"{size(amount)} of memory"
    if name == TASKS:
        return "1 task" if amount == 1 else f"{amount} tasks"
    return f"{shown(name, amount)} {name.removeprefix(DEVICES)}"


def shown(name: str, amount: int) -> str:
    """As `podium quota set` takes it."""
    if name == TASKS:
        return str(amount)
    return f"{amount / 1000:g}" if name != MEMORY else size_argument(amount)


def size_argument(amount_bytes: int) -> str:
    """In the largest unit that says it exactly: `512M`."""
    for unit, power in (("G", 30), ("M", 20), ("K", 10)):
        if amount_bytes and not amount_bytes % (1 << power):
            return f"{amount_bytes >> power}{unit}"
    return str(amount_bytes)


def _key(name: str) -> str:
    return {CPU: "cpus", MEMORY: "memory"}.get(name, name.removeprefix(DEVICES))


def _asked(state: State, job: Job, spec: JobSpec) -> dict[str, int]:
    return asked_by(job, spec, state.tasks_of_job(job.id).values())


def _asked_now(state: State, job_id: str) -> dict[str, int]:
    job = state.jobs.get(job_id)
    return {} if job is None else _asked(state, job, state.spec_of(job))
