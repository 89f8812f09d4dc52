"""The supervisor of one process task: a small program of its own, so that the task outlives the agent.

Started with one argument, the task's directory, where `request.json` says what to run. It makes one child that waits at
a gate, so that its id is known before the program starts; opens the gate when told so over the socket `control`; copies
the program's output into bounded files; and when the program has ended, kills everything it left behind and writes how
it ended. It decides nothing else: no restarts, no grace, no health. Standard library only, and little of that: one of
these runs for every task, isolated from any environment.

It writes `shim.json` (itself and its child, by id and start time; the same line goes to its standard output), then
`started.json` or `failed.json`, then `exit.json`, each as a whole; and `output.log` with `output.log.1` before it:
lines of `SECONDS STREAM TEXT`, where STREAM is `o` or `e`.
"""

# Neither pathlib nor typing: each would cost every supervisor a megabyte.
# ruff: noqa: PTH104, PTH106, PTH123, PTH208

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

LINE_BYTES = 16 * 1024
"""A longer line is stored in pieces of this length."""
READ_BYTES = 64 * 1024
"""What a pipe holds by default."""
ORDER_BYTES = 4096
CLIENTS = 16
"""Connections to the control socket at a time; each asks one thing and goes."""
LINES_AT_ONCE = 64
"""At most 1 MiB in one write, so that a file never grows far over its bound."""
DRAIN_S = 2.0
"""After the program ended its output may still be held open by someone out of reach; this long it is waited for."""
REAP_LOOK_S = 0.01
REAP_S = 10.0
"""A killed process that has not gone after this long hangs inside the kernel and is given up."""

NOT_FOUND = 127
NOT_RUNNABLE = 126
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38


def main(directory: str) -> None:
    """Supervise the task of `directory` to its end."""
    os.chdir(directory)
    os.setsid()
    _replace_inherited_files()
    with open("request.json", "rb") as file:
        request = Request(json.load(file))
    Shim(request).run()


class Request:
    """What to run, as the agent wrote it."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.argv: list[str] = given["argv"]
        self.environment: dict[str, str] = given["environment"]
        self.working_dir: str = given["working_dir"]
        self.user: dict[str, Any] | None = given["user"]
        self.groups: list[str] = given["control_groups"]
        self.output_bytes: int = given["output_bytes"]


class Shim:
    """One supervised task, from the gate to the record of its end."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.output = Output(request.output_bytes)
        self.libc = ctypes.CDLL(None)
        self.pid = 0
        self.gate = -1
        self.outcome = -1
        self.pipes: dict[int, bytes] = {}
        self.clients: dict[int, tuple[socket.socket, bytes]] = {}
        self.answered: dict[str, Any] | None = None
        self.status: int | None = None
        self.peak_bytes = 0
        self.ooms_before = _oom_kills(request.groups)

    def run(self) -> None:
        self.libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        wakeup = _wake_on_signals()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listener.bind("control")
        listener.listen(CLIENTS)
        self.fork()
        self.announce()
        while self.status is None:
            watched = [wakeup, *self.pipes, *self.clients]
            if len(self.clients) < CLIENTS:
                watched.append(listener.fileno())
            for ready in select.select(watched, [], [])[0]:
                if ready == wakeup:
                    os.read(wakeup, READ_BYTES)
                    self.reap()
                elif ready in self.pipes:
                    self.copy(ready)
                elif ready in self.clients:
                    self.serve(ready)
                else:
                    self.accept(listener)
        self.finish(self.status)

    def fork(self) -> None:
        """Make the child that becomes the program. It waits at the gate; a gate that closes means never mind."""
        gate, self.gate = os.pipe()
        self.outcome, outcome = os.pipe()
        out_read, out = os.pipe()
        err_read, err = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.gate)
            self.become(gate, outcome, out, err)
        for end in (gate, outcome, out, err):
            os.close(end)
        self.pipes = {out_read: b"o", err_read: b"e"}

    def announce(self) -> None:
        record = {"pid": os.getpid(), "ticks": start_ticks(os.getpid()), "boot": boot_id()}
        record |= {"program_pid": self.pid, "program_ticks": start_ticks(self.pid)}
        write_json("shim.json", record)
        with contextlib.suppress(OSError):  # the agent may be gone already
            os.write(1, json.dumps(record).encode() + b"\n")
        null = os.open("/dev/null", os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)

    def become(self, gate: int, outcome: int, out: int, err: int) -> NoReturn:
        """In the child: wait at the gate, then turn into the program, or say through `outcome` why not."""
        request = self.request
        failure: dict[str, Any] = {}
        try:
            os.setsid()
            if os.read(gate, 1) != b"1":
                os._exit(0)
            _join(request.groups)
            for number, file in enumerate((os.open("/dev/null", os.O_RDONLY), out, err)):
                os.dup2(file, number)
            _drop_privileges(request.user)
            # Without its supervisor nobody would know how it ends, so it ends with it.
            self.libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            # It has its user's rights and never gets more: neither sudo nor any other setuid program gives it any.
            self.libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            os.chdir(request.working_dir)
            _reset_signals()
            _execute(request.argv, request.environment)
        except Exception as error:  # whatever it is, a child must neither go on nor keep silent
            missing = isinstance(error, FileNotFoundError)
            failure = {"error": _reason(request, error), "code": NOT_FOUND if missing else NOT_RUNNABLE}
            os.write(outcome, json.dumps(failure).encode())
        finally:
            os._exit(failure.get("code", NOT_RUNNABLE))

    def begin(self) -> dict[str, Any]:
        """Open the gate and hear whether the program could be executed. Asked again: the same answer."""
        if self.answered is None:
            at_s = time.time()
            os.write(self.gate, b"1")
            failure = os.read(self.outcome, ORDER_BYTES)  # empty: a successful exec closed it
            self.answered = json.loads(failure) if failure else {"at_s": at_s}
            write_json("failed.json" if failure else "started.json", self.answered)
        return self.answered

    def accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it may have gone again
            client, _ = listener.accept()
            client.setblocking(False)
            self.clients[client.fileno()] = client, b""

    def serve(self, number: int) -> None:
        """One order a connection, one line of JSON each way."""
        client, text = self.clients[number]
        received = b""
        with contextlib.suppress(OSError):
            received = client.recv(ORDER_BYTES)
        text += received
        if received and b"\n" not in text and len(text) < ORDER_BYTES:
            self.clients[number] = client, text
            return
        with contextlib.suppress(OSError):
            client.sendall(json.dumps(self.obey(text)).encode() + b"\n")
        del self.clients[number]
        client.close()

    def obey(self, text: bytes) -> dict[str, Any]:
        try:
            order = json.loads(text)
            verb = order["verb"]
            if verb == "start":
                return self.begin()
            if verb == "signal":
                os.kill(self.pid, order["number"])
            elif verb == "kill":
                self.kill_all()
            else:
                return {"error": f"unknown verb {verb}"}
        except (OSError, ValueError, KeyError, TypeError) as error:
            return {"error": str(error)}
        return {}

    def reap(self) -> None:
        """Bury the dead; the program's own death ends the task."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.peak_bytes = max(self.peak_bytes, usage.ru_maxrss * 1024)
            if pid == self.pid:
                self.status = status

    def copy(self, pipe: int) -> None:
        data = os.read(pipe, READ_BYTES)
        if data:
            self.output.add(self.pipes[pipe], data)
        else:
            del self.pipes[pipe]
            os.close(pipe)

    def kill_all(self) -> None:
        """Whatever descends from here, and whatever is in the task's control groups."""
        for pid in self.left():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def left(self) -> list[int]:
        return descendants(os.getpid()) + _members(self.request.groups)

    def finish(self, status: int) -> None:
        ended_at_s = time.time()
        self.kill_rest()
        self.drain()
        self.output.close()
        groups = self.request.groups
        code = os.waitstatus_to_exitcode(status)
        record = {
            "code": 128 - code if code < 0 else code,
            "ended_at_s": ended_at_s,
            "oom": _oom_kills(groups) > self.ooms_before,
            "memory_peak_bytes": _group_peak(groups) or self.peak_bytes,
        }
        if self.answered is not None and "at_s" in self.answered:
            write_json("exit.json", record)
        for group in groups:
            with contextlib.suppress(OSError):
                os.rmdir(group)

    def kill_rest(self) -> None:
        """Until nobody is left. A process may fork while it is being looked for, so look again."""
        deadline = time.monotonic() + REAP_S
        while self.left() and time.monotonic() < deadline:
            self.kill_all()
            time.sleep(REAP_LOOK_S)
            self.reap()

    def drain(self) -> None:
        deadline = time.monotonic() + DRAIN_S
        while self.pipes and (left_s := deadline - time.monotonic()) > 0:
            for pipe in select.select(list(self.pipes), [], [], left_s)[0]:
                self.copy(pipe)


class Output:
    """Two files of half the bound each; the older is dropped when the newer is full."""

    def __init__(self, bound_bytes: int) -> None:
        self.limit = bound_bytes // 2
        self.partial = {b"o": b"", b"e": b""}
        self.open()

    def open(self) -> None:
        self.file = os.open("output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.size = os.fstat(self.file).st_size

    def add(self, stream: bytes, data: bytes) -> None:
        *lines, rest = (self.partial[stream] + data).split(b"\n")
        while len(rest) >= LINE_BYTES:
            lines.append(rest[:LINE_BYTES])
            rest = rest[LINE_BYTES:]
        self.partial[stream] = rest
        self.write(stream, lines)

    def write(self, stream: bytes, lines: list[bytes]) -> None:
        head = b"%.6f %s " % (time.time(), stream)
        pieces = [
            head + line[at : at + LINE_BYTES] + b"\n" for line in lines for at in range(0, len(line) or 1, LINE_BYTES)
        ]
        with contextlib.suppress(OSError):  # a full disk loses output, never the task
            for start in range(0, len(pieces), LINES_AT_ONCE):
                self.append(b"".join(pieces[start : start + LINES_AT_ONCE]))

    def append(self, block: bytes) -> None:
        if self.size and self.size + len(block) > self.limit:
            os.close(self.file)
            os.rename("output.log", "output.log.1")
            self.open()
        self.size += os.write(self.file, block)

    def close(self) -> None:
        for stream, rest in self.partial.items():
            self.write(stream, [rest] if rest else [])
        os.close(self.file)


def _join(groups: list[str]) -> None:
    """Enter the control groups; a system that does not let us runs the task without."""
    for group in groups:
        with contextlib.suppress(OSError), open(f"{group}/cgroup.procs", "w") as file:
            file.write("0")


def _drop_privileges(user: dict[str, Any] | None) -> None:
    if user is not None:
        os.setgroups(user["groups"])
        os.setgid(user["gid"])
        os.setuid(user["uid"])


def _reset_signals() -> None:
    """An exec keeps ignored and blocked signals, and the program must not inherit ours."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def _execute(argv: list[str], environment: dict[str, str]) -> None:
    """Try the program along PATH, as `os.execvpe` does; that one imports a module, which its new user may not read."""
    folders = environment.get("PATH", os.defpath).split(":")
    paths = [argv[0]] if "/" in argv[0] else [f"{folder or '.'}/{argv[0]}" for folder in folders]
    failures: list[OSError] = []
    for path in paths:
        try:
            os.execve(path, argv, environment)  # noqa: S606 - the user's own program
        except OSError as error:
            failures.append(error)
    telling = [error for error in failures if not isinstance(error, FileNotFoundError | NotADirectoryError)]
    raise (telling or failures)[0]


def _reason(request: Request, error: Exception) -> str:
    if isinstance(error, OSError):
        if error.filename == request.working_dir:
            return f"working_dir {request.working_dir}: {error.strerror}"
        return f"cannot execute `{request.argv[0]}`: {error.strerror}"
    return f"cannot execute `{request.argv[0]}`: {type(error).__name__}: {error}"


def _wake_on_signals() -> int:
    """A pipe that can be read when a child has ended. Polite requests to end are for the program, not for us."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    return read


def _replace_inherited_files() -> None:
    """Keep the standard output, where the agent listens; last words go to a file; nothing else stays open."""
    for number, path in ((0, "/dev/null"), (2, "shim.log")):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _members(groups: list[str]) -> list[int]:
    found: list[int] = []
    for group in groups:
        found += [int(word) for word in _read(f"{group}/cgroup.procs").split()]
    return found


def _oom_kills(groups: list[str]) -> int:
    """Processes the kernel killed in the groups for want of memory (cgroup v1, then v2)."""
    for group in groups:
        for name in ("memory.oom_control", "memory.events"):
            for line in _read(f"{group}/{name}").splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def _group_peak(groups: list[str]) -> int:
    for group in groups:
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            if text := _read(f"{group}/{name}").strip():
                return int(text)
    return 0


def descendants(pid: int) -> list[int]:
    """Ids of all processes below this one, the dead but unburied too."""
    found: list[int] = []
    pending = [pid]
    while pending:
        parent = pending.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{parent}/task"):
                children = [int(word) for word in _read(f"/proc/{parent}/task/{thread}/children").split()]
                found += children
                pending += children
    return found


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; with its id this names it for good. 0: there is none."""
    return int(fields[19]) if (fields := _read(f"/proc/{pid}/stat").rpartition(")")[2].split()) else 0


def boot_id() -> str:
    """Changes with every start of the machine: process ids of another boot mean nothing."""
    return _read("/proc/sys/kernel/random/boot_id").strip()


def _read(path: str) -> str:
    """Empty when the file is not there, or no more."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def write_json(path: str, value: dict[str, Any]) -> None:
    """Replace a file as a whole: whoever reads it sees all of it or none. It is no other task's to read."""
    with open(os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(value, file)
    os.rename(f"{path}.new", path)


if __name__ == "__main__":
    main(sys.argv[1])
