"""`make demo` as an ordinary user of a machine without Docker and etcd, and what it leaves behind: nothing."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.hello import Hello
from tests.cluster.load import load
from tests.cluster.processes import (
    PODIUM,
    Cluster,
    Program,
    end_processes_naming,
    healthy,
    live,
    processes_naming,
    refused,
)
from tests.process_table import lives

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo.py"
_strangers = itertools.count(1_000_000 + 100 * os.getpid())
"""User ids that nobody has, so that everything one of them owns afterwards was left by its demo."""
PLACES = ("/tmp", "/var/tmp", "/run", "/dev/shm")
"""Where programs leave files. Those that are there already belong to others."""


class Person:
    """Who runs the demo: a user who owns nothing when we are root, else ourselves."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.stranger = next(_strangers) if os.geteuid() == 0 else None
        if self.stranger is not None:
            os.chown(home, self.stranger, self.stranger)

    @property
    def environment(self) -> dict[str, str]:
        """A PATH with the project's own programs and a shell: neither Docker nor etcd are on it."""
        programs = self.home / "bin"
        return {"HOME": str(self.home), "TMPDIR": str(self.home), "PATH": f"{Path(PODIUM).parent}:{programs}"}

    def start(self, *command: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Run `command` as this person, as a terminal would: in the foreground of a session of its own."""
        return subprocess.Popen(
            [*self._becoming(), *command],
            env=self.environment | (environment or {}),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _becoming(self) -> list[str]:
        """The one right it keeps is to look into directories: the interpreter may live in root's home."""
        if self.stranger is None:
            return []
        rights = "-all,+dac_read_search"
        who = ("--reuid", str(self.stranger), "--regid", str(self.stranger), "--clear-groups")
        kept = (f"--inh-caps={rights}", f"--ambient-caps={rights}", f"--bounding-set={rights}")
        setpriv = shutil.which("setpriv")
        assert setpriv is not None, "util-linux is part of every Debian"
        return [setpriv, *who, *kept]

    def processes(self) -> list[str]:
        if self.stranger is None:
            return processes_naming(self.home)
        return [line for process in psutil.process_iter() if (line := _line_if_owned(process, self.stranger))]

    def listeners(self) -> list[str]:
        """Local addresses listened on by this person's processes, as the kernel lists them."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return [line[1] for line in lines if line[3] == "0A" and line[7] == str(self.stranger)]

    def files(self) -> list[str]:
        mine = [str(path) for path in self.home.iterdir() if path.name != "bin"]
        if self.stranger is None:
            return mine
        find = ["find", *PLACES, "-xdev", "-user", str(self.stranger), "-print", "-prune"]
        found = subprocess.run(find, capture_output=True, text=True, check=False, timeout=60).stdout.split()
        return mine + [path for path in found if path != str(self.home)]


def _line_if_owned(process: psutil.Process, user: int) -> str:
    """Its command line if it is the user's and lives; what has ended waits for init alone."""
    try:
        return " ".join(process.cmdline()) if process.uids().real == user else ""
    except psutil.Error:
        return ""


@pytest.fixture
def person(open_directory: Path) -> Iterator[Person]:
    home = open_directory / "home"
    (home / "bin").mkdir(parents=True)
    for program in ("sh", "env"):
        found = shutil.which(program)
        assert found is not None
        (home / "bin" / program).symlink_to(found)
    somebody = Person(home)
    yield somebody
    end_processes_naming(home)


def nothing_is_left(person: Person) -> None:
    assert person.processes() == []
    assert person.listeners() == []
    assert person.files() == []


def read_until(demo: subprocess.Popen[str], marker: str) -> str:
    assert demo.stdout is not None
    said = ""
    for line in demo.stdout:
        said += line
        if marker in line:
            return said
    raise AssertionError(f"{marker!r} was never said:\n{said}")


def test_the_demo_shows_three_replicas_one_killed_and_healed_and_leaves_nothing(person: Person) -> None:
    assert shutil.which("docker", path=person.environment["PATH"]) is None
    assert shutil.which("etcd", path=person.environment["PATH"]) is None
    demo = person.start(sys.executable, str(DEMO), "--once")
    said, _ = demo.communicate(timeout=120)
    assert demo.returncode == 0, said
    answers = set(re.findall(r"hello from replica (\d) on (node-\d)", said))
    assert {slot for slot, _ in answers} == {"1", "2", "3"}
    assert {node for _, node in answers} == {"node-1", "node-2", "node-3"}
    assert len(answers) == 3
    killed, healed = re.search(r"kill -9 (\d+)", said), re.search(r"back as pid (\d+) and healthy", said)
    assert killed is not None
    assert healed is not None
    assert killed[1] != healed[1]
    nothing_is_left(person)


@pytest.mark.parametrize("moment", ["podium dev --nodes 3", "podium up -f", "podium ps", "Press ^C"])
def test_an_interrupted_demo_leaves_nothing(person: Person, moment: str) -> None:
    demo = person.start(sys.executable, "-u", str(DEMO))
    said = read_until(demo, moment)
    os.killpg(demo.pid, signal.SIGINT)
    rest, _ = demo.communicate(timeout=90)
    assert demo.returncode == 0, said + rest
    assert "Traceback" not in rest
    nothing_is_left(person)


def test_a_second_interrupt_does_not_keep_the_demo_from_tidying_up(person: Person) -> None:
    demo = person.start(sys.executable, "-u", str(DEMO))
    read_until(demo, "Press ^C")
    os.killpg(demo.pid, signal.SIGINT)
    said = read_until(demo, "stopping")
    os.killpg(demo.pid, signal.SIGINT)
    rest, _ = demo.communicate(timeout=90)
    assert demo.returncode == 0, said + rest
    nothing_is_left(person)


def test_a_closed_terminal_ends_the_demo_like_an_interrupt(person: Person) -> None:
    demo = person.start(sys.executable, "-u", str(DEMO))
    read_until(demo, "Press ^C")
    os.killpg(demo.pid, signal.SIGHUP)
    demo.communicate(timeout=90)
    nothing_is_left(person)


# --- podium dev, killed


class Dev(Cluster):
    """`podium dev` with examples/hello on it, as the demo has it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "", "process", secure=True)
        ports = (port_of(self.grpc), port_of(self.http))
        where = ("--data-dir", str(directory / "data"), "--runtime", "process")
        listens = ("--grpc-port", ports[0], "--http-port", ports[1])
        self.controller = Program("dev", directory, "dev", *where, *listens, secure=True)
        self.hello = Hello(self)

    def processes(self) -> Counter[str]:
        """What runs below the data directory, by kind; the servers themselves do not name it."""
        kinds = {"shim": "/shim.py", "relay": "agent.network.relay", "dev": " dev --data-dir "}
        lines = processes_naming(self.directory / "data")
        return Counter(kind for line in lines for kind, word in kinds.items() if word in line)


def port_of(address: str) -> str:
    return address.rpartition(":")[2]


@pytest.fixture
async def dev(tmp_path: Path) -> AsyncIterator[Dev]:
    made = Dev(tmp_path)
    try:
        await made.begin()
        async with made.client:
            await made.until_ready(3)
            await made.hello.up()
            yield made
    finally:
        made.controller.kill()
        end_processes_naming(tmp_path)


async def test_a_killed_dev_goes_on_serving_and_its_successor_doubles_nothing(dev: Dev) -> None:
    before, running, answers = await dev.hello.pids(), dev.processes(), await dev.hello.answers()
    assert running == {"shim": 3, "relay": 1, "dev": 1}
    async with load([("127.0.0.1", dev.hello.port)], per_second=30) as seen:
        dev.controller.kill()
        assert await dev.hello.answers() == answers
        dev.controller.start()
        await dev.until_ready(3)
        assert await dev.hello.pids() == before
        await seen.until(lambda seen: seen.answers > 50)
    assert seen.failures == []
    assert set(seen.bodies) == answers
    assert dev.processes() == running
    assert dev.controller.end() == 0
    assert dev.processes() == {}
    assert not any(lives(pid) for pid in before.values())


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("nodes/node-2/journal.db", "the agent's journal cannot be read"),
        ("controller.db", "is not an SQLite database"),
    ],
)
async def test_a_dev_that_cannot_start_again_leaves_what_runs_alone(dev: Dev, file: str, complaint: str) -> None:
    before, answers = await dev.hello.pids(), await dev.hello.answers()
    dev.controller.kill()
    running, broken = dev.processes(), dev.directory / "data" / file
    broken.write_bytes(b"A" * 100 + broken.read_bytes()[100:])
    broken.with_name(f"{broken.name}-wal").unlink()  # what a killed one wrote there would mend the damage
    said = refused(dev.controller, code=2)
    assert f"{broken}: " in said
    assert complaint in said
    assert dev.processes() == running == {"shim": 3, "relay": 1}
    assert await dev.hello.answers() == answers
    assert all(lives(pid) for pid in before.values())


async def test_a_replica_that_died_while_dev_was_dead_is_started_again_by_its_successor(dev: Dev) -> None:
    before = await dev.hello.pids()
    victim = (await dev.hello.tasks())[1].task.id
    dev.controller.kill()
    os.kill(before[victim], signal.SIGKILL)
    dev.controller.start()
    await dev.until_ready(3)
    await dev.until("hello", lambda found: healthy(found[0], 3) and live(found[0])[1].task.status.attempt == 2)
    after = await dev.hello.pids()
    assert {task for task in after if after[task] != before[task]} == {victim}
    assert dev.processes()["shim"] == 3
