"""Whatever happens to a task, in whatever order: legal steps only, rising sequences, one live container at most."""

from __future__ import annotations

import random
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings
from msgspec.structs import replace

from agent.core import task_memory, task_step
from agent.core.attempt import Ending
from agent.core.instructions import (
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
from common import lifecycle
from common.model.job import Container, DesiredState, Hook
from common.model.session import Assignment
from common.model.task import TaskState
from tests.agent_builders import CHECK, assignment, restart, stopped

KINDS = st.sampled_from(list(FailureKind))
ATTEMPTS = st.integers(0, 4)

ANY_STIMULUS: st.SearchStrategy[Stimulus] = st.one_of(
    st.sampled_from([Assigned(assignment(health_check=CHECK)), Assigned(stopped(assignment())), ForgetRequested()]),
    st.builds(Prepared, attempt=ATTEMPTS),
    st.builds(Progress, attempt=ATTEMPTS, text=st.text(max_size=3)),
    st.builds(Created, attempt=ATTEMPTS, container_id=st.sampled_from(["c1", "c2", "c3"])),
    st.builds(Started, attempt=ATTEMPTS, runtime_id=st.just("r")),
    st.builds(Exited, attempt=ATTEMPTS, ending=st.builds(Ending, code=st.sampled_from([0, 1, None]))),
    st.builds(LogTail, attempt=ATTEMPTS, lines=st.just(("line",))),
    st.builds(Probed, attempt=ATTEMPTS, good=st.sampled_from([True, False, None]), output=st.just("out")),
    st.builds(Hooked, attempt=ATTEMPTS, failure=st.sampled_from(["", None, "failed"])),
    st.builds(OperationFailed, attempt=ATTEMPTS, kind=KINDS, reason=st.just("because")),
    st.builds(EngineAway, attempt=ATTEMPTS, reason=st.just("docker engine away: x")),
    st.just(EngineBack()),
    st.builds(TimerFired, st.integers(0, 6)),
    st.builds(Removed, st.sampled_from(["c1", "c2", "c3"])),
)


CONDITIONS = st.sampled_from(["any", "on-failure", "none"])
HOOKED = Container(image="shop:1", post_start=(Hook(command=("warm",)),), pre_stop=(Hook(command=("calm",)),))


def drawn(condition: str, checked: bool, hooked: bool, max_attempts: int) -> Assignment:
    return assignment(
        restart=restart(condition, max_attempts=max_attempts),
        health_check=CHECK if checked else None,
        container=HOOKED if hooked else Container(image="shop:1"),
    )


def check_step(before: TaskMemory, step: Step) -> None:
    """What every single step must keep."""
    then, now = before.status, step.memory.status
    assert lifecycle.legal(then.state, now.state) or now.attempt > then.attempt, f"{then.state} -> {now.state}"
    assert now.attempt in (then.attempt, then.attempt + 1)
    assert (now.sequence > then.sequence) == (now != then), "a new status has a new, greater sequence"
    assert lifecycle.merge(then, now) == now, "observations only move forward"
    if lifecycle.ended(then.state):
        assert now == then, "an ended task stays as it ended"
    if lifecycle.ended(now.state):
        assert step.memory.phase in (Phase.ENDED, Phase.FORGETTING)
    assert now.state not in (TaskState.LOST, TaskState.PENDING)


@given(st.lists(ANY_STIMULUS, max_size=40), CONDITIONS, st.booleans(), st.booleans())
def test_any_stimuli_in_any_order_make_only_legal_steps(
    stimuli: list[Stimulus], condition: str, checked: bool, hooked: bool
) -> None:
    order = drawn(condition, checked, hooked, max_attempts=3)
    memory, now_s = task_memory.new(order, "n1"), 1_000.0
    for stimulus in (Assigned(order), *stimuli):
        now_s += 7.0
        step = task_step.step(memory, stimulus, now_s, random.Random(1))
        check_step(memory, step)
        memory = step.memory


def away(attempt: int) -> Stimulus:
    return EngineAway(attempt=attempt, reason="away")


class Engine:
    """Carries instructions out with the outcomes that chance draws, late and twice included. Knows what is alive."""

    def __init__(self, data: st.DataObject, order: Any) -> None:
        self.data = data
        self.memory = task_memory.new(order, "n1")
        self.now_s = 1_000.0
        self.alive: set[str] = set()
        self.present: set[str] = set()
        self.started: set[str] = set()
        self.open: list[Instruction] = []
        self.finished = False
        self.records: list[int] = []

    def draw(self, choices: list[Any]) -> Any:
        return self.data.draw(st.sampled_from(choices))

    def feed(self, stimulus: Stimulus) -> None:
        step = task_step.step(self.memory, stimulus, self.now_s, random.Random(1))
        check_step(self.memory, step)
        self.take(step)

    def restart_agent(self) -> None:
        """Everything under way is forgotten but what the engine did."""
        self.open = []
        step = task_step.resume(self.memory, self.now_s, random.Random(1))
        check_step(self.memory, step)
        self.take(step)

    def take(self, step: Step) -> None:
        self.memory = step.memory
        self.records += [attempt.number for attempt in step.ended]
        for instruction in step.instructions:
            if isinstance(instruction, Finish):
                self.finished = True
            self.open.append(instruction)

    def outcome(self, instruction: Instruction) -> Stimulus | None:
        """Do it, or fail to; what the agent hears of it."""
        attempt: int = getattr(instruction, "attempt", 0)
        match instruction:
            case Prepare():
                failed = OperationFailed(attempt=attempt, kind=FailureKind.CONFLICT, reason="port taken")
                return self.draw([Prepared(attempt=attempt), Prepared(attempt=attempt), away(attempt), failed])
            case Create():
                return self.create(attempt)
            case Start(container_id=container_id):
                return self.start(attempt, container_id)
            case WaitExit(container_id=container_id):
                self.alive.discard(container_id)
                return Exited(attempt=attempt, ending=Ending(code=self.draw([0, 1, None])))
            case Stop(container_id=container_id):
                if self.draw([True, True, False]):
                    self.alive.discard(container_id)
                    return Exited(attempt=attempt, ending=Ending(code=143, signal="SIGTERM"))
                return away(attempt)
            case ReadLogTail():
                return LogTail(attempt=attempt, lines=("last words",))
            case Probe():
                return Probed(attempt=attempt, good=self.draw([True, False, None]), output="out")
            case RunHooks():
                return Hooked(attempt=attempt, failure=self.draw(["", "", None, "failed"]))
            case Remove(container_id=container_id):
                assert container_id not in self.alive, "a container that runs must be stopped before it is removed"
                self.present.discard(container_id)
                return Removed(container_id)
            case SetTimer(timer=timer):
                return TimerFired(timer)
            case _:
                return None

    def create(self, attempt: int) -> Stimulus:
        container_id = f"c{attempt}"
        if (kind := self.kind(container_id in self.present)) == "refused":
            return OperationFailed(attempt=attempt, kind=self.draw(list(FailureKind)), reason="no")
        self.present.add(container_id)
        return Created(attempt=attempt, container_id=container_id) if kind == "done" else away(attempt)

    def start(self, attempt: int, container_id: str) -> Stimulus:
        assert container_id in self.present
        if (kind := self.kind(container_id in self.started)) == "refused":
            return OperationFailed(attempt=attempt, kind=self.draw(list(FailureKind)), reason="no such program")
        self.alive |= {container_id} - self.started
        self.started.add(container_id)
        assert len(self.alive) <= 1, f"two live containers: {self.alive}"
        return Started(attempt=attempt, runtime_id=container_id) if kind == "done" else away(attempt)

    def kind(self, happened_before: bool) -> str:
        """Creating and starting are idempotent: what worked once is not refused later."""
        kind: str = self.draw(["done", "done", "unheard", *([] if happened_before else ["refused"])])
        return kind

    def turn(self) -> None:
        """One thing happens."""
        self.now_s += self.draw([0.05, 5.0, 400.0])
        event = self.draw(["outcome"] * 8 + ["stop", "agent restarts", "engine back"])
        if event == "stop" and self.memory.assignment.desired is DesiredState.RUN and self.draw([True, False]):
            self.feed(Assigned(stopped(self.memory.assignment)))
        elif event == "agent restarts":
            self.restart_agent()
        elif event == "engine back":
            self.feed(EngineBack())
        elif self.open:
            instruction = self.open.pop(self.data.draw(st.integers(0, len(self.open) - 1)))
            if self.current(instruction) and (stimulus := self.outcome(instruction)):
                self.feed(stimulus)

    def current(self, instruction: Instruction) -> bool:
        """The runner carries out the last operation only: a new one takes the place of the one before."""
        operations = (Prepare, Create, Start, WaitExit, Stop, ReadLogTail)
        if not isinstance(instruction, operations):
            return True
        return not any(isinstance(later, operations) for later in self.open)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.booleans(), CONDITIONS, st.booleans())
def test_a_task_lives_and_can_always_be_forgotten_without_a_trace(
    data: st.DataObject, checked: bool, condition: str, hooked: bool
) -> None:
    order = drawn(condition, checked, hooked, max_attempts=4)
    engine = Engine(data, order)
    engine.feed(Assigned(order))
    for _ in range(data.draw(st.integers(0, 60))):
        engine.turn()
    assert engine.records == sorted(set(engine.records)), "one crash record for each attempt"
    engine.feed(ForgetRequested())
    for _ in range(400):
        if engine.finished:
            break
        if not engine.open:
            engine.restart_agent()
        engine.turn()
    assert engine.finished, f"stuck in {engine.memory.phase}, open: {engine.open}"
    assert not engine.alive
    assert not engine.present


def test_a_later_assignment_of_an_ended_task_changes_nothing() -> None:
    memory = task_memory.new(assignment(), "n1")
    ended = task_step.step(memory, Assigned(stopped(assignment())), 1.0, random.Random(1)).memory
    assert ended.status.state is TaskState.STOPPED
    again = task_step.step(ended, Assigned(replace(assignment(), version=2)), 2.0, random.Random(1))
    assert again.memory.status == ended.status
    assert again.instructions == ()


def test_what_comes_late_from_an_earlier_attempt_changes_nothing() -> None:
    memory = task_memory.new(assignment(health_check=CHECK), "n1")
    memory = replace(memory, phase=Phase.RUNNING, status=replace(memory.status, attempt=2, state=TaskState.RUNNING))
    late: list[Stimulus] = [
        Exited(attempt=1, ending=Ending(code=1)),
        Probed(attempt=1, good=False, output="old"),
        OperationFailed(attempt=1, kind=FailureKind.CONFLICT, reason="old"),
        EngineAway(attempt=1, reason="old"),
    ]
    for stimulus in late:
        step = task_step.step(memory, stimulus, 1.0, random.Random(1))
        assert (step.memory, step.instructions, step.ended) == (memory, (), ())
