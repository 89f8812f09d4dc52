"""Files that cannot be read, and files that belong to somebody else: one clear line, nothing touched, all runs on.

What docs/operations.md tells the operator to do is done here by its letter.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from tests.cluster.beside import beside
from tests.cluster.hello import Hello
from tests.cluster.load import load
from tests.cluster.processes import PATIENT, PODIUM, Cluster, Program, cluster, refused
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BESIDE = "broken files"
NODES = [("n1", "127.0.0.21"), ("n2", "127.0.0.22")]
OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


@asynccontextmanager
async def on_two(directory: Path) -> AsyncIterator[Hello]:
    async with cluster(directory, f"sqlite://{directory}/store/controller.db", "process", NODES, *PATIENT) as made:
        running = Hello(made)
        await running.up()
        yield running


def documented(beginning: str) -> list[str]:
    """Lines of a console in docs/operations.md, from the one that begins so to the end of its block."""
    blocks = re.findall(r"```console\n(.*?)```", OPERATIONS.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if block.startswith(f"$ {beginning}")]
    return [line.removeprefix("$ ") for line in block.splitlines()]


def carry_out(lines: list[str], directory: Path, made: Cluster) -> None:
    around = os.environ | {"PATH": f"{Path(PODIUM).parent}:{os.environ['PATH']}", "PODIUM_CONTROLLER": made.grpc}
    for line in lines:
        subprocess.run(["sh", "-ec", line], cwd=directory, env=around, check=True, timeout=60)


def contents(*paths: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def damage(path: Path) -> None:
    """Overwrite the middle, as a bad sector or a wrong copy would; the header still says whose file it is."""
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 3, len(content) * 2 // 3):
        content[place] = 0xA5
    path.write_bytes(content)


@beside(on_two)
async def test_a_corrupt_store_stops_nothing_and_a_backup_or_a_copy_brings_everything_back(hello: Hello) -> None:
    made, directory = hello.cluster, hello.cluster.directory / "store"
    file, log = directory / "controller.db", directory / "controller.db-wal"
    carry_out(documented("podium store backup"), directory, made)
    with closing(sqlite3.connect(file)) as present, closing(sqlite3.connect(directory / "copy")) as copy:
        present.backup(copy)
    before = await hello.pids()
    for _ in range(2):  # terms that neither knows anything of
        made.controller.end()
        made.controller.start()
        await made.until_ready(2)
    made.controller.kill()
    damage(file)
    async with load(hello.targets, per_second=30) as seen:
        broken = contents(file, log)
        said = refused(made.controller, code=2)
        assert f"{file}: is corrupt" in said
        assert "it was left as it is" in said
        assert "docs/operations.md" in said
        assert contents(file, log) == broken
        await seen.until(lambda seen: seen.answers > 30)

        carry_out(documented("mkdir broken"), directory, made)
        made.controller.start()
        await made.until_ready(2)
        assert await hello.pids() == before

        made.controller.end()
        for path in (file, log, directory / "controller.db-shm"):
            path.unlink(missing_ok=True)
        (directory / "copy").rename(file)
        said = refused(made.controller, code=1)
        assert "its store is older than what the cluster has seen" in said
        (raise_generation,) = documented("podium store raise-generation")
        assert raise_generation.replace(f"sqlite://$PWD/{file.name}", "URL") in said
        carry_out([raise_generation], directory, made)
        made.controller.start()
        await made.until_ready(2)
        assert await hello.pids() == before
        assert made.read("store", "strays") == []
    assert seen.failures == []


@pytest.mark.parametrize("kind", ["text", "folder"])
async def test_what_is_no_store_is_named_and_left_alone(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "controller.db"
    if kind == "folder":
        file.mkdir()
    else:
        file.write_text("name: shop\n" * 1000)
    listens = ("--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    said = refused(Program("controller", tmp_path, "controller", "--store", f"sqlite://{file}", *listens), code=2)
    assert str(file) in said
    assert kind == "folder" or file.read_text() == "name: shop\n" * 1000


@beside(on_two)
async def test_a_second_controller_on_the_file_is_refused_with_the_first_ones_pid(hello: Hello) -> None:
    made = hello.cluster
    listens = ("--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    store = f"sqlite://{made.directory}/store/controller.db"
    before = await hello.pids()
    said = refused(Program("second", made.directory, "controller", "--store", store, *listens), code=1)
    assert f"controller.db is in use by process {made.controller.pid} " in said
    await hello.cluster.run("-n", "hello", "scale", "hello=4")
    after = await hello.pids(4)
    assert before.items() <= after.items()


@beside(on_two)
async def test_a_second_agent_on_the_directory_is_refused_with_the_first_ones_pid(hello: Hello) -> None:
    made = hello.cluster
    first = made.agents["n1"]
    before = await hello.pids()
    http = f"127.0.0.21:{free_port()}"
    arguments = list(first.arguments)
    arguments[arguments.index("--http-listen") + 1] = http
    said = refused(Program("second", made.directory, *arguments), code=1)
    assert f"another agent (pid {first.pid}) uses the data directory {made.directory / 'n1'}" in said
    assert await hello.pids() == before
    assert await hello.answers("127.0.0.21") == await hello.answers("127.0.0.22")


@beside(on_two)
async def test_a_corrupt_journal_stops_nothing_and_moving_it_away_takes_everything_up_again(hello: Hello) -> None:
    made = hello.cluster
    before, tasks = await hello.pids(), await hello.tasks()
    node = tasks[0].node
    agent, journal = made.agents[node], made.directory / node / "journal.db"
    log = journal.with_name("journal.db-wal")
    (node_id,) = [view.node.id for view in await made.client.nodes() if view.node.name == node]
    async with load(hello.targets, per_second=30) as seen:
        agent.end()
        journal.write_bytes(b"A" * 100 + journal.read_bytes()[100:])
        broken = contents(journal, log)
        said = refused(agent, code=2)
        assert f"{journal}: the agent's journal cannot be read" in said
        assert "running containers keep running" in said
        assert contents(journal, log) == broken
        await seen.until(lambda seen: seen.answers > 30)

        (way_out,) = re.findall(r"\((mv [^)]*)\)", said)
        carry_out([way_out], made.directory, made)
        agent.start()
        await made.until_ready(2)
        assert await hello.pids() == before
        answered = seen.answers
        await seen.until(lambda seen: seen.answers > answered + 60)
    assert seen.failures == []
    assert [(view.task.id, view.node) for view in await hello.tasks()] == [(view.task.id, view.node) for view in tasks]
    assert [view.node.id for view in await made.client.nodes() if view.node.name == node] == [node_id]

    taken_up = tasks[0]
    os.kill(before[taken_up.task.id], signal.SIGKILL)
    await made.until(
        "hello",
        lambda found: any(
            view.task.id == taken_up.task.id and view.task.status.attempt == 2 and view.health.value == "healthy"
            for view in found[0].tasks
        ),
    )


# --- listeners and stores


def said_by(*arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [PODIUM, *arguments],
        env={name: value for name, value in os.environ.items() if not name.startswith("PODIUM_")} | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_an_agent_whose_probes_others_reach_needs_tls_or_a_word(tmp_path: Path) -> None:
    code, said = said_by("agent", "--data-dir", str(tmp_path / "d"), "--http-listen", "0.0.0.0:0")
    assert code == 2
    assert said.startswith("error: http_listen: '0.0.0.0:0' can be reached from other machines")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", [("--insecure",), ()])
def test_with_the_word_it_listens(tmp_path: Path, word: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    if not word:
        monkeypatch.setenv("PODIUM_INSECURE", "1")
    listens = ("--grpc-listen", "0.0.0.0:0", "--http-listen", "0.0.0.0:0")
    program = Program("controller", tmp_path, "controller", "--store", "memory:", *listens, *word).start()
    try:
        program.until_it_says("elected")
    finally:
        assert program.end() == 0


@pytest.mark.parametrize("store", ["floppy://a", "postgres://db/podium", "controller.db", "sqlite://host/x", "etcd://"])
def test_an_unknown_store_is_refused_with_those_there_are(store: str) -> None:
    code, said = said_by("controller", "--store", store)
    assert code == 2
    assert said.startswith("error: store: ")
    assert "sqlite:///path, etcd://host:port,host:port" in said
