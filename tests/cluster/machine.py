"""One machine made of namespaces: its own network, mounts and processes, over the files of this one.

Everything on it lives in one process namespace whose first process ends when we let go of its pipe: whatever becomes of
the tests, the kernel kills all of it and takes its mounts and network devices along.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import psutil
import pytest

PATIENCE_S = 90.0
"""Bound on every wait, on a machine that is busy with other things."""
_LOOK_S = 0.02
_CGROUPS = Path("/sys/fs/cgroup")
_FIRST_PROCESS = (
    "mount --make-rprivate / && mount -t tmpfs tmpfs /run && ip link set lo up && hostname $1 && echo up"
    " && exec env --ignore-signal=CHLD cat"
)
"""Reaps every orphan by not caring about them, and ends with its input."""


def require_machines() -> None:
    """Leaves the test out, saying why, where such machines cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("only root can make namespaces")
    for program in ("ip", "iptables", "nsenter", "unshare"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} program is installed (Debian: apt install iproute2 iptables util-linux)")


def until(holds: Callable[[], object], what: str, within_s: float = PATIENCE_S) -> None:
    """Look until it holds; for what nobody tells us of."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"within {within_s:g} s not seen: {what}"
        time.sleep(_LOOK_S)


async def until_async(holds: Callable[[], Awaitable[object]], what: str, within_s: float = PATIENCE_S) -> None:
    """As `until`, without holding the loop up."""
    try:
        async with asyncio.timeout(within_s):
            while not await holds():  # noqa: ASYNC110 - there is nobody who could set an event
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        raise AssertionError(f"within {within_s:g} s not seen: {what}") from None


class Machine:
    """See the module. `directory` holds the logs of what runs on it, and outlives it."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self._first: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._run: list[Running] = []

    @property
    def pid(self) -> int:
        """Of its first process, seen from outside."""
        assert self._pid, f"{self.name} is off"
        return self._pid

    @property
    def group(self) -> str:
        """The control group that its containers are to be put under; removed with the machine."""
        return f"podium-test-{self.pid}"

    def boot(self) -> None:
        flags = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = ["unshare", *flags, "sh", "-c", _FIRST_PROCESS, "sh", self.name]
        with (self.directory / "machine.log").open("ab") as log:
            first = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        assert first.stdout is not None
        assert first.stdout.readline() == b"up\n", f"{self.name} did not come up"
        self._first = first
        self._pid = _child_of(first)

    def die(self) -> None:
        """All of it at once, as when the power fails. Its disk stays."""
        if self._first is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._first.communicate(timeout=PATIENCE_S)  # the kernel lets the first one go when all others are gone
        for running in self._run:
            running.reap()
        self._run.clear()
        self._first = None
        for group in _CGROUPS.glob(f"*/{self.group}"):
            for directory in (*group.glob("*/"), group):
                until(partial(_removed, directory), f"{directory} is free")

    def entered(self, *command: str) -> list[str]:
        """`command` as it would be given on the machine."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--pid", "--", *command]

    def do(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.entered(*command), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0 or not check, f"{self.name}: {' '.join(command)}: {done.stderr}"
        return done

    def start(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> Running:
        """A program that stays; its output goes to `NAME.log`."""
        log = self.directory / f"{name}.log"
        with log.open("ab") as output:
            entered = subprocess.Popen(
                self.entered(*command),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=os.environ | dict(environment or {}),
                start_new_session=True,
            )
        running = Running(f"{self.name}/{name}", entered, log)
        self._run.append(running)
        return running


class Running:
    """One program on a machine. nsenter waits for it outside; `pid` is its own, seen from outside."""

    def __init__(self, name: str, entered: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self._entered = entered
        self._log = log
        self.pid = _child_of(entered)

    @property
    def runs(self) -> bool:
        return self._entered.poll() is None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def end(self, number: signal.Signals = signal.SIGTERM, within_s: float = PATIENCE_S) -> int:
        """Send a signal and wait for the end; the exit code."""
        if self.runs:
            os.kill(self.pid, number)
        try:
            return self._entered.wait(within_s)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGKILL)
            self.reap()
            raise AssertionError(f"{self.name} did not end; its log:\n{self.log()[-3000:]}") from None

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def freeze(self) -> None:
        """Return when it stands still."""
        process = psutil.Process(self.pid)
        process.suspend()
        until(lambda: process.status() == psutil.STATUS_STOPPED, f"{self.name} stands still")

    def thaw(self) -> None:
        for pid in (self.pid, self._entered.pid):  # nsenter stops itself when its child does
            os.kill(pid, signal.SIGCONT)

    def reap(self) -> None:
        if self.runs:
            os.kill(self._entered.pid, signal.SIGCONT)
        self._entered.wait(PATIENCE_S)


def _removed(directory: Path) -> bool:
    with contextlib.suppress(OSError):  # the kernel takes a moment to let the last process of one go
        directory.rmdir()
    return not directory.exists()


def _child_of(parent: subprocess.Popen[bytes]) -> int:
    """The one process that unshare or nsenter forked."""
    children: list[psutil.Process] = []

    def forked() -> bool:
        if parent.poll() is None:
            children[:] = psutil.Process(parent.pid).children()
        return bool(children) or parent.poll() is not None

    until(forked, f"{parent.args!r} forks")
    assert children, f"{parent.args!r} ended at once with {parent.returncode}"
    return children[0].pid
