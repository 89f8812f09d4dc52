"""Runs one task: carries the state machine's instructions out on a runtime and feeds back what came of them.

Owns the task's asyncio tasks and timer, and the order "journal first, then act, then report". Every decision is made in
`agent.core.task_step`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from agent import health, hooks
from agent.asset_requests import ContentAway
from agent.assets import AssetKeeper
from agent.container_request import PROCESS, engine_bindings, environment_of, probe_argv, reachable_ports, request_of
from agent.core import restart, task_step
from agent.core.attempt import Ending
from agent.core.instructions import (
    Abort,
    Create,
    Finish,
    Instruction,
    Operation,
    Prepare,
    Probe,
    ReadLogTail,
    Remove,
    RunHooks,
    SetTimer,
    Start,
    Stop,
    WaitExit,
)
from agent.core.neighbours import Neighbours
from agent.core.stimuli import (
    Assigned,
    Created,
    EngineAway,
    EngineBack,
    Exited,
    FailureKind,
    Fenced,
    ForgetRequested,
    Hooked,
    LogTail,
    OperationFailed,
    Prepared,
    Probed,
    Progress,
    Removed,
    Started,
    Stimulus,
    TimerFired,
)
from agent.core.task_memory import Phase, TaskMemory
from agent.core.task_step import Step
from agent.fence import SelfFence
from agent.guard.interface import HeldContainer
from agent.journal import Journal
from agent.metrics import Metrics
from agent.policy import Guarded, check_policy
from agent.ports import PortAllocator
from agent.runtime.interface import Exit, Runtime
from agent.runtimes import Runtimes
from agent.settings import AgentBounds
from common.backoff import Backoff
from common.errors import Conflict, Invalid, NotFound, PodiumError, Unavailable
from common.lifecycle import ended
from common.model.ids import Rng
from common.model.job import DesiredState, Port
from common.model.privileges import NodePolicy
from common.model.session import Assignment
from common.model.task import PortBinding, TaskReport, TaskState
from common.settings import LIMITS

logger = logging.getLogger(__name__)


_PASSING = (TaskState.PREPARING, TaskState.STARTING)

WRITE_AGAIN = Backoff(first_s=0.2, limit_s=5.0)
"""Before a journal that could not be written is tried again: somebody has to make room on the disk."""


class Report(Protocol):
    """Who brings statuses to the controller (`agent.reporter`)."""

    def __call__(self, report: TaskReport, *, unhurried: bool = False, passing: bool = False) -> None: ...


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What all tasks of a node share."""

    node_id: str
    node_name: str
    address: str
    runtimes: Runtimes
    ports: PortAllocator
    journal: Journal
    fence: SelfFence
    metrics: Metrics
    report: Report
    clock: Callable[[], float]
    rng: Rng
    bounds: AgentBounds
    taken_in: asyncio.Event
    """No container is created or started before it is set: on a node that is not where its journal was written, whose
    disk may be a copy of another machine's, which runs these tasks."""
    assets: AssetKeeper
    neighbours: Callable[[Assignment], Neighbours] = lambda _assignment: Neighbours()
    """Whom a task may call, as of now."""
    policy: NodePolicy = NodePolicy()
    """What tasks may have of the node."""
    guarded: Guarded = Guarded(directories=())
    """What they may not have, whatever the policy says."""
    volumes_changed: Callable[[], None] = lambda: None
    """Called when a container with volumes was made."""


class TaskRunner:
    """See the module. `feed` tells it what happened; `run` lives until the task is forgotten or cancelled."""

    def __init__(self, memory: TaskMemory, around: Surroundings) -> None:
        self.memory = memory
        self._around = around
        self._inbox: asyncio.Queue[Stimulus] = asyncio.Queue()
        self._operation: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._assigned_at_s = around.clock()
        self._finished = False
        self._pre_stopped = 0
        """The attempt whose `pre_stop` hooks were run: not again when the engine was away at the signal."""
        self._unwanted = memory.stopping
        """It was told to stop, if perhaps not yet decided on."""

    @property
    def task_id(self) -> str:
        return self.memory.task_id

    @property
    def ended(self) -> bool:
        return self.memory.phase in (Phase.ENDED, Phase.FORGETTING)

    @property
    def wants_to_run(self) -> bool:
        """Whether the task is to go on: it has not ended and nobody wants it to."""
        wanted = self.memory.assignment.desired is DesiredState.RUN and not self.memory.forgetting
        return wanted and not self.ended

    @property
    def runtime(self) -> Runtime:
        """Raises `Invalid` when the node has none for the task."""
        return self._around.runtimes.of(self.memory.assignment.task.container)

    @property
    def runtime_name(self) -> str:
        """Empty when the node has none for the task."""
        try:
            return self.runtime.name
        except Invalid:
            return ""

    def feed(self, stimulus: Stimulus) -> None:
        """Tell the state machine. Returns at once."""
        match stimulus:
            case Fenced() | ForgetRequested():
                self._unwanted = True
            case Assigned(assignment=assignment):
                self._unwanted |= assignment.desired is DesiredState.STOP
            case _:
                pass
        self._inbox.put_nowait(stimulus)

    def fence(self, reason: str) -> None:
        """The node's permission to run the task is over."""
        self.feed(Fenced(reason))

    def engine_answers(self, runtime_name: str) -> None:
        """The runtime was just heard of: repeat at once what it did not answer."""
        if self.memory.away and self.runtime_name == runtime_name:
            self.feed(EngineBack())

    async def changed(self) -> None:
        """Until the next step of the task."""
        await self._changed.wait()

    async def run(self) -> None:
        """Take the task up where its memory stands. Cancelling lets go of it and leaves its container running."""
        try:
            async with asyncio.TaskGroup() as group:
                await self._turn(None, group)
                while not self._finished:
                    stimulus = await self._inbox.get()
                    if reason := self._fenced():  # first: nothing else counts for a task that must not run
                        await self._turn(Fenced(reason), group)
                    await self._turn(stimulus, group)
                self._cancel(self._operation, self._probe)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._announce()

    # --- one step

    async def _turn(self, stimulus: Stimulus | None, group: asyncio.TaskGroup) -> None:
        """Decide, write it down, then do it.

        What cannot be written down is decided anew until it can: no stimulus is lost to a full disk, and nothing is
        done that a restarted agent would not know of.
        """
        failures = 0
        while not self._write_down(step := self._decide(stimulus), failures):
            failures += 1
            await asyncio.sleep(WRITE_AGAIN.full_jitter_s(failures, self._around.rng))
        self._take(step, group)

    def _decide(self, stimulus: Stimulus | None) -> Step:
        """None: a runner begins."""
        if stimulus is None:
            return task_step.resume(self.memory, self._now_s(), self._around.rng, self._fenced())
        return task_step.step(self.memory, stimulus, self._now_s(), self._around.rng)

    def _fenced(self) -> str:
        """Why the task must not run any more; empty while it may, or has been told."""
        if not self.memory.assignment.fence_after_s or self.memory.fenced or self.ended:
            return ""
        return self._around.fence.reason(self.task_id)

    def _write_down(self, step: Step, failures: int) -> bool:
        """False when the disk refuses."""
        try:
            if step.memory != self.memory or step.ended:
                self._around.journal.save(step.memory, step.ended)
        except Unavailable as error:
            level = logging.DEBUG if failures else logging.WARNING
            logger.log(level, "task %s stands still, its container is left as it is: %s", self.task_id, error)
            return False
        return True

    def _take(self, step: Step, group: asyncio.TaskGroup) -> None:
        """Do what was decided, then tell the controller."""
        before = self.memory
        self.memory = step.memory
        for instruction in step.instructions:
            self._carry_out(instruction, group)
        if step.memory.status != before.status or step.ended:
            self._observe(before)
            report = TaskReport(task_id=self.task_id, status=step.memory.status, ended=step.ended)
            passing = step.memory.status.state in _PASSING and not step.ended
            self._around.report(report, unhurried=self._fails_by_habit, passing=passing)
        if step.memory != before:
            self._announce()

    @property
    def _fails_by_habit(self) -> bool:
        """One that is to stop is waited for, whatever it did before."""
        memory = self.memory
        return not memory.stopping and restart.is_habit(memory.restarts, memory.assignment.attempts_before)

    def _observe(self, before: TaskMemory) -> None:
        now, then = self.memory.status, before.status
        if now.state is not then.state or now.attempt != then.attempt:
            job = f"{self.memory.assignment.job_name}.{self.memory.assignment.slot}"
            logger.info("task %s (%s) attempt %d: %s %s", job, self.task_id, now.attempt, now.state.value, now.message)
            if now.state is TaskState.RUNNING and now.attempt == 1:
                self._around.metrics.task_started(self._now_s() - self._assigned_at_s)
            if now.state is TaskState.RESTARTING:
                self._around.metrics.task_restarted()
        if ended(now.state) and not ended(then.state):
            self._around.ports.release(self.task_id)
            self._around.fence.forget(self.task_id)
            self._around.assets.forget(self.task_id)

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _carry_out(self, instruction: Instruction, group: asyncio.TaskGroup) -> None:
        match instruction:
            case Prepare() | Create() | Start() | WaitExit() | Stop() | ReadLogTail():
                self._cancel(self._operation)
                self._operation = group.create_task(self._perform(instruction))
                if not isinstance(instruction, WaitExit):
                    self._cancel(self._probe)
            case Abort():
                self._cancel(self._operation)
            case Probe():
                self._cancel(self._probe)
                self._probe = group.create_task(self._probe_in_time(instruction))
            case RunHooks():
                self._cancel(self._probe)
                self._probe = group.create_task(self._hooks_in_time(instruction))
            case Remove(container_id=container_id):
                group.create_task(self._remove(container_id))
            case SetTimer(timer=timer, delay_s=delay_s):
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = asyncio.get_running_loop().call_later(delay_s, self.feed, TimerFired(timer))
            case Finish():
                self._finished = True

    # --- operations

    async def _perform(self, operation: Operation) -> None:
        try:
            self.feed(await self._outcome(operation))
        except (Invalid, NotFound, Conflict) as error:
            self.feed(_refused(operation, error))
        except ContentAway as error:
            self.feed(EngineAway(attempt=operation.attempt, reason=str(error)))
        except Unavailable as error:
            self.feed(self._no_answer(operation, str(error)))

    async def _outcome(self, operation: Operation) -> Stimulus:
        attempt = operation.attempt
        match operation:
            case Prepare():
                return await self._prepare(attempt)
            case Create(bindings=bindings):
                await self._around.taken_in.wait()
                request = request_of(
                    self.memory.assignment,
                    attempt,
                    bindings,
                    node_id=self._around.node_id,
                    node_name=self._around.node_name,
                    address=self._around.address,
                    neighbours=self._around.neighbours(self.memory.assignment),
                    files=await self._files(),
                )
                check_policy(request.container, self._around.policy, self._around.guarded)
                container_id = await self.runtime.create(request)
                if request.container.mounts:
                    self._around.volumes_changed()
                return Created(attempt=attempt, container_id=container_id)
            case Start(container_id=container_id):
                await self._around.taken_in.wait()
                await self._files()
                if refusal := await self._refusal(container_id):
                    return OperationFailed(attempt=attempt, kind=FailureKind.CONFLICT, reason=refusal)
                seen = await self.runtime.start_container(container_id)
                return Started(
                    attempt=attempt, runtime_id=seen.id, started_at_s=seen.started_at_s, bindings=seen.bindings
                )
            case WaitExit(container_id=container_id):
                return Exited(attempt=attempt, ending=_ending(await self.runtime.wait(container_id)))
            case Stop():
                return Exited(attempt=attempt, ending=await self._stopped(operation))
            case ReadLogTail(container_id=container_id):
                return LogTail(attempt=attempt, lines=await self._log_tail(container_id))

    async def _refusal(self, container_id: str) -> str:
        """Why the container must not be started; empty when it may. Of an exclusive task: waits for the permission."""
        assignment = self.memory.assignment
        if not assignment.fence_after_s:
            return ""
        held = HeldContainer(
            task_id=self.task_id,
            attempt=self.memory.attempt,
            runtime=self.runtime.name,
            container_id=container_id,
            fence_after_s=assignment.fence_after_s,
            signal=assignment.task.container.stop_signal,
            grace_s=assignment.task.container.stop_grace_s,
        )
        # The permission may have been waited for; a stop that came in the meantime must not begin with a start.
        reason = await self._around.fence.permit(held, self.fence)
        return reason or ("stopped before it was started" if self._unwanted else "")

    async def _prepare(self, attempt: int) -> Prepared:
        loop = asyncio.get_running_loop()
        last = loop.time()

        def progress(text: str) -> None:
            nonlocal last
            if loop.time() - last >= self._around.bounds.progress_interval_s:
                last = loop.time()
                self.feed(Progress(attempt=attempt, text=text))

        declared = await self.runtime.prepare(self.memory.assignment.task.container, progress)
        await self._files()
        return Prepared(attempt=attempt, bindings=self._bindings(declared))

    async def _files(self) -> Path | None:
        """Where the task's configs and secrets are, made where they are not there (any more)."""
        assignment = self.memory.assignment
        runtime = self.runtime
        return await self._around.assets.ensure(
            assignment,
            lambda: runtime.owner_of(assignment.task.container, assignment.task_id, assignment.namespace),
        )

    def _bindings(self, declared: tuple[Port, ...]) -> tuple[PortBinding, ...]:
        """`declared`: by the image."""
        assignment = self.memory.assignment
        if self.runtime.name == PROCESS:
            return self._around.ports.reserve(self.task_id, assignment.task.ports)
        return engine_bindings(reachable_ports(assignment, declared), self._around.address)

    async def _log_tail(self, container_id: str) -> tuple[str, ...]:
        """Never fails: a crash record without lines is better than none."""
        lines: list[str] = []
        try:
            async with asyncio.timeout(self._around.bounds.log_tail_timeout_s):
                async for line in self.runtime.logs(container_id, tail=LIMITS.attempt_log_lines):
                    lines.append(line.text)  # noqa: PERF401 - those read before a time-out count
        except (TimeoutError, PodiumError) as error:
            logger.info("task %s: no log tail of %s: %s", self.task_id, container_id, str(error) or "it took too long")
        return tuple(lines[-LIMITS.attempt_log_lines :])

    async def _remove(self, container_id: str) -> None:
        failures = 0
        while True:
            try:
                await self.runtime.remove(container_id)
                return self.feed(Removed(container_id))
            except PodiumError as error:
                failures += 1
                logger.info("task %s: cannot remove %s yet: %s", self.task_id, container_id, error)
                await asyncio.sleep(task_step.AWAY.full_jitter_s(failures, self._around.rng))

    async def _probe_in_time(self, instruction: Probe) -> None:
        await asyncio.sleep(instruction.delay_s)
        try:
            runtime = self.runtime
        except Invalid:
            return self.feed(Probed(attempt=instruction.attempt, good=None))
        argv = probe_argv(instruction.check, self._environment())
        return self.feed(await health.probe(runtime, instruction, argv))

    async def _hooks_in_time(self, instruction: RunHooks) -> None:
        await asyncio.sleep(instruction.delay_s)
        program = hooks.Hooks(instruction.hooks, self._environment())
        failure = await program.run(self.runtime, instruction.container_id, self._around.bounds.hook_timeout_s)
        self.feed(Hooked(attempt=instruction.attempt, failure=failure))

    async def _stopped(self, stop: Stop) -> Ending:
        """A hook that fails does not keep the container from being stopped: it is only told."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        failure = ""
        if stop.hooks and self._pre_stopped != stop.attempt:
            self._pre_stopped = stop.attempt
            program = hooks.Hooks(stop.hooks, self._environment())
            failure = await program.run(self.runtime, stop.container_id, stop.grace_s, altogether=True) or ""
        left_s = max(0.0, stop.grace_s - (loop.time() - began))
        ending = _ending(await self.runtime.stop_container(stop.container_id, stop.signal, left_s))
        if not failure:
            return ending
        logger.warning("task %s: pre_stop hook %s", self.task_id, failure)
        return msgspec.structs.replace(ending, message=f"pre_stop hook {failure}")

    def _environment(self) -> dict[str, str]:
        assignment, around = self.memory.assignment, self._around
        neighbours = around.neighbours(assignment)
        files = around.assets.place_of(assignment)
        return environment_of(assignment, self.memory.bindings, around.node_name, around.address, neighbours, files)

    def _no_answer(self, operation: Operation, reason: str) -> Stimulus:
        if isinstance(operation, ReadLogTail):
            return LogTail(attempt=operation.attempt)
        return EngineAway(attempt=operation.attempt, reason=f"waits for {self.runtime_name}: {reason}")

    def _cancel(self, *tasks: asyncio.Task[None] | None) -> None:
        for task in tasks:
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    def _now_s(self) -> float:
        return self._around.clock()


_KINDS: dict[type[PodiumError], FailureKind] = {
    Invalid: FailureKind.INVALID,
    NotFound: FailureKind.NOT_FOUND,
    Conflict: FailureKind.CONFLICT,
}


def _refused(operation: Operation, error: Invalid | NotFound | Conflict) -> Stimulus:
    """What a definite no of the runtime means for the operation."""
    match operation:
        case WaitExit() | Stop():
            gone = isinstance(error, NotFound)
            message = "the container was removed from outside" if gone else str(error)
            if gone:
                return Exited(attempt=operation.attempt, ending=Ending(message=message))
            return EngineAway(attempt=operation.attempt, reason=message)
        case ReadLogTail():
            return LogTail(attempt=operation.attempt)
        case Prepare() | Create() | Start():
            return OperationFailed(attempt=operation.attempt, kind=_KINDS[type(error)], reason=str(error))


def _ending(seen: Exit) -> Ending:
    return Ending(
        code=seen.code,
        signal=seen.signal,
        oom=seen.oom,
        memory_peak_bytes=seen.memory_peak_bytes,
        memory_limit_bytes=seen.memory_limit_bytes,
        ended_at_s=seen.ended_at_s,
        message=seen.message,
    )
