"""The process runtime on this machine: supervisors, what they leave behind (nothing), and who survives whom."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agent.runtime import cgroups
from agent.runtime.interface import ContainerRequest, Exit, RunningContainer
from agent.runtime.process import ProcessRuntime, ProcessSettings
from agent.runtime.process_users import Users
from agent.runtime.shim import start_ticks
from common.errors import Invalid, NotFound
from common.model.job import Container, Mount, MountKind
from common.model.resources import Resources
from common.model.task import PortBinding
from tests.process_table import lives
from tests.runtime_rigs import ProcessRig

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


@pytest.fixture
async def rig(open_directory: Path) -> AsyncIterator[ProcessRig]:
    made = ProcessRig(open_directory)
    await made.open(made.node_id)
    try:
        yield made
    finally:
        await made.close()


def script(text: str, **fields: object) -> Container:
    return msgspec.structs.replace(Container(command=("sh", "-c", text)), **fields)


def python(text: str) -> Container:
    return Container(command=(sys.executable, "-c", textwrap.dedent(text)))


async def begin(rig: ProcessRig, container: Container) -> RunningContainer:
    return await rig.runtime.start_container(await rig.runtime.create(rig.request(container)))


async def run(rig: ProcessRig, container: Container) -> tuple[Exit, list[str]]:
    started = await begin(rig, container)
    ended = await rig.runtime.wait(started.id)
    return ended, [line.text async for line in rig.runtime.logs(started.id)]


async def first_line(rig: ProcessRig, container_id: str) -> str:
    async for line in rig.runtime.logs(container_id, follow=True):
        return line.text
    raise AssertionError("it ended without a word")


async def test_the_id_is_the_process_id_of_the_program(rig: ProcessRig) -> None:
    ended, lines = await run(rig, script("echo $$"))
    assert ended.code == 0
    (listed,) = await rig.runtime.list()
    assert lines == [listed.id]


@pytest.mark.parametrize("how", ["exit", "stop", "remove"])
async def test_a_grandchild_that_left_the_session_dies_with_the_task(rig: ProcessRig, how: str) -> None:
    # It leaves the control groups as well, where it may.
    leave = "for f in /sys/fs/cgroup/memory/cgroup.procs /sys/fs/cgroup/cgroup.procs; do echo $$ > $f; done 2>/dev/null"
    text = f"setsid sh -c '{leave}; trap \"\" TERM HUP; echo $$; sleep 600 & wait; sleep 600' & sleep 0.2; " + (
        "exit 0" if how == "exit" else "wait"
    )
    started = await begin(rig, script(text))
    escaped = int(await first_line(rig, started.id))
    if how == "exit":
        assert (await rig.runtime.wait(started.id)).code == 0
    elif how == "stop":
        assert (await rig.runtime.stop_container(started.id, "SIGTERM", 10.0)).signal == "SIGTERM"
    else:
        assert lives(escaped)
        await rig.runtime.remove(started.id)
    assert not lives(escaped)


async def test_only_the_program_itself_gets_the_stop_signal(rig: ProcessRig) -> None:
    """As in a container: a server's main process decides itself what its workers are told."""
    text = """
    sh -c 'trap "echo worker was told" TERM; echo ready; while :; do sleep 0.05; done' &
    trap 'sleep 0.3; exit 0' TERM
    while :; do sleep 0.05; done
    """
    started = await begin(rig, script(text))
    assert await first_line(rig, started.id) == "ready"
    ended = await rig.runtime.stop_container(started.id, "SIGTERM", 20.0)
    assert ended.code == 0
    assert [line.text async for line in rig.runtime.logs(started.id)] == ["ready"]


async def test_a_program_inherits_no_files_signals_or_variables_of_ours(rig: ProcessRig) -> None:
    os.environ["PODIUM_TEST_SECRET"] = "ours"
    leaked, inheritable = os.pipe()
    os.set_inheritable(inheritable, True)
    try:
        container = python("""
            import os, signal
            print(sorted(int(name) for name in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + name)))
            status = dict(line.split(':\\t', 1) for line in open('/proc/self/status') if ':\\t' in line)
            print(int(status['SigBlk'], 16), sorted(os.environ.keys() - {'LC_CTYPE'}), os.getsid(0) == os.getpid())
            print(os.readlink('/proc/self/fd/0'), os.getcwd() == os.environ['HOME'])
        """)
        ended, lines = await run(rig, msgspec.structs.replace(container, environment={"COLOUR": "blue"}))
    finally:
        del os.environ["PODIUM_TEST_SECRET"]
        os.close(leaked)
        os.close(inheritable)
    assert ended.code == 0, lines
    assert lines == ["[0, 1, 2]", "0 ['COLOUR', 'HOME', 'PATH', 'PODIUM_CONTAINER'] True", "/dev/null True"]


async def test_a_broken_pipe_ends_the_program_as_it_would_in_a_shell(rig: ProcessRig) -> None:
    ended, _ = await run(rig, script("exec 2>/dev/null; yes | head -n 1; kill -PIPE $$; echo still here"))
    assert ended.signal == "SIGPIPE"


@pytest.mark.parametrize(
    ("container", "said"),
    [
        (Container(command=("no-such-program-anywhere",)), "no-such-program-anywhere.*No such file"),
        (Container(command=("/etc/passwd",)), "/etc/passwd.*Permission denied"),
        (Container(command=("/etc",)), "/etc.*Permission denied"),
        (Container(), "command"),
        (Container(image="shop:1", command=("true",)), "image"),
        (Container(command=("true",), working_dir="/no/such/folder"), "/no/such/folder"),
        (Container(command=("true",), user="no-such-user"), "no-such-user"),
        (Container(command=("true",), read_only=True), "read_only"),
    ],
)
async def test_what_can_never_run_is_refused_with_the_reason(rig: ProcessRig, container: Container, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        await begin(rig, container)
    for listed in await rig.runtime.list():
        assert (listed.running, listed.exit) == (False, None)
        with pytest.raises(Invalid, match=said):
            await rig.runtime.start_container(listed.id)


async def test_a_process_must_be_told_its_port(rig: ProcessRig) -> None:
    binding = PortBinding(container_port=80, host_address="127.0.0.1", host_port=0)
    with pytest.raises(Invalid, match="port 80"):
        await rig.runtime.create(rig.request(script("true"), bindings=(binding,)))


@as_root
async def test_it_runs_as_the_user_it_asks_for(rig: ProcessRig) -> None:
    started = await begin(rig, script("id -u; id -g; touch mine && echo writes", user="nobody:daemon"))
    ended = await rig.runtime.wait(started.id)
    lines = [line.text async for line in rig.runtime.logs(started.id)]
    assert ended.code == 0, lines
    assert lines == ["65534", "1", "writes"]


@as_root
async def test_a_health_check_runs_as_the_same_user(rig: ProcessRig) -> None:
    started = await begin(rig, script("sleep 600", user="nobody"))
    assert (await rig.runtime.exec(started.id, ("id", "-u"), 10.0)).output == "65534\n"


@as_root
async def test_a_program_inside_a_task_ignores_no_signal_because_the_agent_does(rig: ProcessRig) -> None:
    started = await begin(rig, script("sleep 600", user="nobody"))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what it starts in the background
    try:
        told = await rig.runtime.exec(started.id, ("grep", "SigIgn", "/proc/self/status"), 20.0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert int(told.output.split()[1], 16) & 1 << (signal.SIGINT - 1) == 0


async def test_the_request_is_nobody_elses_to_read(rig: ProcessRig) -> None:
    await begin(rig, script("sleep 600", environment={"PASSWORD": "secret"}))
    (request,) = rig.directory.glob("processes/*/request.json")
    assert request.stat().st_mode & 0o077 == 0
    assert json.loads(request.read_bytes())["environment"]["PASSWORD"] == "secret"


async def test_nothing_of_a_removed_task_is_left(rig: ProcessRig) -> None:
    request = msgspec.structs.replace(
        rig.request(script("echo x > file; sleep 600")), limits=Resources(memory_bytes=64 * 1024 * 1024, cpu_millis=500)
    )
    started = await rig.runtime.start_container(await rig.runtime.create(request))
    await rig.runtime.remove(started.id)
    assert list((rig.directory / "processes").iterdir()) == []
    for hierarchy in cgroups.hierarchies().values():
        assert list(hierarchy.own.glob(f"podium-{request.identity.task_id}*")) == []
    assert not lives(int(started.id))


async def test_a_task_over_its_memory_limit_is_reported_as_such(rig: ProcessRig) -> None:
    if (await rig.runtime.status()).message:
        pytest.skip("this machine lets us make no control groups")
    limit_bytes = 32 * 1024 * 1024
    request = rig.request(python("block = bytearray(256 * 1024 * 1024)\nprint('never')"))
    request = msgspec.structs.replace(request, limits=Resources(memory_bytes=limit_bytes))
    started = await rig.runtime.start_container(await rig.runtime.create(request))
    ended = await rig.runtime.wait(started.id)
    assert ended.oom
    assert (ended.code, ended.signal, ended.memory_limit_bytes) == (137, "SIGKILL", limit_bytes)
    assert ended.memory_peak_bytes > limit_bytes * 3 // 4


async def test_the_memory_peak_of_an_ordinary_end_is_measured(rig: ProcessRig) -> None:
    ended, _ = await run(rig, python("block = bytearray(48 * 1024 * 1024)"))
    assert not ended.oom
    assert ended.memory_peak_bytes > 48 * 1024 * 1024


async def test_a_running_task_outlives_the_agent_that_started_it(rig: ProcessRig) -> None:
    """The agent is a process of its own here, and it is killed."""
    agent = f"""
        import asyncio, sys, time
        from pathlib import Path
        import msgspec
        from agent.runtime.interface import ContainerRequest
        from agent.runtime.process import ProcessRuntime

        async def main():
            runtime = ProcessRuntime({rig.node_id!r}, Path({str(rig.directory)!r}), time.time)
            await runtime.start()
            request = msgspec.json.decode(sys.stdin.buffer.read(), type=ContainerRequest)
            started = await runtime.start_container(await runtime.create(request))
            print(started.id, flush=True)
            await runtime.wait(started.id)

        asyncio.run(main())
    """
    request = rig.request(script("echo before; sleep 1; echo after; exit 9"))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(agent),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(request))
    process.stdin.close()
    container_id = (await process.stdout.readline()).decode().strip()
    os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    assert lives(int(container_id))

    adopted = await rig.open(rig.node_id)
    (listed,) = await adopted.list()
    assert (listed.id, listed.running, listed.identity) == (container_id, True, request.identity)
    assert (await adopted.wait(container_id)).code == 9
    assert [line.text async for line in adopted.logs(container_id)] == ["before", "after"]


async def test_when_the_supervisor_is_killed_nothing_runs_on_and_nobody_claims_to_know_how_it_ended(
    rig: ProcessRig,
) -> None:
    started = await begin(rig, script("setsid sleep 600 & echo $!; exec sleep 600"))
    child = int(await first_line(rig, started.id))
    os.kill(supervisor_of(rig), signal.SIGKILL)
    ended = await rig.runtime.wait(started.id)
    assert ended.code is None
    assert "supervisor" in ended.message
    while lives(int(started.id)) or lives(child):
        await asyncio.to_thread(os.sched_yield)
    (listed,) = await rig.runtime.list()
    assert (listed.running, listed.exit) == (False, ended)


async def test_a_program_ends_with_its_supervisor_and_the_next_agent_ends_what_it_left(rig: ProcessRig) -> None:
    started = await begin(rig, script("setsid sleep 600 & echo $!; exec sleep 600"))
    child = int(await first_line(rig, started.id))
    supervisor = supervisor_of(rig)
    await rig.runtime.close()
    os.kill(supervisor, signal.SIGKILL)
    while lives(int(started.id)):
        await asyncio.to_thread(os.sched_yield)
    adopted = await rig.open(rig.node_id)
    while lives(child):
        await asyncio.to_thread(os.sched_yield)
    assert (await adopted.wait(started.id)).code is None


@pytest.mark.parametrize("lie", ["ticks", "boot"])
async def test_a_reused_process_id_is_not_taken_for_the_supervisor(rig: ProcessRig, lie: str) -> None:
    started = await begin(rig, script("exit 0"))
    await rig.runtime.wait(started.id)
    await rig.runtime.close()
    (path,) = rig.directory.glob("processes/*/shim.json")
    record = json.loads(path.read_bytes())
    # Somebody else has the supervisor's id now: this very test, which must survive the kill below.
    record |= {"pid": os.getpid(), "ticks": start_ticks(os.getpid())}
    record[lie] = 1 if lie == "ticks" else "another"
    path.write_text(json.dumps(record))
    (path.parent / "exit.json").unlink()
    adopted = await rig.open(rig.node_id)
    (listed,) = await adopted.list()
    assert not listed.running
    assert listed.exit is not None
    assert listed.exit.code is None
    await adopted.kill_container(listed.id)
    await adopted.remove(listed.id)


async def test_a_half_made_task_is_thrown_away_at_the_start(rig: ProcessRig) -> None:
    await rig.runtime.close()
    folder = rig.directory / "processes"
    (folder / "task.1" / "scratch").mkdir(parents=True)
    (folder / ".removed-task.2").mkdir()
    adopted = await rig.open(rig.node_id)
    assert await adopted.list() == ()
    assert list(folder.iterdir()) == []


async def test_output_is_bounded_and_its_end_is_kept(tmp_path: Path) -> None:
    rig = ProcessRig(tmp_path)
    runtime = ProcessRuntime(rig.node_id, tmp_path, time.time, ProcessSettings(output_bytes=200_000))
    await runtime.start()
    try:
        started = await runtime.start_container(await runtime.create(rig.request(script("seq 1 100000"))))
        await runtime.wait(started.id)
        texts = [line.text async for line in runtime.logs(started.id)]
        assert texts[-1] == "100000"
        assert len(texts) > 1000
        assert [int(text) for text in texts] == list(range(int(texts[0]), 100001))
        size = sum(file.stat().st_size for file in tmp_path.glob("processes/*/output.log*"))
        assert size <= 200_000
    finally:
        for listed in await runtime.list():
            await runtime.remove(listed.id)
        await runtime.close()


async def test_a_follower_misses_nothing_over_rotations(tmp_path: Path) -> None:
    rig = ProcessRig(tmp_path)
    runtime = ProcessRuntime(rig.node_id, tmp_path, time.time, ProcessSettings(output_bytes=40_000))
    await runtime.start()
    text = "for n in $(seq 1 10); do seq $((n * 200 - 199)) $((n * 200)); sleep 0.15; done"
    try:
        started = await runtime.start_container(await runtime.create(rig.request(script(text))))
        texts = [line.text async for line in runtime.logs(started.id, follow=True)]
        assert texts == [str(number) for number in range(1, 2001)]
        assert list(tmp_path.glob("processes/*/output.log.1"))
    finally:
        for listed in await runtime.list():
            await runtime.remove(listed.id)
        await runtime.close()


async def test_many_tasks_at_once(rig: ProcessRig) -> None:
    async def one(number: int) -> int | None:
        request: ContainerRequest = rig.request(script(f"exit {number}"))
        started = await rig.runtime.start_container(await rig.runtime.create(request))
        return (await rig.runtime.wait(started.id)).code

    assert await asyncio.gather(*(one(number) for number in range(20))) == list(range(20))


async def test_a_data_directory_with_a_long_path(tmp_path: Path) -> None:
    rig = ProcessRig(tmp_path / ("x" * 120))
    runtime = await rig.open(rig.node_id)
    try:
        started = await runtime.start_container(await runtime.create(rig.request(script("exit 2"))))
        assert (await runtime.wait(started.id)).code == 2
    finally:
        await rig.close()


async def test_a_supervisor_that_ended_before_the_start_says_so(rig: ProcessRig) -> None:
    container_id = await rig.runtime.create(rig.request(script("true")))
    os.kill(supervisor_of(rig), signal.SIGKILL)
    assert (await rig.runtime.wait(container_id)).code is None
    with pytest.raises(NotFound, match="never started"):
        await rig.runtime.start_container(container_id)


def supervisor_of(rig: ProcessRig) -> int:
    (path,) = rig.directory.glob("processes/*/shim.json")
    pid = json.loads(path.read_bytes())["pid"]
    assert isinstance(pid, int)
    return pid


CONFINED = "grep -h -e NoNewPrivs: -e Uid: /proc/self/status; echo $HOME; touch $HOME/mine && echo wrote"


@as_root
async def test_tasks_of_roots_agent_are_nobody_and_gain_no_rights(open_directory: Path) -> None:
    made = ProcessRig(open_directory / "agent", users=Users(default="nobody"))
    await made.open(made.node_id)
    try:
        (open_directory / "agent").chmod(0o700)  # as a journal makes it; the runtime opens the way for its users
        await made.runtime.start()
        started = await begin(made, script(f"{CONFINED}; exec sleep 600"))
        said = [await first_line(made, started.id)]
        uids, no_new = said[0], ""
        async for line in made.runtime.logs(started.id, follow=True):
            if line.text.startswith("NoNewPrivs"):
                no_new = line.text.split()[-1]
            if line.text == "wrote":
                break
        assert (uids.split()[1:], no_new) == (["65534"] * 4, "1")
        beside = await made.runtime.exec(started.id, ("sh", "-c", CONFINED), 10.0)
        assert "NoNewPrivs:\t1" in beside.output
        assert "wrote" in beside.output
        with pytest.raises(Invalid, match="lets processes run as nobody only"):
            await made.runtime.create(made.request(script("true", user="root")))
    finally:
        await made.close()


async def test_a_task_of_anybody_else_s_agent_gains_no_rights_either(rig: ProcessRig) -> None:
    ended, lines = await run(rig, script("grep NoNewPrivs /proc/self/status"))
    assert (ended.code, lines) == (0, ["NoNewPrivs:\t1"])


# --- tasks beside each other


def own_users(directory: Path) -> ProcessRig:
    return ProcessRig(directory / "agent", users=Users(default="own", secret=b"of this node alone"))


ATTACK = """
import os, pathlib, signal
pid, files = int(os.environ["VICTIM"]), os.environ["FILES"].split(":")
ways = {file: lambda file=file: open(file).read() for file in files}
ways["environment"] = lambda: pathlib.Path(f"/proc/{pid}/environ").read_bytes()
ways["memory"] = lambda: open(f"/proc/{pid}/mem", "rb").read(1)
ways["open files"] = lambda: os.listdir(f"/proc/{pid}/fd")
ways["signal"] = lambda: os.kill(pid, signal.SIGTERM)
ways["supervisor"] = lambda: os.kill(os.getppid(), signal.SIGKILL)
ways["list of tasks"] = lambda: os.listdir(pathlib.Path.home().parents[1])
for name, way in ways.items():
    try:
        way()
    except PermissionError:
        continue
    print("could:", name)
print("tried", len(ways))
"""


@as_root
@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="whoever is not root needs the machine's own Python")
async def test_a_process_task_neither_reads_nor_signals_another_one(open_directory: Path) -> None:
    made = own_users(open_directory)
    await made.open(made.node_id)
    try:
        text = (
            "umask 0; echo mine > $HOME/mine; mkdir $HOME/open; echo mine > $HOME/open/mine; echo $HOME; exec sleep 600"
        )
        victim = await begin(made, script(text, environment={"PASSWORD": "hidden"}))
        home = await first_line(made, victim.id)
        owner = await made.runtime.owner_of(script(""), victim.identity.task_id, victim.identity.namespace)
        assert owner is not None
        secret = open_directory / "secret"  # as a task's secrets are laid out
        secret.write_text("hidden")
        secret.chmod(0o400)
        os.chown(secret, owner.uid, owner.gid)
        kept = Path(home).parent
        files = (
            str(secret),
            f"{home}/mine",
            f"{home}/open/mine",
            *map(str, kept.glob("*.json")),
            str(kept / "output.log"),
        )
        around = {"VICTIM": victim.id, "FILES": ":".join(files)}
        attacker = Container(command=("/usr/bin/python3", "-c", ATTACK), environment=around)
        request = made.request(attacker, task_id="t-attacker")
        started = await made.runtime.start_container(await made.runtime.create(request))
        await made.runtime.wait(started.id)
        said = [line.text async for line in made.runtime.logs(started.id)]
        assert said == [f"tried {len(files) + 6}"], "\n".join(said)
        assert (await made.runtime.exec(victim.id, ("sh", "-c", "cat $HOME/mine"), 10.0)).output == "mine\n"
    finally:
        await made.close()


@as_root
async def test_what_tasks_of_a_namespace_keep_in_a_volume_is_theirs_and_nobody_elses(open_directory: Path) -> None:
    made = own_users(open_directory)
    await made.open(made.node_id)
    try:
        mounts = (Mount(kind=MountKind.VOLUME, source="shop_data", target="/data"),)
        for task_id, text in (("t-1", "echo one > $PODIUM_VOLUME_DATA/kept"), ("t-2", "cat $PODIUM_VOLUME_DATA/kept")):
            request = made.request(script(text, mounts=mounts), task_id=task_id)
            started = await made.runtime.start_container(await made.runtime.create(request))
            assert (await made.runtime.wait(started.id)).code == 0
        volume = open_directory / "agent" / "volumes" / "shop_data"
        for path in (volume, volume / "kept"):  # as a task wrote it before tasks had users of their own
            os.chown(path, 65_534, 65_534)
        request = made.request(script("echo >> $PODIUM_VOLUME_DATA/kept", mounts=mounts), task_id="t-3")
        started = await made.runtime.start_container(await made.runtime.create(request))
        assert (await made.runtime.wait(started.id)).code == 0
        assert volume.stat().st_mode & 0o777 == 0o700
    finally:
        await made.close()
