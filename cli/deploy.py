"""`up`, `plan`, `down`, `run` and `validate`: from Compose files to requests, and waiting for what they bring about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cli import render_json, render_plan, render_table
from cli.draw import Drawing, drawing
from cli.errors import DONE, FAILED
from cli.messages import say
from cli.options import OutputFormat
from cli.output import lines, show
from cli.parsing import device_requests, invalid, pairs, port
from cli.progress import Deployment, Done, Failure
from client.client import Client
from common.errors import Fault, Invalid, PodiumError
from common.model.api import Changes, JobDetail, Plan
from common.model.job import Container, JobSpec, TaskSpec
from common.references import parse_reference
from common.validation import faults

if TYPE_CHECKING:
    from client.compose import Project

ParsedT = TypeVar("ParsedT")

TICK_S = 1.0
"""How often time alone may decide a deployment, without news from the controller."""
DOWN_TIMEOUT_S = 60.0
"""A task's stop grace is 10 s by default; longer ones are waited for by `podium ps`."""

PLAN_NOTHING, PLAN_CHANGES = 0, 1


def load_project(
    files: Sequence[str], name: str | None, profiles: Sequence[str], environ: Mapping[str, str], folder: Path
) -> Project:
    """The project of these files, or of the Compose file in `folder`. Prints its warnings; raises `Invalid`."""
    from client import compose

    paths = tuple(Path(file) for file in files) or compose.default_files(folder)
    if not paths:
        raise invalid("", f"no Compose file in {folder.resolve()} (compose.yaml, compose.yml, ...): name one with -f")
    project = compose.load(paths, project_name=name, environment=environ, profiles=tuple(profiles))
    for warning in project.warnings:
        say(f"warning: {warning}")
    return project


@contextmanager
def faults_placed(project: Project) -> Iterator[None]:
    """What the controller refuses is told with the line of the file that asks for it."""
    try:
        yield
    except Invalid as error:
        raise Invalid([project.placed(fault) for fault in error.faults]) from error


# --- up


async def up(
    client: Client, namespace: str, specs: Sequence[JobSpec], *, remove_orphans: bool, detach: bool, timeout_s: float
) -> int:
    """Submit, then wait until every job is healthy or complete; the exit code."""
    done = await client.apply(namespace, specs, remove_orphans=remove_orphans)
    print_changes(done)
    if detach:
        return DONE
    versions = {_short_name(change.job): change.version for change in done.changes if change.action != "remove"}
    return await wait_well(client, namespace, Deployment(versions), timeout_s)


def print_changes(done: Changes) -> None:
    for warning in done.warnings:
        say(f"warning: {warning}")
    lines(render_table.changes(render_json.changes(done)))


def _short_name(job: str) -> str:
    return job.rpartition("/")[2]


async def wait_well(client: Client, namespace: str, deployment: Deployment, timeout_s: float) -> int:
    """Show the deployment until it has an outcome, and what went wrong if something did; the exit code."""
    failures: tuple[Failure, ...] = ()
    try:
        with drawing() as picture:
            outcome = await _watch(client, namespace, deployment, picture, timeout_s)
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("stopped watching; the deployment goes on: `podium ps` shows it")
        raise
    if isinstance(outcome, Done):
        for warning in outcome.warnings:
            say(f"warning: {warning}")
        for note in outcome.notes:
            say(note)
        return DONE
    if outcome is None:
        say(f"error: not healthy after {timeout_s:g} s")
        failures = deployment.unfinished()
    else:
        failures = (outcome, *deployment.also_in_trouble(outcome))
    for failure in failures:
        await _report(client, namespace, failure)
    return FAILED


async def _watch(
    client: Client, namespace: str, deployment: Deployment, picture: Drawing, timeout_s: float
) -> Done | Failure | None:
    """Until the deployment has an outcome; None when time is up first."""
    clock = asyncio.get_running_loop().time
    deadline_s = clock() + timeout_s
    async with aclosing(_ticking(client.watch(namespace))) as news:
        async for details in news:
            if details is not None:
                deployment.observe(details, clock())
            picture.update(deployment.rows())
            outcome = deployment.outcome(clock())
            if outcome is not None or clock() >= deadline_s:
                return outcome
    return None


async def _ticking(
    news: AsyncGenerator[tuple[JobDetail, ...], None],
) -> AsyncGenerator[tuple[JobDetail, ...] | None, None]:
    """The news, and None whenever there was none for a tick."""
    following: asyncio.Future[tuple[JobDetail, ...]] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(news))
            done, _ = await asyncio.wait((following,), timeout=TICK_S)
            if not done:
                yield None
                continue
            finished, following = following, None
            try:
                yield finished.result()
            except StopAsyncIteration:
                return
    finally:
        if following is not None:
            following.cancel()
            await asyncio.wait((following,))


async def _report(client: Client, namespace: str, failure: Failure) -> None:
    say(f"error: {failure.job}: {failure.reason}")
    for line in failure.last_words:
        say(render_table.printable(line))
    if failure.unplaced:
        try:
            verdict = await client.why(namespace, failure.job)
        except PodiumError as error:
            say(f"(why is not known: {error})")
        else:
            for line in render_table.why(render_json.verdict(verdict)):
                say(line)


# --- plan


async def plan(
    client: Client, namespace: str, specs: Sequence[JobSpec], *, remove_orphans: bool, output: OutputFormat
) -> int:
    """Print what `up` would do; 0 when that is nothing, 1 when it changes something."""
    planned = await client.plan(namespace, specs, remove_orphans=remove_orphans)
    plain = render_json.plan(planned)
    if output is OutputFormat.NAME:
        lines(change["job"] for change in plain["changes"] if change["action"] != "unchanged")
    else:
        show(output, plain, name=str, table=lambda: render_plan.plan(plain))
    return PLAN_CHANGES if _changes_something(planned) else PLAN_NOTHING


def _changes_something(planned: Plan) -> bool:
    return bool(planned.steps or planned.placements or planned.stops or planned.unplaced) or any(
        change.action != "unchanged" for change in planned.changes
    )


# --- down


async def down(client: Client, namespace: str, *, detach: bool, timeout_s: float = DOWN_TIMEOUT_S) -> int:
    """Remove every job of the namespace and wait until their tasks have ended."""
    done = await client.remove(namespace, all_jobs=True)
    print_changes(done)
    if not done.changes:
        say(f"there is nothing in namespace {namespace}")
    if detach or not done.changes:
        return DONE
    return await wait_gone(client, namespace, {_short_name(change.job) for change in done.changes}, timeout_s)


async def wait_gone(client: Client, namespace: str, jobs: Iterable[str], timeout_s: float) -> int:
    """Until none of these jobs is left."""
    wanted = frozenset(jobs)
    left: list[JobDetail] = []
    try:
        async with asyncio.timeout(timeout_s), aclosing(client.watch(namespace)) as news:
            async for details in news:
                left = [detail for detail in details if detail.view.job.name in wanted]
                if not left:
                    return DONE
    except TimeoutError:
        names = ", ".join(detail.view.job.full_name for detail in left)
        say(f"error: still stopping after {timeout_s:g} s: {names}; `podium ps` shows their tasks")
    return FAILED


# --- run


def run_spec(
    namespace: str,
    image: str,
    *,
    name: str | None,
    replicas: int,
    ports: Sequence[str],
    environment: Sequence[str],
    devices: Sequence[str],
    command: Sequence[str],
) -> JobSpec:
    """The job of `podium run`. Raises `Invalid` with everything wrong with it."""
    found: list[Fault] = []
    variables = _kept(found, lambda: pairs("env", environment)) or {}
    container = Container(image=image, command=tuple(command), environment=variables)
    published = [_kept(found, partial(port, "publish", text)) for text in ports]
    requests = _kept(found, lambda: device_requests(devices)) or ()
    task = TaskSpec(container=container, ports=tuple(each for each in published if each), devices=requests)
    named = name or _kept(found, lambda: default_name(image)) or "unnamed"
    spec = JobSpec(namespace=namespace, name=named, replicas=replicas, task=task)
    if found := [*found, *faults(spec)]:
        raise Invalid(found)
    return spec


def _kept(found: list[Fault], parse: Callable[[], ParsedT]) -> ParsedT | None:
    """What `parse` makes of its text, or None and its faults among those `found`."""
    try:
        return parse()
    except Invalid as error:
        found += error.faults
        return None


def default_name(image: str) -> str:
    """The last part of an image's name, e.g. `web` of `registry:5000/shop/web:1.4`."""
    if not image:
        raise Invalid([Fault(path="name", text="a process has no image to be named after: give --name")])
    try:
        repository = parse_reference(image).name
    except Invalid:
        return ""  # said of the image itself
    return repository.rpartition("/")[2].replace("_", "-").replace(".", "-").strip("-")
