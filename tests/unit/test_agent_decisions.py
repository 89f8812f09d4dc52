"""The agent's smaller decisions: restarts, health, crash records, expansion, sets of assignments."""

from __future__ import annotations

import msgspec
import pytest

from agent.core import assignment_diff, health
from agent.core.assignment_diff import Accept, AskAgain, Chain, Change, Forget, Ignore, Start, Stop, decide, follow
from agent.core.attempt import Ending, bounded, describe
from agent.core.environment import expand
from agent.core.restart import Again, Over, RestartMemory, after_attempt, first_wait_s
from common.model.job import HealthCheck
from common.model.task import Attempt, Health, TaskState
from common.settings import LIMITS
from tests.agent_builders import assignment, complete, incremental, restart, stopped

# --- restarts


def delays(attempts: int, **policy: object) -> list[float | str]:
    """The waits between quick failures, or the state the task ends in."""
    memory, waits = RestartMemory(), list[float | str]()
    for _ in range(attempts):
        verdict = after_attempt(restart(**policy), memory, success=False, good_for_s=0.0)  # type: ignore[arg-type]
        if isinstance(verdict, Over):
            return [*waits, verdict.state.value]
        waits.append(verdict.delay_s)
        memory = verdict.memory
    return waits


def test_the_wait_doubles_from_a_tenth_of_a_second_to_a_minute() -> None:
    assert delays(12, max_attempts=0) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0, 60.0]


def test_after_its_attempts_the_task_fails() -> None:
    assert delays(9, max_attempts=3) == [0.1, 0.2, "failed"]


def test_a_run_of_the_window_makes_earlier_failures_forgotten() -> None:
    verdict = after_attempt(restart(), RestartMemory(in_a_row=4), success=False, good_for_s=300.0)
    assert verdict == Again(delay_s=0.1, memory=RestartMemory(in_a_row=1))


@pytest.mark.parametrize(
    ("condition", "success", "state"),
    [
        ("none", True, TaskState.COMPLETE),
        ("none", False, TaskState.FAILED),
        ("on-failure", True, TaskState.COMPLETE),
        ("on-failure", False, None),
        ("any", True, None),
        ("any", False, None),
    ],
)
def test_the_condition_says_after_which_endings_a_task_goes_on(
    condition: str, success: bool, state: TaskState | None
) -> None:
    verdict = after_attempt(restart(condition), RestartMemory(), success=success, good_for_s=0.0)
    assert (verdict.state if isinstance(verdict, Over) else None) is state


def test_a_slot_that_failed_elsewhere_waits_before_its_first_start() -> None:
    assert [first_wait_s(restart(), failed) for failed in (0, 1, 3)] == [0.0, 0.1, 0.4]


# --- health


def test_failures_count_an_interval_apart_and_turn_unhealthy_after_the_retries() -> None:
    check = HealthCheck(test=("CMD", "x"), interval_s=30.0, retries=3)
    memory, now_s = health.begin(check, 0.0), 0.0
    looks = []
    while memory.health is Health.STARTING:
        now_s += health.next_probe_s(check, memory, now_s)
        looks.append(now_s)
        memory = health.observe(check, memory, good=False, output="no", now_s=now_s)
    assert memory.health is Health.UNHEALTHY
    assert now_s == 90.0, "as Compose would: three intervals"
    assert looks[0] == 0.5, "the first look is early"


def test_an_early_success_is_healthy_at_once() -> None:
    check = HealthCheck(test=("CMD", "x"))
    memory = health.observe(check, health.begin(check, 0.0), good=True, output="", now_s=0.5)
    assert memory.health is Health.HEALTHY
    assert health.next_probe_s(check, memory, 0.5) == check.interval_s


def test_failures_in_the_start_period_do_not_count() -> None:
    check = HealthCheck(test=("CMD", "x"), interval_s=1.0, retries=1, start_period_s=60.0)
    memory = health.begin(check, 0.0)
    for now_s in (1.0, 30.0, 60.0):
        memory = health.observe(check, memory, good=False, output="no", now_s=now_s)
    assert memory.health is Health.STARTING
    assert health.observe(check, memory, good=False, output="no", now_s=61.0).health is Health.UNHEALTHY


def test_one_success_forgives_failures() -> None:
    check = HealthCheck(test=("CMD", "x"), interval_s=1.0, retries=2)
    memory = health.begin(check, 0.0)
    for now_s, good in enumerate((True, False, True, False), start=1):
        memory = health.observe(check, memory, good=good, output="", now_s=now_s)
    assert memory.health is Health.HEALTHY


# --- crash records


def test_a_crash_record_keeps_the_newest_lines_that_fit() -> None:
    lines = [f"{number:04d}" + "x" * 500 for number in range(100)]
    record = bounded(Attempt(task_id="t1", number=1, message="exited with code 1"), lines)
    assert record.log_tail[-1] == lines[-1]
    assert 10 < len(record.log_tail) < 50
    assert sum(len(line) for line in record.log_tail) <= LIMITS.attempt_record_bytes


def test_of_one_endless_line_a_crash_record_keeps_the_beginning() -> None:
    record = bounded(Attempt(task_id="t1", number=1), ["y" * 100_000])
    assert 0 < len(record.log_tail[0]) <= LIMITS.attempt_record_bytes


def test_short_logs_are_kept_to_fifty_lines() -> None:
    record = bounded(Attempt(task_id="t1", number=1), [str(number) for number in range(80)])
    assert record.log_tail == tuple(str(number) for number in range(30, 80))


def test_an_ending_is_put_into_words() -> None:
    out_of_memory = Ending(code=137, signal="SIGKILL", oom=True, memory_limit_bytes=64 << 20)
    assert describe(out_of_memory) == "killed: out of memory (limit 64 MiB)"
    assert describe(Ending(code=143, signal="SIGTERM")) == "killed by SIGTERM"
    assert describe(Ending(code=3)) == "exited with code 3"
    assert describe(Ending(message="the machine was restarted")) == "ended, nobody knows how: the machine was restarted"


@pytest.mark.parametrize(
    ("failures", "failing", "unhealthy"),
    [
        (0, "", None),
        (1, "health check failed once: 503", "unhealthy after a failed health check, which said: 503"),
        (
            3,
            "health check failed 3 times in a row: 503",
            "unhealthy after 3 failed health checks in a row; the last one said: 503",
        ),
    ],
)
def test_failed_health_checks_are_put_into_words(failures: int, failing: str, unhealthy: str | None) -> None:
    memory = health.HealthMemory(failures=failures, output="503\n")
    assert health.failing_message(memory) == failing
    assert unhealthy is None or health.unhealthy_message(memory) == unhealthy


# --- expansion


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("${PORT}", "8000"),
        ("http://x:${PORT}/${NAME}", "http://x:8000/a b"),
        ("$${PORT}", "${PORT}"),
        ("${UNKNOWN} ${PORT:-1} $PORT $$ ${} ${1}", "${UNKNOWN} ${PORT:-1} $PORT $$ ${} ${1}"),
        ("${NESTED}", "${PORT}"),
    ],
)
def test_references_are_expanded_once_and_nothing_else_is_touched(text: str, expanded: str) -> None:
    assert expand(text, {"PORT": "8000", "NAME": "a b", "NESTED": "${PORT}"}) == expanded


# --- sets of assignments


def known(*orders: object) -> dict[str, object]:
    return {order.task_id: order for order in orders}  # type: ignore[attr-defined]


def test_a_complete_set_forgets_what_it_does_not_name() -> None:
    a, b = assignment("a"), assignment("b")
    assert decide(known(a, b), complete(a)) == (Forget("b"),)  # type: ignore[arg-type]


def test_an_incremental_set_touches_only_what_it_names() -> None:
    a, b = assignment("a"), assignment("b")
    decisions = decide(known(a, b), incremental(stopped(a), sequence=2))  # type: ignore[arg-type]
    assert decisions == (Stop(stopped(a)),)


def test_how_far_the_controller_has_seen_a_task_is_no_news_to_its_agent() -> None:
    a = assignment("a")
    seen = msgspec.structs.replace(a, observed_sequence=7)
    assert decide(known(a), complete(seen)) == ()  # type: ignore[arg-type]


def test_what_leaves_comes_before_what_starts() -> None:
    a, b, c, new = (assignment(name) for name in ("a", "b", "c", "new"))
    changed = assignment("c", restart=restart("none"))
    orders = incremental(new, changed, stopped(a), sequence=2, removed=("b", "unknown"))
    decisions = decide(known(a, b, c), orders)  # type: ignore[arg-type]
    assert decisions == (Forget("b"), Stop(stopped(a)), Start(new), Change(changed))


def test_a_task_both_removed_and_assigned_is_kept() -> None:
    a = assignment("a")
    assert decide(known(a), incremental(a, sequence=2, removed=("a",))) == ()  # type: ignore[arg-type]


def test_a_gap_asks_for_a_complete_set_once() -> None:
    chain, judgement = follow(Chain(last=3), incremental(sequence=5), live_tasks=1)
    assert judgement == AskAgain(reason="assignments 5 came after 3")
    chain, judgement = follow(chain, incremental(sequence=6), live_tasks=1)
    assert judgement == Ignore()
    chain, judgement = follow(chain, complete(assignment(), sequence=1), live_tasks=1)
    assert (chain, judgement) == (Chain(last=1), Accept())


def test_the_chain_goes_on_without_a_gap() -> None:
    chain, _ = follow(Chain(), complete(assignment()), live_tasks=0)
    assert follow(chain, incremental(sequence=2), live_tasks=1) == (Chain(last=2), Accept())


def test_an_empty_complete_set_must_be_said_twice_when_something_runs() -> None:
    chain, judgement = follow(Chain(), complete(), live_tasks=2)
    assert isinstance(judgement, AskAgain)
    assert follow(chain, incremental(sequence=2), live_tasks=2)[1] == Ignore()
    assert follow(chain, complete(), live_tasks=2)[1] == Accept()


def test_an_empty_complete_set_for_an_idle_node_is_fine() -> None:
    assert assignment_diff.follow(Chain(), complete(), live_tasks=0)[1] == Accept()
