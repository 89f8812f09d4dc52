"""One task's next step: (memory, stimulus, now, chance) -> (memory, instructions, ended attempts). Sans-I/O.

The memory says in which phase the task is; each phase waits for the outcome of exactly one operation, so the same table
tells what to do next, what to repeat when the engine was away, and where to resume after the agent restarted. A status
is never sent from here: the caller reports `memory.status` whenever its sequence has risen. (The manner, stimulus in
and instructions out, is that of dask's worker_state_machine.) A task that RUNNING says is up counts as starting until
its `post_start` hooks have succeeded; one that fails stops it as an unhealthy one is stopped.

    NEW -> [WAITING] -> PREPARING -> CREATING -> STARTING -> RUNNING -> COLLECTING -> WAITING -> next attempt
                                                                |  unhealthy, or stop      \\-> ENDED -> FORGETTING
                                                                v                          /
                                                             STOPPING --------------------/

At most one container of a task lives at any time: the next attempt is created only after the last one's end was seen.
An engine that does not answer is never a failed attempt: the phase stays and its operation is repeated.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from agent.core import health, restart
from agent.core.attempt import Ending, bounded, clip_message, describe
from agent.core.health import HealthMemory
from agent.core.instructions import (
    Abort,
    Create,
    Finish,
    Instruction,
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
from common import lifecycle
from common.backoff import Backoff
from common.model.ids import Rng
from common.model.job import DesiredState, RestartCondition
from common.model.task import Attempt, Health, TaskState

HOOKS_AGAIN_S = 1.0
"""After hooks that could not be run: the engine was away, or the container ends just now."""
AWAY = Backoff(first_s=0.2, limit_s=10.0)
"""How often an operation is repeated while the engine is away. Its return is also noticed from outside (EngineBack)."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    memory: TaskMemory
    instructions: tuple[Instruction, ...] = ()
    """In order."""
    ended: tuple[Attempt, ...] = ()
    """Crash records to be kept until the controller has them."""


def step(memory: TaskMemory, stimulus: Stimulus, now_s: float, rng: Rng) -> Step:
    """React to one stimulus. Stale ones (of an earlier attempt or phase) change nothing."""
    turn = _Turn(memory, now_s, rng)
    turn.react(stimulus)
    return Step(memory=turn.memory, instructions=tuple(turn.instructions), ended=tuple(turn.ended))


def resume(memory: TaskMemory, now_s: float, rng: Rng, fenced: str = "") -> Step:
    """What to do for a task read back from the journal: repeat the operation its phase waits for.

    `fenced`: why it must not run any more, where that is so; then it is ended whatever was under way.
    """
    turn = _Turn(memory, now_s, rng)
    if fenced:
        turn.end_fenced(fenced)
    else:
        turn.begin_phase_again()
    return Step(memory=turn.memory, instructions=tuple(turn.instructions), ended=tuple(turn.ended))


class _Turn:
    """One step under way."""

    def __init__(self, memory: TaskMemory, now_s: float, rng: Rng) -> None:
        self.memory = memory
        self.now_s = now_s
        self.rng = rng
        self.instructions: list[Instruction] = []
        self.ended: list[Attempt] = []

    def react(self, stimulus: Stimulus) -> None:
        match stimulus:
            case Assigned() | ForgetRequested():
                self._ordered(stimulus)
            case Fenced(reason=reason):
                self._set(fenced=self.memory.fenced or reason)
                self._stop()
            case TimerFired() | EngineAway() | EngineBack():
                self._engine_or_time(stimulus)
            case Removed(container_id=container_id):
                self._removed(container_id)
            case Prepared() | Created() | Started() | Exited() | LogTail() | OperationFailed() | Progress():
                if stimulus.attempt == self.memory.attempt:
                    self._outcome(stimulus)
            case Probed() | Hooked():
                if stimulus.attempt == self.memory.attempt and self.memory.phase is Phase.RUNNING:
                    self._looked(stimulus)
            case _:
                assert_never(stimulus)

    # --- what the controller wants

    def _ordered(self, stimulus: Assigned | ForgetRequested) -> None:
        match stimulus:
            case Assigned(assignment=assignment):
                self._set(assignment=assignment)
                if assignment.desired is DesiredState.STOP:
                    self._stop()
                elif self.memory.phase is Phase.NEW:
                    self._begin()
            case ForgetRequested():
                self._forget()

    def _begin(self) -> None:
        assignment = self.memory.assignment
        wait_s = restart.first_wait_s(assignment.task.restart, assignment.attempts_before)
        if wait_s <= 0:
            return self._next_attempt()
        failed = f"{assignment.attempts_before} tasks of this slot failed in a row before it"
        self._report(TaskState.ASSIGNED, message=f"waits {wait_s:g} s before its first start: {failed}")
        return self._wait(wait_s)

    def _stop(self) -> None:
        if self.memory.stopping or self.memory.phase in (Phase.ENDED, Phase.FORGETTING):
            return
        self._set(stopping=True)
        match self.memory.phase:
            case Phase.NEW | Phase.WAITING:
                self._conclude(TaskState.STOPPED, "stopped before its next start" if self.memory.attempt else "")
            case Phase.PREPARING:
                self.instructions.append(Abort())
                self._conclude(TaskState.STOPPED, "stopped while it was prepared")
            case Phase.RUNNING:
                self._enter(Phase.STOPPING)
            # The others wait for an outcome first: whether there is a container, and what became of it.
            case Phase.CREATING | Phase.STARTING | Phase.STOPPING | Phase.COLLECTING | Phase.ENDED | Phase.FORGETTING:
                pass

    def _forget(self) -> None:
        if self.memory.forgetting:
            return
        self._set(forgetting=True)
        if self.memory.phase is Phase.ENDED:
            self._remove_everything()
        else:
            self._stop()

    def _remove_everything(self) -> None:
        containers = (*self.memory.garbage, self.memory.previous_id, self.memory.container_id)
        self._set(garbage=tuple(dict.fromkeys(container for container in containers if container)))
        self._set(container_id="", previous_id="")
        self._enter(Phase.FORGETTING)

    def _removed(self, container_id: str) -> None:
        self._set(garbage=tuple(item for item in self.memory.garbage if item != container_id))
        if self.memory.phase is Phase.FORGETTING and not self.memory.garbage:
            self.instructions.append(Finish())

    # --- time and the engine

    def _engine_or_time(self, stimulus: TimerFired | EngineAway | EngineBack) -> None:
        match stimulus:
            case TimerFired(timer=timer) if timer == self.memory.timer:
                if self.memory.phase is Phase.WAITING:
                    self._next_attempt()
                elif self.memory.away:
                    self._set(repeating=True)
                    self._operate()
            case EngineAway(attempt=attempt, reason=reason) if attempt == self.memory.attempt:
                self._away(reason)
            case EngineBack() if self.memory.away and not self.memory.repeating:
                self._set(away=0)
                if self.memory.phase is Phase.RUNNING:  # elsewhere the outcome says what is to be said next
                    self._report(self.memory.status.state, message="")
                self._operate()
            case _:
                pass  # a timer that no longer counts, or an attempt that is over

    def _away(self, reason: str) -> None:
        """Keep what is, say why it stands still, try again later."""
        if self.memory.phase in (Phase.NEW, Phase.WAITING, Phase.ENDED, Phase.FORGETTING):
            return
        if self.memory.stopping and self.memory.phase is Phase.STARTING:
            self._set(phase=Phase.STOPPING)  # it may have started or not; stopping answers both
        self._set(away=self.memory.away + 1, repeating=False)
        self._report(self.memory.status.state, message=reason)
        self._set_timer(AWAY.full_jitter_s(self.memory.away, self.rng))

    # --- outcomes of operations

    def _outcome(self, stimulus: Prepared | Created | Started | Exited | LogTail | OperationFailed | Progress) -> None:
        phase = self.memory.phase
        match stimulus:
            case Prepared(bindings=bindings) if phase is Phase.PREPARING:
                self._set(bindings=bindings, prepared_attempt=self.memory.attempt)
                self._report(TaskState.PREPARING, message="")
                self._enter(Phase.CREATING)
            case Progress(text=text) if phase is Phase.PREPARING:
                self._report(TaskState.PREPARING, message=text)
            case Created(container_id=container_id) if phase is Phase.CREATING:
                self._created(container_id)
            case Started() if phase is Phase.STARTING:
                self._started(stimulus)
            case Exited(ending=ending) if self.memory.runs:
                self._exited(ending)
            case LogTail(lines=lines) if phase is Phase.COLLECTING:
                self._collected(lines)
            case OperationFailed() if phase in (Phase.PREPARING, Phase.CREATING, Phase.STARTING):
                self._failed(stimulus)
            case _:
                pass  # too late: the task has gone on

    def _created(self, container_id: str) -> None:
        if container_id != self.memory.container_id:
            self._set(previous_id=self.memory.container_id, container_id=container_id)
        if self.memory.stopping:
            return self._conclude(TaskState.STOPPED, "stopped before it was started")
        self._report(TaskState.STARTING, message="")
        return self._enter(Phase.STARTING)

    def _started(self, started: Started) -> None:
        self._set(hooks_due=bool(self.memory.assignment.task.container.post_start))
        if not self.memory.hooks_due:
            self._begin_watch()
        self._report(
            TaskState.STARTING if self.memory.hooks_due else TaskState.RUNNING,
            message="",
            health=self.memory.health.health,
            started_at_s=started.started_at_s or self.now_s,
            runtime_id=started.runtime_id,
            ports=started.bindings,
        )
        if self.memory.previous_id:
            self._discard(self.memory.previous_id)
            self._set(previous_id="")
        self._enter(Phase.STOPPING if self.memory.stopping else Phase.RUNNING)

    def _begin_watch(self) -> None:
        check = self.memory.assignment.task.health_check
        self._set(health=health.begin(check, self.now_s), good_since_s=0.0 if check else self.now_s)

    def _looked(self, stimulus: Probed | Hooked) -> None:
        match stimulus:
            case Probed() if not self.memory.hooks_due:
                self._probed(stimulus)
            case Hooked(failure=failure) if self.memory.hooks_due:
                self._hooked(failure)
            case _:
                pass  # one that was under way when it was no longer wanted

    def _hooked(self, failure: str | None) -> None:
        if failure is None:
            return self._run_hooks(HOOKS_AGAIN_S)
        if failure:
            self._set(doom=clip_message(f"post_start hook {failure}"))
            self._report(TaskState.STARTING, message=self.memory.doom)
            return self._enter(Phase.STOPPING)
        self._set(hooks_due=False)
        self._begin_watch()
        self._report(TaskState.RUNNING, message="", health=self.memory.health.health)
        return self._watch()

    def _probed(self, probed: Probed) -> None:
        check = self.memory.assignment.task.health_check
        if check is None:  # a changed assignment took it away
            self._set(health=HealthMemory(), good_since_s=self.memory.good_since_s or self.now_s)
            return self._report(TaskState.RUNNING, message="", health=Health.NONE)
        if probed.good is not None:  # None: the engine was away, which says nothing about the container
            seen = health.observe(check, self.memory.health, good=probed.good, output=probed.output, now_s=self.now_s)
            self._set(health=seen)
            self._health_seen(seen)
        if self.memory.phase is Phase.RUNNING:
            self._probe_later()
        return None

    def _health_seen(self, seen: HealthMemory) -> None:
        if seen.health is Health.UNHEALTHY:
            self._set(doom=clip_message(health.unhealthy_message(seen)))
            self._report(TaskState.RUNNING, message=self.memory.doom, health=seen.health)
            return self._enter(Phase.STOPPING)
        if seen.health is Health.HEALTHY:
            self._set(good_since_s=self.memory.good_since_s or self.now_s)
        return self._report(TaskState.RUNNING, message=clip_message(health.failing_message(seen)), health=seen.health)

    def _exited(self, ending: Ending) -> None:
        self._set(ending=ending, wake_at_s=self.now_s)
        if self.memory.stopping:
            return self._collected(())  # a stop that was asked for needs no evidence
        return self._enter(Phase.COLLECTING)

    def _collected(self, lines: tuple[str, ...]) -> None:
        ending = self.memory.ending or Ending()
        message = self.memory.doom or self.memory.fenced or describe(ending)
        self._record(message, ending, lines)
        if self.memory.stopping:
            return self._conclude(TaskState.STOPPED, clip_message(ending.message), ending)
        good_for_s = self.now_s - self.memory.good_since_s if self.memory.good_since_s else 0.0
        return self._judge(message, success=ending.code == 0 and not self.memory.doom, good_for_s=good_for_s)

    def _failed(self, failed: OperationFailed) -> None:
        if self.memory.phase is Phase.STARTING:
            self._discard(self.memory.container_id)
            self._set(container_id=self.memory.previous_id, previous_id="")
        if self.memory.stopping:
            return self._conclude(TaskState.STOPPED, "stopped before it ran")
        image_gone = failed.kind is FailureKind.NOT_FOUND and self.memory.phase is Phase.CREATING
        if image_gone and self.memory.prepared_attempt != self.memory.attempt:
            return self._enter(Phase.PREPARING)
        message = clip_message(failed.reason)
        self._record(message, Ending(), ())
        if self.memory.phase is Phase.STARTING:
            return self._judge(message, success=False, good_for_s=0.0, vanished=failed.kind is FailureKind.NOT_FOUND)
        if failed.kind is FailureKind.CONFLICT:
            return self._judge(message, success=False, good_for_s=0.0)
        return self._conclude(TaskState.REJECTED, message)

    # --- from one attempt to the next

    def _next_attempt(self) -> None:
        self._set(doom="", ending=None, good_since_s=0.0, health=HealthMemory(), hooks_due=False)
        self._report(
            TaskState.PREPARING,
            attempt=self.memory.attempt + 1,
            message="",
            health=Health.NONE,
            exit_code=None,
            started_at_s=0.0,
            ended_at_s=0.0,
            runtime_id="",
        )
        # A crash must heal without a registry: the image that was there for the last attempt is not asked for again.
        self._enter(Phase.CREATING if self.memory.prepared_attempt else Phase.PREPARING)

    def _judge(self, message: str, *, success: bool, good_for_s: float, vanished: bool = False) -> None:
        """Restart or not. A container that was gone before it ran (a reboot) says nothing against the task."""
        policy = self.memory.assignment.task.restart
        if vanished:
            policy = msgspec.structs.replace(policy, condition=RestartCondition.ANY, max_attempts=0)
        verdict = restart.after_attempt(policy, self.memory.restarts, success=success, good_for_s=good_for_s)
        match verdict:
            case restart.Over(state=state, reason=reason):
                self._conclude(state, f"{message} ({reason})" if reason else message, self.memory.ending)
            case restart.Again(delay_s=delay_s, memory=memory):
                self._set(restarts=memory)
                self._report(
                    TaskState.RESTARTING,
                    message=f"{message}; next attempt in {delay_s:g} s",
                    health=self._last_health(),
                    **_end_fields(self.memory.ending, self.now_s),
                )
                since_s = self.now_s - self.memory.wake_at_s if self.memory.ending else 0.0
                self._wait(max(0.0, delay_s - max(0.0, since_s)))

    def _conclude(self, state: TaskState, message: str, ending: Ending | None = None) -> None:
        """The task ends. Its last container stays, for its output, until the task is forgotten."""
        message = (self.memory.fenced if state is TaskState.STOPPED else "") or message
        self._report(state, message=message, health=self._last_health(), **_end_fields(ending, self.now_s))
        self._set(phase=Phase.ENDED, away=0, timer=self.memory.timer + 1)
        if self.memory.forgetting:
            self._remove_everything()

    def _record(self, message: str, ending: Ending, lines: tuple[str, ...]) -> None:
        memory = self.memory
        record = Attempt(
            task_id=memory.task_id,
            number=memory.attempt,
            node_id=memory.node_id,
            version=memory.assignment.version,
            started_at_s=memory.status.started_at_s,
            ended_at_s=max(ending.ended_at_s or self.now_s, memory.status.started_at_s),
            exit_code=ending.code,
            signal=ending.signal,
            oom=ending.oom,
            memory_peak_bytes=ending.memory_peak_bytes,
            memory_limit_bytes=ending.memory_limit_bytes,
            message=message,
            health_output=memory.health.output,
        )
        self.ended.append(bounded(record, lines))

    # --- small steps

    def end_fenced(self, reason: str) -> None:
        """After a restart of the agent: what was under way may have happened or not, and must not be repeated."""
        self._set(fenced=self.memory.fenced or reason)
        match self.memory.phase:
            case Phase.NEW | Phase.WAITING | Phase.PREPARING:
                self.instructions += [Remove(container_id) for container_id in self.memory.garbage]
                self._stop()
            case Phase.RUNNING | Phase.STARTING:
                self._set(stopping=True, phase=Phase.STOPPING)  # of a container that never started, that says so
                self.begin_phase_again()
            case _:
                self._set(stopping=True)
                self.begin_phase_again()

    def begin_phase_again(self) -> None:
        """As after a restart of the agent: nothing is under way, and what was may have happened or not."""
        self.instructions += [Remove(container_id) for container_id in self.memory.garbage]
        match self.memory.phase:
            case Phase.NEW:
                self._ordered(Assigned(self.memory.assignment))
            case Phase.WAITING:
                self._wait(min(max(0.0, self.memory.wake_at_s - self.now_s), restart.DELAY_LIMIT_S))
            case Phase.FORGETTING:
                if not self.memory.garbage:
                    self.instructions.append(Finish())
            case _:
                self._set(repeating=bool(self.memory.away))
                self._operate()

    def _enter(self, phase: Phase) -> None:
        self._set(phase=phase, away=0, repeating=False)
        if phase is Phase.FORGETTING:
            return self.begin_phase_again()
        return self._operate()

    def _operate(self) -> None:
        """Instruct the one operation that the present phase waits for."""
        memory, container = self.memory, self.memory.assignment.task.container
        match memory.phase:
            case Phase.PREPARING:
                self.instructions.append(Prepare(attempt=memory.attempt))
            case Phase.CREATING:
                self.instructions.append(Create(attempt=memory.attempt, bindings=memory.bindings))
            case Phase.STARTING:
                self.instructions.append(Start(attempt=memory.attempt, container_id=memory.container_id))
            case Phase.RUNNING:
                self.instructions.append(WaitExit(attempt=memory.attempt, container_id=memory.container_id))
                self._watch()
            case Phase.STOPPING:
                self.instructions.append(
                    Stop(
                        attempt=memory.attempt,
                        container_id=memory.container_id,
                        signal=container.stop_signal,
                        grace_s=container.stop_grace_s,
                        hooks=container.pre_stop,
                    )
                )
            case Phase.COLLECTING:
                self.instructions.append(ReadLogTail(attempt=memory.attempt, container_id=memory.container_id))
            case Phase.NEW | Phase.WAITING | Phase.ENDED | Phase.FORGETTING:
                pass

    def _watch(self) -> None:
        """What goes on beside a container that runs."""
        if self.memory.hooks_due:
            self._run_hooks()
        elif self.memory.assignment.task.health_check is not None:
            self._probe_later()

    def _run_hooks(self, delay_s: float = 0.0) -> None:
        hooks, container_id = self.memory.assignment.task.container.post_start, self.memory.container_id
        self.instructions.append(
            RunHooks(attempt=self.memory.attempt, container_id=container_id, hooks=hooks, delay_s=delay_s)
        )

    def _probe_later(self) -> None:
        check = self.memory.assignment.task.health_check
        assert check is not None
        delay_s = health.next_probe_s(check, self.memory.health, self.now_s)
        container_id = self.memory.container_id
        self.instructions.append(
            Probe(attempt=self.memory.attempt, container_id=container_id, check=check, delay_s=delay_s)
        )

    def _wait(self, delay_s: float) -> None:
        self._set(phase=Phase.WAITING, wake_at_s=self.now_s + delay_s, away=0)
        self._set_timer(delay_s)

    def _set_timer(self, delay_s: float) -> None:
        self._set(timer=self.memory.timer + 1)
        self.instructions.append(SetTimer(timer=self.memory.timer, delay_s=delay_s))

    def _discard(self, container_id: str) -> None:
        if container_id:
            self._set(garbage=(*self.memory.garbage, container_id))
            self.instructions.append(Remove(container_id))

    def _report(self, state: TaskState, **changes: object) -> None:
        """The next status, if it differs from the last. Illegal steps are a mistake of this file."""
        before = self.memory.status
        after = msgspec.structs.replace(before, state=state, **changes)
        if after == before:
            return
        assert lifecycle.legal(before.state, state), f"{self.memory.task_id}: {before.state} -> {state}"
        self._set(status=msgspec.structs.replace(after, sequence=before.sequence + 1))

    def _last_health(self) -> Health:
        """Of a container that has ended: only why it was stopped is still worth saying."""
        return Health.UNHEALTHY if self.memory.doom else Health.NONE

    def _set(self, **changes: object) -> None:
        self.memory = msgspec.structs.replace(self.memory, **changes)


def _end_fields(ending: Ending | None, now_s: float) -> dict[str, object]:
    if ending is None:
        return {"ended_at_s": now_s}
    return {"exit_code": ending.code, "ended_at_s": ending.ended_at_s or now_s}
