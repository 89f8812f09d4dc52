"""What every runtime promises about a program that somebody talks to, asked of all of them alike."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.runtime.fake import Behaviour
from agent.runtime.interface import ExecResult, ExecSession
from common.errors import Conflict, PodiumError
from common.model.session import LogStream, Program, TerminalSize
from tests.contract.test_runtime_contract import AnyRig, begin, rig

__all__ = ["rig"]
WAIT_S = 20.0
LOOK_S = 0.02
TERMINAL = TerminalSize(columns=101, rows=33)


async def running(rig: AnyRig, answer: ExecResult | None = None) -> str:
    behaviour = Behaviour(exec_answer=answer or ExecResult(code=0, output=""))
    return (await begin(rig, rig.request(rig.container("sleep 60", behaviour)))).id


async def rest_of(session: ExecSession, stream: LogStream | None = None) -> bytes:
    """What it writes to its end."""
    found = b""
    async with asyncio.timeout(WAIT_S):
        while (piece := await session.read()) is not None:
            found += piece.content if stream in (None, piece.stream) else b""
    return found


async def until(session: ExecSession, wanted: bytes) -> bytes:
    found = b""
    async with asyncio.timeout(WAIT_S):
        while wanted not in found:
            piece = await session.read()
            assert piece is not None, found
            found += piece.content
    return found


def shell(line: str, *, terminal: TerminalSize | None = None, given: bool = False) -> Program:
    return Program(argv=("sh", "-c", line), terminal=terminal, input=given, term="xterm")


async def test_input_goes_in_and_comes_out_and_its_end_is_seen(rig: AnyRig) -> None:
    container_id = await running(rig)
    async with rig.runtime.open_exec(container_id, Program(argv=("cat",), input=True)) as session:
        await session.write(b"hello\n")
        assert await until(session, b"hello\n") == b"hello\n"
        await session.write(b"again")
        await session.end_input()
        assert await rest_of(session) == b"again"
        assert await session.exit_code() == 0


async def test_a_megabyte_through_a_pipe_comes_whole(rig: AnyRig) -> None:
    container_id = await running(rig)
    content = bytes(range(256)) * 4096

    async def feed(session: ExecSession) -> None:
        for start in range(0, len(content), 16_384):
            await session.write(content[start : start + 16_384])
        await session.end_input()

    async with rig.runtime.open_exec(container_id, Program(argv=("cat",), input=True)) as session:
        feeding = asyncio.create_task(feed(session))
        assert await rest_of(session) == content
        await feeding


async def test_its_own_exit_code(rig: AnyRig) -> None:
    container_id = await running(rig, ExecResult(code=7, output="bye\n"))
    async with rig.runtime.open_exec(container_id, shell("echo bye; exit 7")) as session:
        assert await rest_of(session) == b"bye\n"
        assert await session.exit_code() == 7


async def test_nothing_is_run_inside_what_has_ended(rig: AnyRig) -> None:
    container_id = await running(rig)
    async with asyncio.timeout(WAIT_S):
        await rig.runtime.stop_container(container_id, "SIGKILL", 0.0)
    with pytest.raises(Conflict):
        async with rig.runtime.open_exec(container_id, shell("true")):
            pass


# --- what needs real programs


async def test_two_streams_without_a_terminal(rig: AnyRig) -> None:
    if not rig.executes:
        return
    container_id = await running(rig)
    async with rig.runtime.open_exec(container_id, shell("echo wrong >&2")) as session:
        assert await rest_of(session, LogStream.STDERR) == b"wrong\n"
    async with rig.runtime.open_exec(container_id, shell("cat; echo end")) as session:
        assert await rest_of(session, LogStream.STDOUT) == b"end\n"


async def test_a_real_terminal_of_the_right_size(rig: AnyRig) -> None:
    if not rig.executes:
        return
    container_id = await running(rig)
    # An engine gives the terminal its size just after the program has begun.
    sized = "while test \"$(stty size 2>/dev/null)\" = '' -o \"$(stty size)\" = '0 0'; do :; done; stty size"
    line = f"{sized}; echo $TERM; read word; stty size; echo got $word; exit 4"
    async with rig.runtime.open_exec(container_id, shell(line, terminal=TERMINAL, given=True)) as session:
        assert b"33 101\r\nxterm\r\n" in await until(session, b"xterm")
        await session.resize(TerminalSize(columns=80, rows=24))
        await session.write(b"word\r")
        assert b"24 80\r\ngot word\r\n" in await rest_of(session)
        assert await session.exit_code() == 4


@pytest.mark.parametrize(("typed", "code"), [(b"\x03", 130), (b"\x04", 0)])
async def test_keys_that_mean_something(rig: AnyRig, typed: bytes, code: int) -> None:
    """^C interrupts the program in the foreground, ^D ends its input."""
    if not rig.executes:
        return
    container_id = await running(rig)
    program = Program(argv=("sh", "-c", "cat; exit $?"), terminal=TERMINAL, input=True)
    async with rig.runtime.open_exec(container_id, program) as session:
        await session.write(b"x\r")
        await until(session, b"x\r\nx")  # a key typed while the shell only starts it may be lost to both
        await session.write(typed)
        await rest_of(session)
        assert await session.exit_code() == code


async def test_whoever_leaves_ends_it(rig: AnyRig, tmp_path: Path) -> None:
    if not rig.executes:
        return
    container_id = await running(rig)
    async with rig.runtime.open_exec(container_id, shell("echo on; exec sleep 54.25")) as session:
        await until(session, b"on")
    for _ in range(round(WAIT_S / LOOK_S)):
        if not _sleepers(b"54.25"):
            break
        await asyncio.sleep(LOOK_S)
    assert not _sleepers(b"54.25")


async def test_it_ends_with_its_container(rig: AnyRig) -> None:
    if not rig.executes:
        return
    container_id = await running(rig)
    async with rig.runtime.open_exec(container_id, shell("echo on; sleep 50")) as session:
        await until(session, b"on")
        await rig.runtime.kill_container(container_id)
        await rest_of(session)


async def test_a_program_that_is_not_there(rig: AnyRig) -> None:
    if not rig.executes:
        return
    container_id = await running(rig)
    try:
        async with rig.runtime.open_exec(container_id, Program(argv=("no-such-program",))) as session:
            said = await rest_of(session)
            assert await session.exit_code() in (126, 127)
    except PodiumError as error:
        said = str(error).encode()
    assert b"no-such-program" in said


def _sleepers(argument: bytes) -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if (
                argument in path.read_bytes().split(b"\0")
                and path.parent.joinpath("stat").read_text().split()[2] != "Z"
            ):
                found.append(path)
        except OSError:
            continue
    return found
