"""An operation the engine did not answer is repeated by one of two: the task's timer, or the engine's return."""

from __future__ import annotations

import random

from agent.core import task_memory, task_step
from agent.core.instructions import Prepare
from agent.core.stimuli import Assigned, EngineAway, EngineBack, Stimulus, TimerFired
from agent.core.task_memory import TaskMemory
from agent.core.task_step import Step
from tests.agent_builders import assignment


def after(memory: TaskMemory, stimulus: Stimulus) -> Step:
    return task_step.step(memory, stimulus, 1_000.0, random.Random(1))


def prepares(step: Step) -> int:
    return sum(isinstance(instruction, Prepare) for instruction in step.instructions)


def waiting_for_the_engine() -> TaskMemory:
    begun = after(task_memory.new(assignment(), "n1"), Assigned(assignment()))
    assert prepares(begun) == 1
    return after(begun.memory, EngineAway(attempt=1, reason="gone")).memory


def test_an_engine_that_is_back_is_asked_again() -> None:
    back = after(waiting_for_the_engine(), EngineBack())
    assert prepares(back) == 1
    assert prepares(after(back.memory, EngineBack())) == 0


def test_an_engine_that_is_being_asked_again_is_not_asked_once_more() -> None:
    """A woken agent finds its timer and the engine's answer at once: of two creates the slower one made a container
    after the other one's had been removed."""
    waiting = waiting_for_the_engine()
    asked = after(waiting, TimerFired(waiting.timer))
    assert prepares(asked) == 1
    assert prepares(after(asked.memory, EngineBack())) == 0
    away = after(asked.memory, EngineAway(attempt=1, reason="gone again"))
    assert prepares(after(away.memory, EngineBack())) == 1


def test_a_restarted_agent_asks_once() -> None:
    resumed = task_step.resume(waiting_for_the_engine(), 1_000.0, random.Random(1))
    assert prepares(resumed) == 1
    assert prepares(after(resumed.memory, EngineBack())) == 0
