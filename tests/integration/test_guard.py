"""The guard's process: ends exclusive processes and containers when their agent says nothing more, and nothing else."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from agent.guard import watchman
from agent.guard.interface import HeldContainer
from agent.guard.keeper import GuardKeeper
from agent.runtime.process_request import mark
from tests.process_table import lives, runs, until_ended

AFTER_S = 1.0
PATIENCE_S = 20.0
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
ORPHAN = """
import subprocess
print(subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=subprocess.DEVNULL).pid, flush=True)
"""


def boottime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Programs:
    """What a task would run: processes that carry its mark."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []
        self.said: dict[int, bytes] = {}
        """Each one's first line, by process id."""

    def start(self, task_id: str, *argv: str) -> subprocess.Popen[bytes]:
        name, _, value = mark(f"{task_id}.1").partition("=")
        program = subprocess.Popen(
            argv or ("sleep", "600"), env={**os.environ, name: value}, stdout=subprocess.PIPE, start_new_session=True
        )
        self._started.append(program)
        while name not in psutil.Process(program.pid).environ():  # for a moment after exec a process shows none
            assert program.poll() is None
        if argv:
            assert program.stdout is not None
            self.said[program.pid] = program.stdout.readline()
        return program

    def end(self) -> None:
        for program in self._started:
            program.kill()
            program.communicate()


@pytest.fixture
def programs() -> Iterator[Programs]:
    made = Programs()
    yield made
    made.end()


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[GuardKeeper]:
    made = GuardKeeper(tmp_path / "guard", boottime_s, "")
    yield made
    for process in guards(tmp_path):
        process.kill()
        until_ended([process])


def guards(directory: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if watchman.__file__ in process.cmdline() and str(directory / "guard") in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def held(task_id: str, program: subprocess.Popen[bytes], *, grace_s: float = 0.2) -> HeldContainer:
    return HeldContainer(
        task_id=task_id,
        attempt=1,
        runtime="process",
        container_id=str(program.pid),
        fence_after_s=AFTER_S,
        signal="SIGTERM",
        grace_s=grace_s,
    )


async def ends(program: subprocess.Popen[bytes]) -> int:
    return await asyncio.wait_for(asyncio.to_thread(program.wait), PATIENCE_S)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - it is about other processes, and nobody says when they change
            await asyncio.sleep(0.02)


async def test_it_ends_what_is_no_longer_acknowledged_and_nothing_else(keeper: GuardKeeper, programs: Programs) -> None:
    one, other = programs.start("one"), programs.start("other")
    sent_s = boottime_s()
    await keeper.hold(held("one", one, grace_s=PATIENCE_S), sent_s)
    assert await ends(one) == -signal.SIGTERM
    assert boottime_s() >= sent_s + AFTER_S + watchman.LATE_S
    assert other.poll() is None


async def test_what_does_not_obey_is_killed_at_the_end_of_its_grace(keeper: GuardKeeper, programs: Programs) -> None:
    program = programs.start("one", sys.executable, "-c", STUBBORN)
    sent_s = boottime_s()
    await keeper.hold(held("one", program, grace_s=0.5), sent_s)
    assert await ends(program) == -signal.SIGKILL
    assert boottime_s() >= sent_s + AFTER_S + watchman.LATE_S + 0.5


async def test_an_acknowledgement_keeps_it_alive(keeper: GuardKeeper, programs: Programs) -> None:
    program = programs.start("one")
    begun_s = boottime_s()
    await keeper.hold(held("one", program, grace_s=PATIENCE_S), begun_s)
    while boottime_s() < begun_s + AFTER_S + watchman.LATE_S + 0.5:
        keeper.extend(boottime_s())
        await asyncio.sleep(0.1)
    assert program.poll() is None
    assert await ends(program) == -signal.SIGTERM


async def test_children_that_left_their_parent_are_ended_too(keeper: GuardKeeper, programs: Programs) -> None:
    parent = programs.start("one", sys.executable, "-c", ORPHAN)
    orphan = psutil.Process(int(programs.said[parent.pid]))
    await ends(parent)
    program = programs.start("one")
    await keeper.hold(held("one", program), boottime_s())
    await ends(program)
    await until(lambda: not runs(orphan))


async def test_a_reused_process_id_is_left_alone(keeper: GuardKeeper, programs: Programs) -> None:
    bystander, task = programs.start("other"), programs.start("one")
    ticks = watchman.start_ticks(task.pid)
    entry = {"runtime": "process", "container_id": str(bystander.pid), "ticks": ticks + 1, "mark": mark("one.1")}
    assert list(watchman.processes(entry)) == [task.pid]


async def test_a_killed_guard_is_started_again_and_knows_what_it_guards(
    keeper: GuardKeeper, programs: Programs, tmp_path: Path
) -> None:
    program = programs.start("one")
    await keeper.hold(held("one", program, grace_s=PATIENCE_S), boottime_s())
    (guard,) = guards(tmp_path)
    guard.kill()
    until_ended([guard])
    keeper.extend(boottime_s())
    await keeper.close()
    assert [one.pid for one in guards(tmp_path)] != [guard.pid]
    assert await ends(program) == -signal.SIGTERM


async def test_it_ends_when_it_guards_nothing_and_another_begins_when_it_does(
    keeper: GuardKeeper, programs: Programs, tmp_path: Path
) -> None:
    program = programs.start("one")
    await keeper.hold(held("one", program), boottime_s())
    keeper.release("one")
    await until(lambda: not guards(tmp_path))
    assert program.poll() is None
    await keeper.hold(held("one", program), boottime_s())
    assert len(guards(tmp_path)) == 1


async def test_only_one_guards_a_directory(keeper: GuardKeeper, programs: Programs, tmp_path: Path) -> None:
    await keeper.hold(held("one", programs.start("one")), boottime_s())
    argv = (sys.executable, "-I", "-S", watchman.__file__, str(tmp_path / "guard"))
    second = await asyncio.create_subprocess_exec(*argv)
    assert await asyncio.wait_for(second.wait(), PATIENCE_S) == 0
    assert len(guards(tmp_path)) == 1
    lock = os.open(tmp_path / "guard" / watchman.LOCK, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)


async def test_a_next_agent_knows_when_the_last_was_acknowledged(keeper: GuardKeeper, tmp_path: Path) -> None:
    assert keeper.acknowledged_s() == float("-inf")
    directory = tmp_path / "guard"
    directory.mkdir()
    file = directory / watchman.ACKNOWLEDGED
    at_s = boottime_s()
    file.write_text(f"{watchman.boot_id()} {at_s:020.6f} end\n")
    assert keeper.acknowledged_s() == pytest.approx(at_s, abs=1e-5)
    file.write_text(f"another-boot {at_s:020.6f} end\n")
    assert keeper.acknowledged_s() == float("-inf")
    file.write_text(f"{watchman.boot_id()} {at_s:010.3f}")
    assert keeper.acknowledged_s() == float("-inf"), "half of it was written"


async def test_containers_of_tasks_that_an_agent_does_not_know_are_ended_before_it_begins(
    keeper: GuardKeeper, programs: Programs, tmp_path: Path
) -> None:
    known, forgotten = programs.start("known"), programs.start("forgotten")
    for task_id, program in (("known", known), ("forgotten", forgotten)):
        await keeper.hold(held(task_id, program), boottime_s() + 60.0)
    successor = GuardKeeper(tmp_path / "guard", boottime_s, "")
    await successor.begin(["known"])
    assert not lives(forgotten.pid)
    assert known.poll() is None
    await successor.close()
