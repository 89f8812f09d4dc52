"""The node's tasks: one runner each, started, changed, stopped and forgotten as sets of assignments say.

Owns which tasks the node knows: those of the journal, those assigned since, and containers found without a journal
entry, which are reported and left alone until a complete set says what they are. What a set means is decided in
`agent.core.assignment_diff`; this class carries it out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import assert_never

import msgspec

from agent.container_request import PROCESS
from agent.core import assignment_diff, task_memory
from agent.core.assignment_diff import Change, Decision, Forget, Start, Stop
from agent.core.stimuli import Assigned, ForgetRequested
from agent.core.task_memory import TaskMemory
from agent.metrics import ContainerUsage
from agent.reporter import Reporter
from agent.runtime.interface import RunningContainer, Runtime
from agent.surroundings import Surroundings
from agent.task_runner import TaskRunner
from common.errors import NotFound, PodiumError
from common.lifecycle import ended
from common.model.job import Container, DesiredState, TaskSpec
from common.model.session import Assignment, Assignments
from common.model.task import TaskReport, TaskState, TaskStatus

logger = logging.getLogger(__name__)


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """The containers of a task that the journal does not know."""

    containers: tuple[RunningContainer, ...]
    """By attempt."""
    runtime: str
    sequence: int
    """Of the statuses reported of it so far. Taken once: a clock that jumps back must not lower it."""

    @property
    def newest(self) -> RunningContainer:
        return self.containers[-1]


class Worker:
    """See the module. `run` must have `begun` before anything is asked of it."""

    def __init__(self, around: Surroundings, reporter: Reporter) -> None:
        self._around = around
        self._reporter = reporter
        self._runners: dict[str, TaskRunner] = {}
        self._found: dict[str, _Found] = {}
        self._kept: dict[str, asyncio.TimerHandle] = {}
        self._unlisted = {runtime.name: runtime for runtime in around.runtimes.all()}
        self._group: asyncio.TaskGroup | None = None
        self.begun = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        around.metrics.tasks(lambda: self.live_tasks)
        for memory in around.journal.tasks():
            self._remember(memory)
        around.runtimes.on_answer(self._engine_answers)

    # --- what is known

    @property
    def live_tasks(self) -> int:
        """Tasks that are meant to run and have not ended, found containers included."""
        return sum(runner.wants_to_run for runner in self._runners.values()) + len(self._found)

    def inventory(self) -> tuple[TaskReport, ...]:
        """Every task the node knows of, with all crash records that nobody has acknowledged."""
        known = tuple(
            TaskReport(
                task_id=task_id,
                status=runner.memory.status,
                ended=waiting.ended if (waiting := self._reporter.unacknowledged(task_id)) else (),
                job=runner.memory.assignment.job_name,
                slot=runner.memory.assignment.slot,
                exclusive=runner.memory.assignment.task.exclusive,
            )
            for task_id, runner in self._runners.items()
            if task_id not in self._kept and not runner.memory.forgetting
        )
        found = tuple(self._found_report(task_id) for task_id in self._found)
        return (*known, *found)

    def runner(self, task_id: str) -> TaskRunner:
        """Raises `NotFound`."""
        try:
            return self._runners[task_id]
        except KeyError:
            raise NotFound(f"task {task_id} is not on this node any more, and neither is its output") from None

    # --- its life

    async def run(self) -> None:
        """Run the tasks. Cancelling lets go of all of them and leaves their containers running."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for runner in tuple(self._runners.values()):
                    self._launch(runner)
                self.begun.set()
                try:
                    await asyncio.get_running_loop().create_future()  # until cancelled
                finally:
                    self._group = None
                    for runner in self._runners.values():
                        runner.let_go()
        finally:
            for handle in self._kept.values():
                handle.cancel()

    async def look_around(self) -> None:
        """Find containers of this node that the journal does not know. Runtimes that are away are asked later."""
        await asyncio.gather(*(self._look_at(runtime) for runtime in tuple(self._unlisted.values())))

    def obey(self, orders: Assignments) -> None:
        """Carry out a set that may be taken at its word. An agent on its way out leaves that to its successor."""
        if self._group is None:
            return
        for decision in assignment_diff.decide(self._known(orders), orders):
            self._carry_out(decision)
        self._note_idle()

    def _known(self, orders: Assignments) -> dict[str, Assignment]:
        """What the node has of the tasks that a set is about: a complete one is about all of them."""
        if orders.complete:
            about: Iterable[str] = (*self._runners, *self._found)
        else:
            about = (*(assignment.task_id for assignment in orders.assignments), *orders.removed)
        known: dict[str, Assignment] = {}
        for task_id in about:
            if task_id in self._found:
                known[task_id] = self._found_assignment(task_id)
            elif task_id in self._runners and task_id not in self._kept:
                known[task_id] = self._runners[task_id].memory.assignment
        return known

    async def stop_all(self, patience_s: float) -> None:
        """Stop and forget every task; those that take longer than `patience_s` beyond their own grace are left."""
        for task_id in list(self._found):
            self._take_up_found(task_id, None)
        graces = [runner.memory.assignment.task.container.stop_grace_s for runner in self._runners.values()]
        for runner in list(self._runners.values()):
            runner.feed(ForgetRequested())
        try:
            async with asyncio.timeout(max(graces, default=0.0) + patience_s):
                await self._idle.wait()
        except TimeoutError:
            left = ", ".join(runner.task_id for runner in self._runners.values())
            logger.warning("tasks that did not stop in time are left to their runtime: %s", left)

    async def usages(self) -> tuple[ContainerUsage, ...]:
        """What the running containers use, as far as their runtimes answer."""
        limit = asyncio.Semaphore(self._around.bounds.container_usage_at_once)
        running = [runner for runner in self._runners.values() if runner.memory.runs]
        found = await asyncio.gather(*(_usage_of(runner, limit) for runner in running))
        return tuple(usage for usage in found if usage is not None)

    # --- decisions

    def _carry_out(self, decision: Decision) -> None:
        match decision:
            case Start(assignment):
                self._launch(self._remember(task_memory.new(assignment, self._around.node_id)))
            case Change(assignment) | Stop(assignment):
                if assignment.task_id in self._found:
                    self._take_up_found(assignment.task_id, assignment)
                self._runners[assignment.task_id].feed(Assigned(assignment))
            case Forget(task_id):
                self._forget(task_id)
            case _:
                assert_never(decision)

    def _forget(self, task_id: str) -> None:
        if task_id in self._found:
            self._take_up_found(task_id, None)
        runner = self._runners[task_id]
        self._reporter.forget(task_id)
        ended_by_itself = runner.memory.status.state in (TaskState.COMPLETE, TaskState.FAILED)
        if ended_by_itself and not runner.memory.forgetting:
            return self._keep_for_logs(task_id)
        return runner.feed(ForgetRequested())

    def _keep_for_logs(self, task_id: str) -> None:
        """Its container stays a while for its output; nobody is told of the task any more."""
        bounds = self._around.bounds
        loop = asyncio.get_running_loop()
        self._kept[task_id] = loop.call_later(bounds.ended_kept_s, self._let_go, task_id)
        for oldest in list(self._kept)[: -bounds.ended_kept or None]:
            self._let_go(oldest)

    def _let_go(self, task_id: str) -> None:
        handle = self._kept.get(task_id)
        if handle is not None:
            handle.cancel()
            self._runners[task_id].feed(ForgetRequested())

    # --- runners

    def _remember(self, memory: TaskMemory) -> TaskRunner:
        runner = self._runners[memory.task_id] = TaskRunner(memory, self._around, self._drop)
        if runner.runtime_name == PROCESS and memory.bindings and not ended(memory.status.state):
            self._around.ports.adopt(memory.task_id, memory.bindings)
        if memory.assignment.fence_after_s and memory.attempt and not ended(memory.status.state):
            self._around.fence.watch(memory.task_id, memory.assignment.fence_after_s, runner.fence)
        self._note_idle()
        return runner

    def _launch(self, runner: TaskRunner) -> None:
        assert self._group is not None, "only a worker that runs has tasks to launch"
        runner.begin(self._group)

    def _drop(self, task_id: str) -> None:
        self._around.ports.release(task_id)
        self._reporter.forget(task_id)
        self._kept.pop(task_id, None)
        del self._runners[task_id]
        self._note_idle()

    def _note_idle(self) -> None:
        if self._runners or self._found:
            self._idle.clear()
        else:
            self._idle.set()

    def _engine_answers(self, runtime_name: str) -> None:
        for runner in self._runners.values():
            runner.engine_answers(runtime_name)
        if runtime_name in self._unlisted and self._group is not None:
            self._group.create_task(self._look_at(self._unlisted[runtime_name]))

    # --- containers nobody wrote down

    async def _look_at(self, runtime: Runtime) -> None:
        try:
            async with asyncio.timeout(self._around.bounds.adopt_timeout_s):
                containers = await runtime.list()
        except (PodiumError, TimeoutError) as error:
            return logger.info(
                "runtime %s: what runs there is not known yet: %s", runtime.name, str(error) or "no answer"
            )
        self._unlisted.pop(runtime.name, None)
        found: dict[str, list[RunningContainer]] = {}
        for container in sorted(containers, key=lambda item: (item.identity.task_id, item.identity.attempt)):
            if container.identity.task_id not in self._runners:
                found.setdefault(container.identity.task_id, []).append(container)
        # The count is lost with the journal; the clock is above whatever was counted before, if it was not ahead then.
        sequence = int(self._around.clock() * 1000)
        for task_id, attempts in found.items():
            logger.info("task %s: found its container %s, without a journal entry", task_id, attempts[-1].id)
            self._found[task_id] = _Found(containers=tuple(attempts), runtime=runtime.name, sequence=sequence)
            self._reporter.report(TaskReport(task_id=task_id, status=self._found_status(task_id)))
        return self._note_idle()

    def _take_up_found(self, task_id: str, assignment: Assignment | None) -> None:
        """Make a task of the containers found; without an assignment, one that is about to be forgotten."""
        assignment = assignment or self._found_assignment(task_id)
        status = self._found_status(task_id)
        *older, newest = self._found[task_id].containers
        memory = task_memory.adopt(
            task_memory.new(assignment, self._around.node_id),
            container_id=newest.id,
            status=msgspec.structs.replace(status, sequence=max(status.sequence, assignment.observed_sequence) + 1),
            now_s=self._around.clock(),
        )
        memory = msgspec.structs.replace(memory, garbage=tuple(container.id for container in older))
        del self._found[task_id]
        memory = msgspec.structs.replace(memory, bindings=newest.bindings)
        self._around.journal.save(memory)
        runner = self._remember(memory)
        if memory.assignment.fence_after_s:  # when it was permitted, nobody remembers
            runner.fence("stopped by its own agent: it is exclusive, and the agent had lost its journal")
        self._launch(runner)

    def _found_assignment(self, task_id: str) -> Assignment:
        """All that is known of a found container's task: enough to stop it."""
        identity = self._found[task_id].newest.identity
        # A container of an engine has some image; which one matters no more. Its absence means the process runtime.
        image = "unknown" if self._found[task_id].runtime == "docker" else ""
        return Assignment(
            task_id=task_id,
            namespace=identity.namespace,
            job=identity.job,
            slot=identity.slot,
            version=0,
            desired=DesiredState.RUN,
            task=TaskSpec(container=Container(image=image)),
        )

    def _found_report(self, task_id: str) -> TaskReport:
        identity = self._found[task_id].newest.identity
        job = f"{identity.namespace}/{identity.job}"
        return TaskReport(task_id=task_id, status=self._found_status(task_id), job=job, slot=identity.slot)

    def _found_status(self, task_id: str) -> TaskStatus:
        newest = self._found[task_id].newest
        started = newest.running or newest.exit is not None
        return TaskStatus(
            attempt=newest.identity.attempt,
            state=TaskState.RUNNING if started else TaskState.STARTING,
            sequence=self._found[task_id].sequence,
            message="taken up from the container: the agent's journal did not know it",
            started_at_s=newest.started_at_s,
            runtime_id=newest.id,
            ports=newest.bindings,
        )


async def _usage_of(runner: TaskRunner, limit: asyncio.Semaphore) -> ContainerUsage | None:
    assignment = runner.memory.assignment
    try:
        async with limit:
            usage = await runner.runtime.usage(runner.memory.container_id)
    except PodiumError:
        return None
    return ContainerUsage(
        task_id=runner.task_id,
        namespace=assignment.namespace,
        job=assignment.job,
        slot=assignment.slot,
        usage=usage,
    )
