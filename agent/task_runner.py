"""Runs one task: carries the state machine's instructions out on a runtime and feeds back what came of them.

Owns the task's asyncio tasks and timers, and the order "journal first, then act, then report". A task that only waits
costs one asyncio task and nothing that turns: what happens is taken in a turn of the loop, and an operation whose
outcome leads to the next one goes on with that itself. Every decision is made in `agent.core.task_step`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TypeAlias

from agent.core import restart, task_step
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
from agent.core.stimuli import Assigned, EngineBack, Fenced, ForgetRequested, Stimulus, TimerFired
from agent.core.task_memory import Phase, TaskMemory
from agent.core.task_step import Step
from agent.operations import Operations
from agent.runtime.interface import Runtime
from agent.surroundings import Surroundings
from common.backoff import Backoff
from common.errors import Unavailable
from common.lifecycle import ended
from common.model.job import DesiredState
from common.model.task import TaskReport, TaskState

logger = logging.getLogger(__name__)

Call: TypeAlias = Callable[[], Coroutine[None, None, Stimulus]]

_PASSING = (TaskState.PREPARING, TaskState.STARTING)

WRITE_AGAIN = Backoff(first_s=0.2, limit_s=5.0)
"""Before a journal that could not be written is tried again: somebody has to make room on the disk."""
AFTER_A_FAULT = Backoff(first_s=1.0, limit_s=60.0)
"""Before a task whose runner failed in an unforeseen way is taken up again."""


class TaskRunner:
    """See the module. `feed` tells it what happened; it acts from `begin` until the task is forgotten or let go of."""

    def __init__(self, memory: TaskMemory, around: Surroundings, gone: Callable[[str], None]) -> None:
        """`gone` is called with the task's id when nothing is left of it."""
        self.memory = memory
        self.unwanted = memory.stopping
        """It was told to stop, if perhaps not yet decided on."""
        self._around = around
        self._gone = gone
        self._operations = Operations(self, around)
        self._tasks: asyncio.TaskGroup | None = None
        self._inbox: list[Stimulus | None] = []
        """What happened and was not taken yet; None: the task is to be taken up where its memory stands."""
        self._next: asyncio.Handle | None = None
        """When the inbox is looked at; nobody else looks at it before."""
        self._operation: asyncio.Task[None] | None = None
        self._following: Operation | None = None
        """What the present operation is to go on with."""
        self._concluding = False
        """The present operation's asyncio task is the one that acts."""
        self._probe: asyncio.Task[None] | asyncio.TimerHandle | None = None
        self._removals: tuple[asyncio.Task[None], ...] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._watchers: tuple[asyncio.Future[None], ...] = ()
        self._assigned_at_s = around.clock()
        self._finished = False
        self._refusals = 0
        """Of the journal, in a row."""
        self._faults = 0

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
        return self._operations.runtime

    @property
    def runtime_name(self) -> str:
        """Empty when the node has none for the task."""
        return self._operations.runtime_name

    def feed(self, stimulus: Stimulus) -> None:
        """Tell the state machine. Returns at once, before anything is decided."""
        match stimulus:
            case Fenced() | ForgetRequested():
                self.unwanted = True
            case Assigned(assignment=assignment):
                self.unwanted |= assignment.desired is DesiredState.STOP
            case _:
                pass
        self._inbox.append(stimulus)
        if self._next is None and self._tasks is not None:
            self._next = asyncio.get_running_loop().call_soon(self._act)

    def fence(self, reason: str) -> None:
        """The node's permission to run the task is over."""
        self.feed(Fenced(reason))

    def engine_answers(self, runtime_name: str) -> None:
        """The runtime was just heard of: repeat at once what it did not answer."""
        if self.memory.away and self.runtime_name == runtime_name:
            self.feed(EngineBack())

    async def changed(self) -> None:
        """Until the next step of the task."""
        watcher = asyncio.get_running_loop().create_future()
        self._watchers += (watcher,)
        await watcher

    # --- its life

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Take the task up where its memory stands. What it waits for is waited for in `tasks`."""
        self._tasks = tasks
        self._inbox.insert(0, None)
        self._act()

    def let_go(self) -> None:
        """Act no more, and leave the container running. Whoever owns the asyncio tasks cancels them."""
        self._tasks = None
        if self._next is not None:
            self._next.cancel()
        self._cancel(self._timer, self._probe)
        self._announce()

    def _leave(self) -> None:
        """Nothing is left of the task but its journal entry."""
        self._cancel_all()
        try:
            self._around.journal.forget(self.task_id)
        except Unavailable as error:
            self._refused("is gone, but not from the journal yet", error)
            return
        self.let_go()
        self._gone(self.task_id)

    def _recover(self) -> None:
        """A fault of ours in one task must not take the others along. Its memory is as the journal has it."""
        if self._tasks is None:
            return
        self._faults += 1
        logger.exception("task %s: its runner failed in an unforeseen way; it is taken up again", self.task_id)
        self._cancel_all()
        self._inbox.insert(0, None)
        self._again_in(AFTER_A_FAULT.full_jitter_s(self._faults, self._around.rng))

    def _cancel_all(self) -> None:
        self._following = None
        self._cancel(self._operation, self._probe, self._timer, *self._removals)

    # --- one step

    def _act(self) -> None:
        """Take what happened, in order."""
        self._next = None
        try:
            while self._inbox and not self._finished:
                stimulus = self._inbox.pop(0)
                if not self._taken(stimulus):
                    self._inbox.insert(0, stimulus)
                    return
            if self._finished:
                self._leave()
        except Exception:
            self._recover()

    def _taken(self, stimulus: Stimulus | None) -> bool:
        """False when it must be tried again."""
        reason = "" if stimulus is None else self._fenced()
        if reason and not self._turn(Fenced(reason)):  # first: nothing else counts for a task that must not run
            return False
        return self._turn(stimulus)

    def _turn(self, stimulus: Stimulus | None) -> bool:
        """Decide, write it down, then do it.

        What cannot be written down is decided anew until it can: no stimulus is lost to a full disk, and nothing is
        done that a restarted agent would not know of.
        """
        step = self._decide(stimulus)
        if step.memory != self.memory or step.ended:
            if not self._written_down(step):
                return False
            self._announce()
        self._take(step)
        return True

    def _decide(self, stimulus: Stimulus | None) -> Step:
        if stimulus is None:
            return task_step.resume(self.memory, self._now_s(), self._around.rng, self._fenced())
        return task_step.step(self.memory, stimulus, self._now_s(), self._around.rng)

    def _fenced(self) -> str:
        """Why the task must not run any more; empty while it may, or has been told."""
        if not self.memory.assignment.fence_after_s or self.memory.fenced or self.ended:
            return ""
        return self._around.fence.reason(self.task_id)

    def _written_down(self, step: Step) -> bool:
        """False when the disk refuses."""
        try:
            self._around.journal.save(step.memory, step.ended)
        except Unavailable as error:
            self._refused("stands still, its container is left as it is", error)
            return False
        self._refusals = 0
        return True

    def _refused(self, what: str, error: Unavailable) -> None:
        logger.log(logging.DEBUG if self._refusals else logging.WARNING, "task %s %s: %s", self.task_id, what, error)
        self._refusals += 1
        self._again_in(WRITE_AGAIN.full_jitter_s(self._refusals, self._around.rng))

    def _again_in(self, delay_s: float) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next = asyncio.get_running_loop().call_later(delay_s, self._act)

    def _take(self, step: Step) -> None:
        """Do what was decided, then tell the controller."""
        before = self.memory
        self.memory = step.memory
        for instruction in step.instructions:
            self._carry_out(instruction)
        if step.memory.status != before.status or step.ended:
            self._observe(before)
            report = TaskReport(task_id=self.task_id, status=step.memory.status, ended=step.ended)
            passing = step.memory.status.state in _PASSING and not step.ended
            self._around.report(report, unhurried=self._fails_by_habit, passing=passing)

    @property
    def _fails_by_habit(self) -> bool:
        """One that is to stop is waited for, whatever it did before."""
        memory = self.memory
        return not memory.stopping and restart.is_habit(memory.restarts, memory.assignment.attempts_before)

    def _observe(self, before: TaskMemory) -> None:
        now, then = self.memory.status, before.status
        if now.state is not then.state or now.attempt != then.attempt:
            if logger.isEnabledFor(logging.INFO):
                job, state = f"{self.memory.assignment.job_name}.{self.memory.assignment.slot}", now.state.value
                logger.info("task %s (%s) attempt %d: %s %s", job, self.task_id, now.attempt, state, now.message)
            if now.state is TaskState.RUNNING and now.attempt == 1:
                self._around.metrics.task_started(self._now_s() - self._assigned_at_s)
            if now.state is TaskState.RESTARTING:
                self._around.metrics.task_restarted()
        if ended(now.state) and not ended(then.state):
            self._around.ports.release(self.task_id)
            self._around.fence.forget(self.task_id)
            self._around.assets.forget(self.task_id)

    def _announce(self) -> None:
        watchers, self._watchers = self._watchers, ()
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case Prepare() | Create() | Start() | WaitExit() | Stop() | ReadLogTail():
                self._operate(instruction)
            case Abort():
                self._following = None
                self._cancel(self._operation)
            case Probe(delay_s=delay_s):
                self._look_in(delay_s, lambda: self._operations.probe(instruction))
            case RunHooks(delay_s=delay_s):
                self._look_in(delay_s, lambda: self._operations.run_hooks(instruction))
            case Remove(container_id=container_id):
                self._removals = tuple(removal for removal in self._removals if not removal.done())
                self._removals += (self._beside(lambda: self._operations.remove(container_id)),)
            case SetTimer(timer=timer, delay_s=delay_s):
                self._cancel(self._timer)
                self._timer = asyncio.get_running_loop().call_later(delay_s, self.feed, TimerFired(timer))
            case Finish():
                self._finished = True

    # --- what goes on meanwhile

    def _operate(self, operation: Operation) -> None:
        if not isinstance(operation, WaitExit):
            self._cancel(self._probe)
        if self._concluding:
            self._following = operation
        else:
            self._cancel(self._operation)
            assert self._tasks is not None, "only a runner that has begun acts"
            self._operation = self._tasks.create_task(self._work(operation))

    async def _work(self, operation: Operation | None) -> None:
        """One operation after the other, for as long as what comes of it leads to another at once."""
        try:
            while operation is not None:
                self._inbox.append(await self._operations.perform(operation))
                self._conclude()
                operation, self._following = self._following, None
        except Exception:
            self._recover()

    def _conclude(self) -> None:
        """Take what the present operation came to, unless all that happens has to wait."""
        if self._next is None:
            self._concluding = True
            self._act()
            self._concluding = False

    def _look_in(self, delay_s: float, look: Call) -> None:
        """Look after the container; takes the place of the look that was due before."""

        def begin() -> None:
            self._probe = self._beside(look)

        self._cancel(self._probe)
        self._probe = asyncio.get_running_loop().call_later(delay_s, begin)

    def _beside(self, call: Call) -> asyncio.Task[None]:
        async def feed() -> None:
            try:
                self.feed(await call())
            except Exception:
                self._recover()

        assert self._tasks is not None, "only a runner that has begun acts"
        return self._tasks.create_task(feed())

    def _cancel(self, *things: asyncio.Task[None] | asyncio.TimerHandle | None) -> None:
        for thing in things:
            if thing is not None and thing is not asyncio.current_task():
                thing.cancel()

    def _now_s(self) -> float:
        return self._around.clock()
