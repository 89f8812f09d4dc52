"""A Docker Engine of its own on a machine: data, socket, bridge, containerd and control groups."""

from __future__ import annotations

import json
import subprocess

from tests.cluster.machine import Machine, Running, until
from tests.docker_images import DEFAULT_HOST


class OwnEngine:
    """dockerd with its data below the machine's directory; started, stopped and frozen by tests as they like."""

    def __init__(self, machine: Machine, *, bridge: str = "172.29.0.1/16", live_restore: bool = False) -> None:
        self._machine = machine
        self._directory = machine.directory / "engine"
        self._bridge = bridge
        self._live_restore = live_restore
        self._running: Running | None = None

    @property
    def host(self) -> str:
        return f"unix://{self._directory}/docker.sock"

    @property
    def running(self) -> Running:
        assert self._running is not None
        return self._running

    def start(self) -> None:
        """Return when it answers."""
        self.begin()
        until(self.answers, f"dockerd of {self._machine.name} answers")

    def begin(self) -> None:
        """Without waiting for it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        command = ["dockerd", f"--data-root={self._directory}/docker", "--exec-root=/run/docker"]
        command += ["--pidfile=/run/docker.pid", f"--host={self.host}", f"--bip={self._bridge}"]
        command += [f"--cgroup-parent=/{self._machine.group}", "--log-level=warn"]
        if self._live_restore:
            command.append("--live-restore")
        self._machine.do("rm", "-f", "/run/docker.pid")  # of one that was killed; its number may be somebody else's now
        self._running = self._machine.start("dockerd", *command)

    def answers(self) -> bool:
        assert self.running.runs, self.running.log()[-3000:]
        return self.docker("version", check=False).returncode == 0

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["docker", "--host", self.host, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}: {done.stderr}"
        return done

    def load(self, tag: str) -> None:
        """Copy an image of the main engine here; no registry is asked."""
        with subprocess.Popen(["docker", "--host", DEFAULT_HOST, "save", tag], stdout=subprocess.PIPE) as saving:
            command = ["docker", "--host", self.host, "load"]
            subprocess.run(command, stdin=saving.stdout, check=True, capture_output=True, timeout=60)

    def containers(self) -> dict[str, str]:
        """When each running container was started, by id."""
        ids = self.docker("ps", "-q", "--no-trunc").stdout.split()
        seen = json.loads(self.docker("inspect", *ids).stdout) if ids else []
        return {each["Id"]: each["State"]["StartedAt"] for each in seen}

    def forget_to_run(self, container_id: str) -> None:
        """Have a dead engine know nothing of a start of this container."""
        path = self._directory / "docker" / "containers" / container_id / "config.v2.json"
        written = json.loads(path.read_text())
        written["State"] |= {"Running": False, "Pid": 0, "StartedAt": "0001-01-01T00:00:00Z"}
        path.write_text(json.dumps(written))

    def remove_all(self) -> None:
        """Its containers, whatever state it is in, and then the engine itself."""
        if self._running is not None and self._running.runs:
            self._running.thaw()
            if ids := self.docker("ps", "-aq", check=False).stdout.split():
                self.docker("rm", "-f", *ids, check=False)
            self._running.end()
