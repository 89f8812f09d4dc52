"""Does what a task's state machine instructs, on the node's runtime, and answers with what came of it.

Each call is one instruction and ends with its stimulus, whatever the runtime says: errors are outcomes too. Owns
nothing of the task but what its hooks have done; what follows from an outcome is decided in `agent.core.task_step`.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Protocol

import msgspec

from agent import health, hooks
from agent.asset_requests import ContentAway
from agent.container_request import PROCESS, engine_bindings, environment_of, probe_argv, reachable_ports, request_of
from agent.core import task_step
from agent.core.attempt import Ending
from agent.core.instructions import Create, Operation, Prepare, Probe, ReadLogTail, RunHooks, Start, Stop, WaitExit
from agent.core.stimuli import (
    Created,
    EngineAway,
    Exited,
    FailureKind,
    Hooked,
    LogTail,
    OperationFailed,
    Prepared,
    Probed,
    Progress,
    Removed,
    Started,
    Stimulus,
)
from agent.core.task_memory import TaskMemory
from agent.guard.interface import HeldContainer
from agent.policy import check_policy
from agent.runtime.interface import Exit, Runtime
from agent.surroundings import Surroundings
from common.errors import Conflict, Invalid, NotFound, PodiumError, Unavailable
from common.model.job import Port
from common.model.task import PortBinding
from common.settings import LIMITS

logger = logging.getLogger(__name__)


class Task(Protocol):
    """Whose operations they are."""

    @property
    def memory(self) -> TaskMemory:
        """As of now."""

    @property
    def unwanted(self) -> bool:
        """It was told to stop, if perhaps not yet decided on."""

    def feed(self, stimulus: Stimulus) -> None:
        """Something happened while an operation goes on."""

    def fence(self, reason: str) -> None:
        """The node's permission to run the task is over."""


class Operations:
    """See the module."""

    def __init__(self, task: Task, around: Surroundings) -> None:
        self._task = task
        self._around = around
        self._pre_stopped = 0
        """The attempt whose `pre_stop` hooks were run: not again when the engine was away at the signal."""

    @property
    def runtime(self) -> Runtime:
        """Raises `Invalid` when the node has none for the task."""
        return self._around.runtimes.of(self._task.memory.assignment.task.container)

    @property
    def runtime_name(self) -> str:
        """Empty when the node has none for the task."""
        try:
            return self.runtime.name
        except Invalid:
            return ""

    async def perform(self, operation: Operation) -> Stimulus:
        try:
            return await self._outcome(operation)
        except (Invalid, NotFound, Conflict) as error:
            return _refused(operation, error)
        except ContentAway as error:
            return EngineAway(attempt=operation.attempt, reason=str(error))
        except Unavailable as error:
            return self._no_answer(operation, str(error))

    async def remove(self, container_id: str) -> Removed:
        failures = 0
        while True:
            try:
                await self.runtime.remove(container_id)
                return Removed(container_id)
            except PodiumError as error:
                failures += 1
                logger.info("task %s: cannot remove %s yet: %s", self._task.memory.task_id, container_id, error)
                await asyncio.sleep(task_step.AWAY.full_jitter_s(failures, self._around.rng))

    async def probe(self, instruction: Probe) -> Probed:
        try:
            runtime = self.runtime
        except Invalid:
            return Probed(attempt=instruction.attempt, good=None)
        return await health.probe(runtime, instruction, probe_argv(instruction.check, self._environment()))

    async def run_hooks(self, instruction: RunHooks) -> Hooked:
        program = hooks.Hooks(instruction.hooks, self._environment())
        failure = await program.run(self.runtime, instruction.container_id, self._around.bounds.hook_timeout_s)
        return Hooked(attempt=instruction.attempt, failure=failure)

    # --- one operation

    async def _outcome(self, operation: Operation) -> Stimulus:
        attempt = operation.attempt
        match operation:
            case Prepare():
                return await self._prepare(attempt)
            case Create(bindings=bindings):
                await self._taken_in()
                request = request_of(
                    self._task.memory.assignment,
                    attempt,
                    bindings,
                    node_id=self._around.node_id,
                    node_name=self._around.node_name,
                    address=self._around.address,
                    neighbours=self._around.neighbours(self._task.memory.assignment),
                    files=await self._files(),
                )
                check_policy(request.container, self._around.policy, self._around.guarded)
                container_id = await self.runtime.create(request)
                if request.container.mounts:
                    self._around.volumes_changed()
                return Created(attempt=attempt, container_id=container_id)
            case Start(container_id=container_id):
                await self._taken_in()
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

    async def _taken_in(self) -> None:
        if not self._around.taken_in.is_set():
            await self._around.taken_in.wait()

    async def _refusal(self, container_id: str) -> str:
        """Why the container must not be started; empty when it may. Of an exclusive task: waits for the permission."""
        assignment = self._task.memory.assignment
        if not assignment.fence_after_s:
            return ""
        held = HeldContainer(
            task_id=self._task.memory.task_id,
            attempt=self._task.memory.attempt,
            runtime=self.runtime.name,
            container_id=container_id,
            fence_after_s=assignment.fence_after_s,
            signal=assignment.task.container.stop_signal,
            grace_s=assignment.task.container.stop_grace_s,
        )
        # The permission may have been waited for; a stop that came in the meantime must not begin with a start.
        reason = await self._around.fence.permit(held, self._task.fence)
        return reason or ("stopped before it was started" if self._task.unwanted else "")

    async def _prepare(self, attempt: int) -> Prepared:
        loop = asyncio.get_running_loop()
        last = loop.time()

        def progress(text: str) -> None:
            nonlocal last
            if loop.time() - last >= self._around.bounds.progress_interval_s:
                last = loop.time()
                self._task.feed(Progress(attempt=attempt, text=text))

        runtime = self.runtime
        declared = await runtime.prepare(self._task.memory.assignment.task.container, progress)
        await self._files()
        return Prepared(attempt=attempt, bindings=self._bindings(runtime.name, declared))

    async def _files(self) -> Path | None:
        """Where the task's configs and secrets are, made where they are not there (any more)."""
        assignment = self._task.memory.assignment
        if not assignment.task.container.assets:
            return None
        runtime = self.runtime
        return await self._around.assets.ensure(
            assignment,
            lambda: runtime.owner_of(assignment.task.container, assignment.task_id, assignment.namespace),
        )

    def _bindings(self, runtime_name: str, declared: tuple[Port, ...]) -> tuple[PortBinding, ...]:
        """`declared`: by the image."""
        assignment = self._task.memory.assignment
        if runtime_name == PROCESS:
            return self._around.ports.reserve(self._task.memory.task_id, assignment.task.ports)
        return engine_bindings(reachable_ports(assignment, declared), self._around.address)

    async def _log_tail(self, container_id: str) -> tuple[str, ...]:
        """Never fails: a crash record without lines is better than none."""
        lines: list[str] = []
        try:
            async with asyncio.timeout(self._around.bounds.log_tail_timeout_s):
                async for line in self.runtime.logs(container_id, tail=LIMITS.attempt_log_lines):
                    lines.append(line.text)  # noqa: PERF401 - those read before a time-out count
        except (TimeoutError, PodiumError) as error:
            why = str(error) or "it took too long"
            logger.info("task %s: no log tail of %s: %s", self._task.memory.task_id, container_id, why)
        return tuple(lines[-LIMITS.attempt_log_lines :])

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
        logger.warning("task %s: pre_stop hook %s", self._task.memory.task_id, failure)
        return msgspec.structs.replace(ending, message=f"pre_stop hook {failure}")

    def _environment(self) -> dict[str, str]:
        memory, around = self._task.memory, self._around
        neighbours = around.neighbours(memory.assignment)
        files = around.assets.place_of(memory.assignment)
        return environment_of(memory.assignment, memory.bindings, around.node_name, around.address, neighbours, files)

    def _no_answer(self, operation: Operation, reason: str) -> Stimulus:
        if isinstance(operation, ReadLogTail):
            return LogTail(attempt=operation.attempt)
        return EngineAway(attempt=operation.attempt, reason=f"waits for {self.runtime_name}: {reason}")


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
