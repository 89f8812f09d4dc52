"""`podium exec` as people type it: pipes, exit codes, a real terminal, and that terminal as it was in the end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import termios
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path

from common.model.job import Container, JobSpec, TaskSpec
from common.model.task import TaskState
from tests.integration.test_cli_serving import PODIUM, Serving, dev, podium, processes_of

WAIT_S = 20.0


class Cluster:
    """A cluster of one node with one task, `shop/box.1`."""

    def __init__(self, serving: Serving, home: Path) -> None:
        self.serving = serving
        self._environment = {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path.cwd()),
            "PODIUM_CONTROLLER": serving.controller,
            "TERM": "xterm",
        }

    async def begin(self, *arguments: str, stdin: int = PIPE, stdout: int = PIPE, stderr: int = PIPE) -> Process:
        return await asyncio.create_subprocess_exec(
            *PODIUM,
            "exec",
            *arguments,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=self._environment,
            start_new_session=True,
        )

    async def run(self, *arguments: str, given: bytes = b"") -> tuple[int | None, bytes, bytes]:
        process = await self.begin(*arguments)
        async with asyncio.timeout(WAIT_S):
            out, err = await process.communicate(given)
        return process.returncode, out, err


@asynccontextmanager
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with podium(*dev(tmp_path / "data", "--nodes", "1"), home=tmp_path) as serving:
        await serving.ready()
        async with serving.client() as client:
            container = Container(command=("sleep", "1000"), environment={"COLOUR": "blue"})
            await client.apply("shop", [JobSpec(namespace="shop", name="box", task=TaskSpec(container=container))])
            async with asyncio.timeout(WAIT_S), aclosing(client.watch("shop")) as watched:
                async for details in watched:
                    if any(view.state is TaskState.RUNNING for detail in details for view in detail.tasks):
                        break
        made = Cluster(serving, tmp_path)
        try:
            yield made
            if serving.process.returncode is None:
                await serving.stop(signal.SIGINT)
        finally:
            for pid in processes_of(tmp_path / "data"):
                os.kill(pid, signal.SIGKILL)


class Screen:
    """Our end of a terminal that a command was given."""

    def __init__(self, end: int) -> None:
        self._end = end
        self.seen = b""

    async def until(self, wanted: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(WAIT_S):
                while wanted not in self.seen:
                    ready = asyncio.Event()
                    loop.add_reader(self._end, ready.set)
                    await ready.wait()
                    loop.remove_reader(self._end)
                    self.seen += os.read(self._end, 4096)
        except TimeoutError:
            raise AssertionError(f"never seen: {wanted!r}; seen: {self.seen!r}") from None

    def type(self, keys: bytes) -> None:
        os.write(self._end, keys)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def modes(self) -> list[object]:
        return termios.tcgetattr(self._end)


@contextmanager
def terminal() -> Iterator[tuple[Screen, int]]:
    ours, theirs = os.openpty()
    try:
        screen = Screen(ours)
        screen.resize(101, 33)
        yield screen, theirs
    finally:
        os.close(ours)
        with suppress(OSError):
            os.close(theirs)


async def test_pipes_and_exit_codes(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        assert await c.run("shop/box.1", "--", "cat", given=b"hello") == (0, b"hello", b"")
        script = "echo $COLOUR; echo oh >&2; exit 5"
        assert await c.run("shop/box", "--", "sh", "-c", script) == (5, b"blue\n", b"oh\n")
        code, out, err = await c.run("shop/box", "-t", "--", "sh")
        assert (code, out) == (2, b"")
        assert b"--tty: the standard input is no terminal" in err
        code, _, err = await c.run("shop/box", "--", "no-such-program")
        assert code == 127
        assert b"no-such-program" in err


async def test_a_terminal_is_handed_over_and_given_back(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        with terminal() as (screen, theirs):
            before = screen.modes()
            shell = await c.begin("shop/box", "-it", "--", "sh", stdin=theirs, stdout=theirs, stderr=theirs)
            screen.type(b"stty size; echo got $TERM\r")
            await screen.until(b"33 101\r\ngot xterm")
            assert screen.modes() != before
            screen.resize(80, 24)
            os.kill(shell.pid, signal.SIGWINCH)  # the kernel tells only whose controlling terminal it is
            screen.type(b"while test $(stty size | cut -d' ' -f1) != 24; do :; done; echo re''sized; cat\r")
            await screen.until(b"resized")
            screen.seen = b""
            screen.type(b"\x03")
            await screen.until(b"# ")
            screen.type(b"echo still $((6 * 7))\r")
            await screen.until(b"still 42")
            screen.type(b"\x04")
            async with asyncio.timeout(WAIT_S):
                assert await shell.wait() == 0
            assert screen.modes() == before
            for end in (signal.SIGTERM, signal.SIGHUP):
                screen.seen = b""
                arguments = ("shop/box", "-it", "--", "sh", "-c", "echo on; sleep 999")
                program = await c.begin(*arguments, stdin=theirs, stdout=theirs, stderr=theirs)
                await screen.until(b"on\r\n")
                assert screen.modes() != before
                program.send_signal(end)
                async with asyncio.timeout(WAIT_S):
                    await program.wait()
                assert screen.modes() == before


async def test_a_controller_that_dies_ends_the_program_and_says_so(tmp_path: Path) -> None:
    async with cluster(tmp_path) as c:
        program = await c.begin("shop/box", "--", "sh", "-c", "echo on; exec sleep 999")
        assert program.stdout is not None
        async with asyncio.timeout(WAIT_S):
            assert await program.stdout.readline() == b"on\n"
        c.serving.process.kill()
        async with asyncio.timeout(WAIT_S):
            _, err = await program.communicate()
        assert program.returncode == 1
        assert b"broke, and the program was ended with it" in err
