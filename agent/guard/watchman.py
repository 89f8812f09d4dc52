"""The guard's process: ends exclusive containers whose permission has run out, whoever else is alive on the machine.

Started with one argument, its directory. There the agent writes `held.json`, the containers it may end, and keeps
`acknowledged` true, the moment (of the clock that counts while the machine sleeps) when the newest acknowledged
heartbeat was sent. When that is older than a container may live with, the container gets its stop signal and, after its
grace, SIGKILL, for as long as anything of it is found: an engine that hangs may start it late. What has run out stays
so, whatever is written later. Files that cannot be read are no news. It needs no engine: it finds processes by their
control group or environment, and asks the engine only where it cannot see them. It ends when nothing is held. Standard
library only, and little of that.
"""

# Neither pathlib nor typing: each would cost a megabyte on every node.
# ruff: noqa: PTH116, PTH123, PTH208

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

LOOK_S = 0.2
LATE_S = 1.0
"""The agent, if it is alive, stops its containers itself and with better manners: it is given this much time."""
ENGINE_TIMEOUT_S = 1.0
ENGINE_AGAIN_S = 1.0
LOCK_TRIES = 20
HELD, ACKNOWLEDGED, LOCK, LOG = "held.json", "acknowledged", "lock", "log"


def main(directory: str) -> None:
    """Guard the containers of `directory` in the background; returns in the process that was started."""
    os.chdir(directory)
    lock = take_lock()
    if lock is None or os.fork():
        return  # another one guards, or our child does
    os.setsid()
    _let_go_of_the_agent(lock)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("-1000")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Watchman().run(lock)
    os._exit(0)


class Watchman:
    def __init__(self) -> None:
        self.boot = boot_id()
        self.acknowledged_s = float("-inf")
        self.held: list[dict[str, Any]] = []
        self.read_of: object = None
        self.doomed: dict[str, float] = {}
        """When (by the clock) each container that has run out is to be killed."""
        self.asked: dict[str, float] = {}

    def run(self, lock: int) -> None:
        """Until nothing is held."""
        while True:
            self.look()
            if not self.held:
                os.close(lock)
                # An agent that added one before the lock was free counts on us.
                self.read_held()
                again = take_lock() if self.held else None
                if again is None:
                    return
                lock = again
            time.sleep(LOOK_S)

    def look(self) -> None:
        self.read_held()
        self.read_acknowledged()
        for container in self.held:
            self.judge(container, now_s())

    def judge(self, container: dict[str, Any], at_s: float) -> None:
        key = container["container_id"]
        if key not in self.doomed:
            due_s = self.acknowledged_s + container["fence_after_s"] + LATE_S
            if at_s < due_s:
                return
            self.doomed[key] = due_s + container["grace_s"]
            say(f"{key} of task {container['task_id']} had no acknowledgement for {container['fence_after_s']} s")
            if at_s < self.doomed[key]:
                self.send(container, container["signal"], politely=True)
        if at_s >= self.doomed[key]:
            self.send(container, signal.SIGKILL, politely=False)

    def send(self, container: dict[str, Any], number: int, *, politely: bool) -> None:
        found = list(first_process(container) if politely else processes(container))
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, number)
        if found:
            say(f"sent signal {number} to {found} of {container['container_id']}")
        elif container.get("engine") and now_s() - self.asked.get(container["container_id"], 0.0) >= ENGINE_AGAIN_S:
            self.asked[container["container_id"]] = now_s()
            ask_engine(container, number)

    def read_held(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            status = os.stat(HELD)
            seen = status.st_ino, status.st_mtime_ns, status.st_size
            if seen != self.read_of:
                self.held = read_held()
                self.read_of = seen
                kept = {container["container_id"] for container in self.held}
                self.doomed = {key: at_s for key, at_s in self.doomed.items() if key in kept}

    def read_acknowledged(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.acknowledged_s = max(self.acknowledged_s, read_acknowledged(self.boot))


def read_held(directory: str = ".") -> list[dict[str, Any]]:
    """Raises `OSError` and `ValueError`."""
    with open(f"{directory}/{HELD}", "rb") as file:
        held: list[dict[str, Any]] = json.load(file)["containers"]
    return held


def read_acknowledged(boot: str, directory: str = ".") -> float:
    """Minus infinity when it is of another start of the machine. Raises `OSError` and `ValueError`."""
    with open(f"{directory}/{ACKNOWLEDGED}") as file:
        written, seconds, end = file.read().split()
    if end != "end":
        raise ValueError(seconds)
    return float(seconds) if written == boot else float("-inf")


# --- which processes a container is


def processes(container: dict[str, Any]) -> Iterator[int]:
    """Every process of the container that can be seen from here."""
    if container["runtime"] == "process":
        yield from first_process(container)
    own = os.getpid()
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and int(entry) != own and _belongs(entry, container):
            yield int(entry)


def first_process(container: dict[str, Any]) -> Iterator[int]:
    """The one that a polite signal is for: the program, or the first process of the container's own namespace."""
    if container["runtime"] == "process":
        pid = int(container["container_id"])
        if container["ticks"] and start_ticks(pid) == container["ticks"]:
            yield pid
        return
    for pid in processes(container):
        if _namespace_pid(pid) == "1":
            yield pid


def _belongs(entry: str, container: dict[str, Any]) -> bool:
    name, mark = ("environ", container["mark"]) if container["runtime"] == "process" else ("cgroup", None)
    try:
        with open(f"/proc/{entry}/{name}", "rb") as file:
            text = file.read()
    except OSError:
        return False
    if mark is None:
        return container["container_id"].encode() in text
    return mark.encode() in text.split(b"\0")


def _namespace_pid(pid: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("NSpid:"):
                return line.split()[-1]
    return ""


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; with its id this names it for good. 0: there is none alive."""
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    return 0


def ask_engine(container: dict[str, Any], number: int) -> None:
    """For containers whose processes cannot be seen from here: the agent may live in a container of its own."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ENGINE_TIMEOUT_S)
        connection.connect(container["engine"])
        path = f"/containers/{container['container_id']}/kill?signal={int(number)}"
        connection.sendall(f"POST {path} HTTP/1.0\r\nHost: engine\r\nContent-Length: 0\r\n\r\n".encode())
        if connection.recv(64).split(b" ")[1:2] == [b"204"]:
            say(f"the engine sent signal {int(number)} to {container['container_id']}")


# --- the process itself


def now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def take_lock() -> int | None:
    """None when another one guards. An agent that looks whether somebody does holds it for a moment."""
    for _ in range(LOCK_TRIES):
        lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            os.close(lock)
            time.sleep(LOOK_S / 4)
    return None


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk loses the line
        os.write(2, f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n".encode())


def _let_go_of_the_agent(lock: int) -> None:
    null, log = os.open("/dev/null", os.O_RDWR), os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number, file in ((0, null), (1, null), (2, log)):
        os.dup2(file, number)
    os.closerange(3, lock)
    os.closerange(lock + 1, os.sysconf("SC_OPEN_MAX"))


if __name__ == "__main__":
    main(sys.argv[1])
