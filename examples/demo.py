"""`make demo`: a three-node cluster on this machine runs examples/hello, loses a replica and gets it back.

Uses nothing but the `podium` command and HTTP, as a user would. Stays up until ^C, then leaves nothing behind.
With --record FILE the terminal is saved as an SVG (that is the picture in the README) and the demo ends by itself.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).resolve().parent
COMPOSE_FILE = HERE / "hello" / "compose.yaml"
PODIUM = str(Path(sys.executable).with_name("podium"))
READY_TIMEOUT_S = 30
HEAL_TIMEOUT_S = 30
STOP_TIMEOUT_S = 60
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""^C, `kill`, and a terminal that was closed."""


class Demo:
    def __init__(self, console: Console, data_dir: Path) -> None:
        self._console = console
        self._data_dir = data_dir
        self._grpc_port, self._http_port, self._port = free_port(7077), free_port(7078), free_port(8080)
        self._environment = os.environ | {
            "PODIUM_CONTROLLER": f"127.0.0.1:{self._grpc_port}",
            "HELLO_PORT": str(self._port),
        }

    @contextmanager
    def cluster(self) -> Iterator[None]:
        """`podium dev` while the block runs. It gets a session of its own, so that ^C reaches us first."""
        command = [
            *(PODIUM, "dev", "--nodes", "3", "--runtime", "process", "--data-dir", str(self._data_dir)),
            *("--grpc-port", str(self._grpc_port), "--http-port", str(self._http_port)),
        ]
        self.say("podium dev --nodes 3", "one process: a controller, its store and three agents")
        log = (self._data_dir / "dev.log").open("w+")
        dev = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
        try:
            self._await_ready(dev, log.name)
            yield
        finally:
            dev.terminate()
            dev.wait(timeout=STOP_TIMEOUT_S)
            log.close()

    def _await_ready(self, dev: subprocess.Popen[str], log: str) -> None:
        assert dev.stdout is not None
        said, _, _ = select.select([dev.stdout], [], [], READY_TIMEOUT_S)
        if not said or dev.stdout.readline().strip() != "ready":
            raise SystemExit(f"podium dev did not get ready; it said:\n{Path(log).read_text()}")

    def deploy(self) -> None:
        self.podium("up", "-f", str(COMPOSE_FILE), shown="podium up -f examples/hello/compose.yaml")
        self.podium("ps")

    def show_balancing(self) -> None:
        self.say(f"curl http://127.0.0.1:{self._port}/", "one port, three replicas answering in turn")
        for _ in range(6):
            self._console.print("  " + self.ask(), style="green", highlight=False)

    def lose_one(self) -> None:
        """Kill a replica's process and watch the agent bring it back, asking all the while."""
        victim = self.tasks()[0]
        self.say(f"kill -9 {victim['runtime_id']}", f"replica {victim['slot']} on {victim['node']} dies")
        with Visitors(self.ask) as visitors:
            os.kill(int(str(victim["runtime_id"])), signal.SIGKILL)
            begun_s = time.monotonic()
            while (after := self.healed(victim)) is None:
                if time.monotonic() - begun_s > HEAL_TIMEOUT_S:
                    raise SystemExit(f"the replica did not come back in {HEAL_TIMEOUT_S} s")
            took_s = time.monotonic() - begun_s
        self._console.print(
            f"  back as pid {after['runtime_id']} and healthy within {took_s:.1f} s;"
            f" meanwhile {visitors.answered} requests answered, {visitors.failed} failed",
            style="green",
            highlight=False,
            soft_wrap=True,
        )
        self.podium("why", "hello.1")

    def healed(self, victim: dict[str, object]) -> dict[str, object] | None:
        """The task in the victim's slot once it runs healthy as another process."""
        for task in self.tasks():
            if task["slot"] == victim["slot"] and task["runtime_id"] != victim["runtime_id"]:
                return task if task["state"] == "running" and task["health"] == "healthy" else None
        return None

    def invite(self) -> None:
        self._console.print(
            f"\nIt stays up: open http://127.0.0.1:{self._port}/ or, in another terminal,\n"
            f"  export PODIUM_CONTROLLER=127.0.0.1:{self._grpc_port}\n"
            f"  {PODIUM} -n hello ps\n"
            "Press ^C to stop it; nothing stays behind.",
            highlight=False,
        )

    # --- the tools of a user

    def podium(self, *arguments: str, shown: str = "") -> None:
        self.say(shown or " ".join(("podium", *arguments)))
        done = subprocess.run(
            [PODIUM, *arguments],
            env=self._environment | {"PODIUM_NAMESPACE": "hello", "COLUMNS": str(self._console.width - 2)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        for line in done.stdout.rstrip().splitlines():
            self._console.print("  " + line, highlight=False, markup=False, soft_wrap=True)
        if done.returncode:
            raise SystemExit(f"podium {arguments[0]} ended with exit code {done.returncode}")

    def tasks(self) -> list[dict[str, object]]:
        command = [PODIUM, "-n", "hello", "ps", "-o", "json"]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=30, check=True)
        return sorted(json.loads(done.stdout), key=lambda task: task["slot"])

    def ask(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode().strip()
        finally:
            connection.close()

    def say(self, command: str, remark: str = "") -> None:
        line = Text.assemble(("\n$ ", "bold cyan"), (command, "bold"))
        if remark:
            line.append(f"   # {remark}", style="dim")
        self._console.print(line, highlight=False)


class Visitors:
    """Asks about fifty times a second while the block runs, and counts."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self.answered = self.failed = 0
        self._ask = ask
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._visit)

    def __enter__(self) -> Visitors:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _visit(self) -> None:
        while not self._done.wait(0.02):
            try:
                self._ask()
                self.answered += 1
            except OSError:
                self.failed += 1


def free_port(wanted: int) -> int:
    """`wanted`, or another one when a program has it already."""
    for port in (wanted, 0):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(sock.getsockname()[1])
    raise SystemExit("no free port on 127.0.0.1")


def record(console: Console, file: Path) -> None:
    """Save the terminal, in fonts that the reader has: the picture must not fetch any."""
    format_of_rich = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    file.write_text(console.export_svg(title="make demo", code_format=format_of_rich))


def stop(*_: object) -> None:
    """Once: from then on nothing keeps us from tidying up."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, metavar="FILE", help="save the terminal as SVG and end")
    parser.add_argument("--once", action="store_true", help="end when everything was shown")
    arguments = parser.parse_args()
    console = Console(record=arguments.record is not None, width=100 if arguments.record else None)
    for number in ENDING:
        signal.signal(number, stop)
    data_dir = Path(tempfile.mkdtemp(prefix="podium-demo-"))
    try:
        demo = Demo(console, data_dir)
        with demo.cluster():
            demo.deploy()
            demo.show_balancing()
            demo.lose_one()
            if arguments.record:
                record(console, arguments.record)
            if not arguments.record and not arguments.once:
                demo.invite()
                signal.pause()
    except KeyboardInterrupt:
        console.print("\nstopping", style="dim")
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
