"""A real etcd for tests: members on free ports with their data in a temporary directory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_ports

_START_TIMEOUT_S = 45.0
_LOOK_S = 0.05
_LOG_TAIL_BYTES = 2_000


class EtcdServer:
    """One member that can be stopped and started again on the same data."""

    def __init__(
        self, directory: Path, *, scheme: str = "http", flags: tuple[str, ...] = (), name: str = "test"
    ) -> None:
        self.port, self._peer_port = free_ports(2)
        self.name = name
        self.members = (self,)
        """Of the whole cluster."""
        self._directory = directory
        self._scheme = scheme
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self._peer_port}"

    def start(self) -> None:
        """Return when the member answers linearizable requests."""
        self.launch()
        self.await_health()

    def launch(self) -> None:
        """Start it without waiting: the first of several has nobody to agree with yet."""
        client, peer = f"{self._scheme}://{self.endpoint}", self.peer_url
        command = ["etcd", f"--name={self.name}", f"--data-dir={self._directory / 'data'}"]
        command += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
        command += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
        members = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        command += [f"--initial-cluster={members}", *self._flags]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it the way a power cut would, as far as a process can be."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Keep its connections open and answer nothing, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # returns when every thread has stopped

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def _log(self) -> Path:
        return self._directory / "etcd.log"

    def await_health(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"etcd did not start: {self._log.read_bytes()[-_LOG_TAIL_BYTES:].decode()}")
            time.sleep(_LOOK_S)

    def _healthy(self) -> bool:
        if self._scheme == "https":  # health would need a certificate; that somebody listens has to do
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
            return False
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://{self.endpoint}/health", timeout=2) as answer,
        ):
            return b"true" in answer.read()
        return False


class EtcdTrio:
    """Three members that are one etcd."""

    def __init__(self, directory: Path, *, flags: tuple[str, ...] = ()) -> None:
        self.members: list[EtcdServer] = []
        for name in ("m1", "m2", "m3"):
            (directory / name).mkdir()
            self.members.append(EtcdServer(directory / name, flags=flags, name=name))
        for member in self.members:
            member.members = tuple(self.members)

    @property
    def endpoints(self) -> str:
        return ",".join(member.endpoint for member in self.members)

    def start(self) -> None:
        for member in self.members:
            member.launch()
        for member in self.members:
            member.await_health()

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def freeze(self) -> None:
        for member in self.members:
            member.freeze()

    def thaw(self) -> None:
        for member in self.members:
            member.thaw()

    def sorted_by_role(self) -> list[EtcdServer]:
        """Its leader first."""
        command = ["etcdctl", f"--endpoints={self.endpoints}", "endpoint", "status", "-w", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        leading = {
            status["Endpoint"]: status["Status"]["leader"] == status["Status"]["header"]["member_id"]
            for status in json.loads(done.stdout)
        }
        return sorted(self.members, key=lambda member: not leading[member.endpoint])


def require_etcd() -> None:
    if shutil.which("etcd") is None:
        pytest.skip("no etcd program is installed (Debian: apt install etcd-server)")


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One member for all tests that neither stop it nor fill it; each uses a prefix of its own."""
    require_etcd()
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    """A member for one test, which may do to it what it likes."""
    require_etcd()
    server = EtcdServer(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def etcd_prefix() -> str:
    """A prefix that no other test uses."""
    return f"/test/{uuid.uuid4().hex}/"
