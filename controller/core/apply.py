"""What an engineer's write does to the jobs: from a request and the state to changes and the words for them.

Everything is compared by content: the same request again changes nothing and says so. Nothing here starts or stops a
task; it only changes what is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

import msgspec

from common.errors import Conflict, Fault, Invalid, NotFound
from common.model.api import ApplyRequest, JobChange, JobsRequest, ScaleRequest
from common.model.asset import SHOWN_DIGEST_CHARACTERS
from common.model.autoscale import Scaling
from common.model.ids import Rng, new_id
from common.model.job import DesiredState, Job, JobSpec, JobVersion, PublishMode, Recurrence, TaskSpec
from common.settings import LIMITS
from controller.core import rollout_machine as machine
from controller.core.autoscale import begins_with, bounds_text
from controller.core.dependencies import dependency_faults
from controller.core.quota import check_quotas
from controller.core.runs import begun_anew, carried_on, newest_first, removed, stopped
from controller.core.views import over
from controller.state import Group, State, Write


class Applying(msgspec.Struct, frozen=True, kw_only=True):
    groups: tuple[Group, ...]
    changes: tuple[JobChange, ...]


def apply_specs(state: State, request: ApplyRequest, now_s: float, rng: Rng) -> Applying:
    """Create and update jobs to match the request. Raises `Invalid` naming every spec that cannot be."""
    faults = [*conflicting_ports(state, request), *dependency_faults(state, request)]
    if faults:
        raise Invalid(faults)
    done = [apply_one(state, spec, request.idempotency_key, now_s, rng) for spec in request.specs]
    if request.remove_orphans:
        named = {spec.name for spec in request.specs}
        orphans = [job for job in jobs_of(state, request.namespace) if job.name not in named and not job.removed]
        done += [_remove_one(state, job) for job in orphans if job.run_of is None]
    return within_quotas(state, together(done))


def scale(state: State, request: ScaleRequest, now_s: float) -> Applying:
    """Set the number of replicas; starts nothing that was stopped."""
    done = []
    for target in request.targets:
        job = existing(state, request.namespace, target.job)
        if not 0 <= target.replicas <= LIMITS.replicas:
            text = f"{target.replicas} replicas; allowed are 0 to {LIMITS.replicas}"
            raise Invalid([Fault(path=f"{target.job}.replicas", text=text)])
        if state.spec_of(job).mode.per_node:
            text = f"{job.full_name} has a task on every node that fits: there is no number to set"
            raise Invalid([Fault(path=f"{target.job}.replicas", text=text)])
        if fault := _beyond_autoscale(job, target.replicas):
            raise Conflict(fault)
        if state.spec_of(job).gang and target.replicas > LIMITS.gang_tasks:
            text = f"{target.replicas} tasks; a gang has at most {LIMITS.gang_tasks}"
            raise Invalid([Fault(path=f"{target.job}.replicas", text=text)])
        text = f"from {job.replicas} to {target.replicas}"
        if job.autoscale is not None:
            text += f"; it is scaled {bounds_text(job.autoscale)} from there"
        scaled = msgspec.structs.replace(job, replicas=target.replicas, write_key=request.idempotency_key)
        after = machine.touched(scaled, now_s)
        action = "unchanged" if target.replicas == job.replicas else "scale"
        done.append(changed(job, after, action, text if action == "scale" else ""))
    return within_quotas(state, together(done))


def restart(state: State, request: JobsRequest, now_s: float) -> Applying:
    """A new version of the same spec: every task is replaced, slot by slot, as in any rollout.

    Of a job with a schedule: a run starts now, and takes the place of one that has not ended.
    """
    done = []
    for job in selected(state, request):
        if job.write_key and job.write_key == request.idempotency_key:
            done.append(changed(job, job, "unchanged", "this restart was already accepted"))
            continue
        if job.recurrence is not None:
            done.append(_run_now(state, job, request.idempotency_key, now_s))
            continue
        version = _next_version(state, job)
        spec = _as_it_is(state.spec_of(job), job)
        after = _wanted(job, spec, version, request.idempotency_key, now_s)
        record = JobVersion(job_id=job.id, version=version, spec=spec, created_at_s=now_s)
        change = JobChange(job=job.full_name, action="restart", version=version, text="every task is replaced")
        done.append(((Write(after), Write(record)), change))
    return within_quotas(state, together(done))


def stop(state: State, request: JobsRequest) -> Applying:
    """Stop the tasks and keep the jobs, so that `up` or `restart` brings them back."""
    done = []
    for job in selected(state, request):
        after = msgspec.structs.replace(
            job, desired=DesiredState.STOP, recurrence=_at_rest(job), write_key=request.idempotency_key
        )
        action, text = ("unchanged", "is already stopped") if job.desired is DesiredState.STOP else ("stop", "")
        group, change = changed(job, after, action, text)
        done.append(((*group, *stopped(_unfinished(state, job), f"{job.name} was stopped")), change))
    return together(done)


def remove(state: State, request: JobsRequest) -> Applying:
    """Stop the tasks and forget the jobs once nothing of them runs."""
    return together([_remove_one(state, job) for job in selected(state, request)])


def jobs_of(state: State, namespace: str) -> list[Job]:
    """The jobs of a namespace (all when it is empty), by name."""
    jobs = (job for job in state.jobs.values() if namespace in ("", job.namespace))
    return sorted(jobs, key=lambda job: job.full_name)


# --- one job


def apply_one(state: State, spec: JobSpec, key: str, now_s: float, rng: Rng) -> tuple[Group, JobChange]:
    job = state.job_named(spec.namespace, spec.name)
    if job is None:
        return _create(spec, key, now_s, rng)
    if job.removed:
        raise Conflict(f"{job.full_name} is being removed; try again when its tasks have stopped")
    if job.run_of is not None:
        raise Conflict(f"{job.full_name} is a run of a job with a schedule; choose another name, or remove it first")
    current = state.spec_of(job)
    if same_containers(spec, current):
        return _renumber(job, spec, key, now_s)
    version = _next_version(state, job)
    after = msgspec.structs.replace(
        with_autoscale(_wanted(job, spec, version, key, now_s), job, spec, now_s),
        priority=spec.priority,
        recurrence=carried_on(job, current, spec, now_s),
    )
    record = JobVersion(job_id=job.id, version=version, spec=spec, created_at_s=now_s)
    wanted = msgspec.structs.replace(spec, replicas=after.replicas)
    text = "; ".join(differences(_as_it_is(current, job), wanted))
    return (Write(after), Write(record)), JobChange(job=job.full_name, action="update", version=version, text=text)


def _create(spec: JobSpec, key: str, now_s: float, rng: Rng) -> tuple[Group, JobChange]:
    job = Job(
        id=new_id(rng),
        namespace=spec.namespace,
        name=spec.name,
        version=1,
        replicas=spec.replicas,
        created_at_s=now_s,
        changed_at_s=now_s,
        write_key=key,
        priority=spec.priority,
        recurrence=begun_anew(spec, now_s),
    )
    job = machine.begin(with_autoscale(job, None, spec, now_s), spec, now_s)
    record = JobVersion(job_id=job.id, version=1, spec=spec, created_at_s=now_s)
    what = spec.task.container.image or "a process"
    text = f"{_counted(spec, job.replicas)} of {what}"
    if spec.autoscale is not None:
        text += f", then {bounds_text(spec.autoscale)}"
    return (Write(job), Write(record)), JobChange(job=job.full_name, action="create", version=1, text=text)


def _renumber(job: Job, spec: JobSpec, key: str, now_s: float) -> tuple[Group, JobChange]:
    """What needs no new container: how many there are, and how they rank among those of other jobs."""
    after = msgspec.structs.replace(
        machine.touched(job, now_s),
        replicas=spec.replicas,
        priority=spec.priority,
        desired=DesiredState.RUN,
        write_key=key,
    )
    after = with_autoscale(after, job, spec, now_s)
    ranked = "; ".join(_soft_differences(job, spec))
    if job.desired is DesiredState.STOP:
        progress = job.progress
        if progress.expired_at_s:  # what is through stays, and the deadline counts anew
            progress = msgspec.structs.replace(progress, started_at_s=now_s, expired_at_s=0.0, ended_at_s=0.0)
        after = msgspec.structs.replace(after, recurrence=begun_anew(spec, now_s), progress=progress)
        return changed(job, after, "start", "; ".join(filter(None, (_counted(spec, after.replicas), ranked))))
    if job.replicas != after.replicas:
        scaled = f"from {job.replicas} to {after.replicas}"
        return changed(job, after, "scale", "; ".join(filter(None, (scaled, ranked))))
    if ranked:
        return changed(job, after, "update", f"{ranked}; nothing is restarted")
    return changed(job, job, "unchanged", "")


def _soft_differences(job: Job, spec: JobSpec) -> list[str]:
    """What changes without a new version, but for the number of replicas."""
    found = [f"priority from {job.priority} to {spec.priority}"] if job.priority != spec.priority else []
    if job.autoscale != spec.autoscale:
        found.append(f"autoscale: {bounds_text(spec.autoscale)}" if spec.autoscale is not None else "autoscale: none")
    return found


def with_autoscale(after: Job, before: Job | None, spec: JobSpec, now_s: float) -> Job:
    """`after` with the file's autoscaling. What the load made of the number stays, within the ends; the file's own
    number is only what a job begins with. A schedule that is another one counts from now."""
    autoscale = spec.autoscale
    known = before.autoscale if before is not None else None
    if autoscale is None:
        return msgspec.structs.replace(after, autoscale=None, scaling=Scaling())
    goes_on = before is not None and known is not None and before.desired is DesiredState.RUN
    replicas = before.replicas if before is not None and goes_on else spec.replicas
    if not goes_on or autoscale.least or not before or before.replicas:
        replicas = begins_with(autoscale, replicas)
    scaling = after.scaling
    if known is None or (known.schedule, known.timezone) != (autoscale.schedule, autoscale.timezone):
        scaling = msgspec.structs.replace(scaling, schedule_from_s=now_s, taken_s=0.0, floor=0)
    return msgspec.structs.replace(after, replicas=replicas, autoscale=autoscale, scaling=scaling)


def _beyond_autoscale(job: Job, replicas: int) -> str:
    """Why a job that is scaled by its load cannot have so many; empty when it can."""
    autoscale = job.autoscale
    if autoscale is None or autoscale.least <= replicas <= autoscale.most or replicas == job.replicas:
        return ""
    return (
        f"{job.full_name} is scaled {bounds_text(autoscale)}: {replicas} would not last. Change autoscale in its file, "
        "or leave it out to set the number by hand" + ("; `podium stop` stops the job" if not replicas else "")
    )


def _counted(spec: JobSpec, replicas: int) -> str:
    if spec.mode.per_node:
        return "a task on every node that fits"
    return f"{replicas} {'replica' if replicas == 1 else 'replicas'}"


def _wanted(job: Job, spec: JobSpec, version: int, key: str, now_s: float) -> Job:
    after = msgspec.structs.replace(
        job,
        version=version,
        replicas=spec.replicas,
        desired=DesiredState.RUN,
        changed_at_s=now_s,
        write_key=key,
        paused="",
        note="",
    )
    return machine.begin(after, spec, now_s)


def _remove_one(state: State, job: Job) -> tuple[Group, JobChange]:
    after = msgspec.structs.replace(job, removed=True, desired=DesiredState.STOP)
    group, change = changed(job, after, "remove", "its tasks are stopped first")
    return (*group, *removed(newest_first(state, job))), change


def _run_now(state: State, job: Job, key: str, now_s: float) -> tuple[Group, JobChange]:
    assert job.recurrence is not None
    recurrence = msgspec.structs.replace(begun_anew(state.spec_of(job), now_s) or job.recurrence, waiting_s=int(now_s))
    if job.desired is DesiredState.RUN:
        recurrence = msgspec.structs.replace(recurrence, until_s=job.recurrence.until_s)
    after = msgspec.structs.replace(job, desired=DesiredState.RUN, recurrence=recurrence, write_key=key)
    stops = stopped(_unfinished(state, job), "replaced by a run that was asked for")
    change = JobChange(job=job.full_name, action="restart", version=job.version, text="a run starts now")
    return (Write(after), *stops), change


def _unfinished(state: State, job: Job) -> list[Job]:
    return [run for run in newest_first(state, job) if not over(state, run)]


def _at_rest(job: Job) -> Recurrence | None:
    return job.recurrence and msgspec.structs.replace(job.recurrence, waiting_s=0.0)


def changed(before: Job, after: Job, action: str, text: str) -> tuple[Group, JobChange]:
    change = JobChange(job=before.full_name, action=action, version=after.version, text=text)
    return (() if action == "unchanged" else (Write(after),)), change


def together(done: Sequence[tuple[Group, JobChange]]) -> Applying:
    return Applying(groups=tuple(group for group, _ in done if group), changes=tuple(change for _, change in done))


def within_quotas(state: State, applying: Applying) -> Applying:
    """Raises `Conflict` when it asks for more than its namespace may have."""
    check_quotas(state, applying.groups)
    return applying


def _next_version(state: State, job: Job) -> int:
    return max(state.versions_of(job.id)) + 1


def same_containers(one: JobSpec, other: JobSpec) -> bool:
    return one == msgspec.structs.replace(other, replicas=one.replicas, priority=one.priority, autoscale=one.autoscale)


def _as_it_is(spec: JobSpec, job: Job) -> JobSpec:
    """A version's spec with the numbers that were changed since without a new version."""
    return msgspec.structs.replace(spec, replicas=job.replicas, priority=job.priority, autoscale=job.autoscale)


# --- which jobs


def selected(state: State, request: JobsRequest) -> list[Job]:
    if not request.jobs and request.all_jobs:
        return [job for job in jobs_of(state, request.namespace) if not job.removed and job.run_of is None]
    return [existing(state, request.namespace, name) for name in request.jobs]


def existing(state: State, namespace: str, name: str) -> Job:
    if "/" in name:
        namespace, name = name.split("/", 1)
    job = state.job_named(namespace, name)
    if job is None or job.removed:
        known = ", ".join(other.name for other in jobs_of(state, namespace)[:10] if not other.removed)
        raise NotFound(f"no job {namespace}/{name}" + (f"; the namespace has {known}" if known else ""))
    return job


# --- published ports


def conflicting_ports(state: State, request: ApplyRequest) -> Iterable[Fault]:
    """A published port and a route belong to one job: faults for those asked for twice, or held by another already.

    A port that is published on every node can be bound on no node besides; jobs that bind the same one on their tasks'
    own nodes share the cluster (the scheduler gives it to one task of each node).
    """
    named = {(spec.namespace, spec.name) for spec in request.specs}
    everywhere: dict[str, str] = {}
    bound: dict[str, str] = {}
    for job in state.jobs.values():
        leaves = request.remove_orphans and job.namespace == request.namespace
        if not job.removed and not leaves and (job.namespace, job.name) not in named:
            task = state.spec_of(job).task
            everywhere |= dict.fromkeys(task.public_names, job.full_name)
            bound |= dict.fromkeys(_bound(task), job.full_name)
    for spec in request.specs:
        for port in spec.task.ports:
            for name in port.public_names:
                holder = everywhere.setdefault(name, spec.full_name)
                if holder != spec.full_name:
                    yield _taken(spec, name, holder, routed=name in map(str, port.http))
                elif binder := bound.get(name):
                    text = f"port {name} is bound on nodes by {binder} (mode host); publish another one"
                    yield Fault(path=f"services.{spec.name}.ports", text=text)
    for spec in request.specs:
        for name in _bound(spec.task):
            if holder := everywhere.get(name, ""):
                text = f"port {name} is published on every node by {holder}; bind another one"
                yield Fault(path=f"services.{spec.name}.ports", text=text)


def _taken(spec: JobSpec, name: str, holder: str, *, routed: bool) -> Fault:
    if routed:
        text = f"requests for {name} go to {holder} already; choose another host or path"
        return Fault(path=f"services.{spec.name}.x-podium.http", text=text)
    text = f"port {name} is already published by {holder}; publish another one"
    return Fault(path=f"services.{spec.name}.ports", text=text)


def _bound(task: TaskSpec) -> list[str]:
    """The ports that its tasks take on their own nodes."""
    host = (port for port in task.ports if port.published_port and port.mode is PublishMode.HOST)
    return [f"{port.published_port}/{port.protocol.value}" for port in host]


# --- words


def differences(before: JobSpec, after: JobSpec) -> tuple[str, ...]:
    """What changed from one spec to the other, field by field, e.g. `task.container.image: shop:1.3 -> shop:1.4`."""
    return tuple(_differences("", msgspec.to_builtins(before), msgspec.to_builtins(after)))


def _differences(path: str, before: object, after: object) -> Iterable[str]:
    if isinstance(before, dict) or isinstance(after, dict):
        left, right = (side if isinstance(side, dict) else {} for side in (before, after))
        for name in sorted(left.keys() | right.keys()):
            yield from _differences(f"{path}.{name}" if path else name, left.get(name), right.get(name))
    elif before != after and (pairs := _files(before, after)):
        for target in sorted(pairs):
            yield from _differences(f"{path}[{target}]", *pairs[target])
    elif _has_parts(before) or _has_parts(after):
        sides = (side if isinstance(side, tuple) else () for side in (before, after))
        for place, (old, new) in enumerate(zip_longest(*sides)):
            yield from _differences(f"{path}[{place}]", old, new)
    elif before != after:
        yield f"{path}: {_word(before)} -> {_word(after)}"


def _has_parts(value: object) -> bool:
    """Whether it is a list of things that have fields of their own."""
    return isinstance(value, tuple) and any(isinstance(one, dict) for one in value)


def _files(before: object, after: object) -> dict[str, tuple[object, object]]:
    """Of lists of what is mounted: what is there before and after, by where; empty for other lists."""
    sides = []
    for side in (before, after):
        if not isinstance(side, tuple) or not all(isinstance(item, dict) and "target" in item for item in side):
            return {}
        sides.append({item["target"]: item | _shown(item.get("digest")) for item in side})
    left, right = sides
    return {target: (left.get(target), right.get(target)) for target in left.keys() | right.keys()}


def _shown(digest: str | None) -> dict[str, str]:
    return {"digest": digest[:SHOWN_DIGEST_CHARACTERS]} if digest else {}


def _word(value: object) -> str:
    if value in (None, "", (), {}):
        return "none"
    text = " ".join(map(_word, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
