"""docker-compose.yml, really started: on images of this machine's programs and of the Dockerfile, by one command."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import ssl
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.beside import beside, nothing
from tests.cluster.processes import PODIUM, end_containers_of
from tests.docker_images import ensure_image, require_docker
from tests.machine_images import program_image, python_image, require

pytestmark = [pytest.mark.docker, pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(600)]

BESIDE = "long silences"
ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
TARGETS = {
    f"{name}-{number}:{port}"
    for name, port in (("etcd", 2381), ("controller", 7078), ("node", 7079))
    for number in (1, 2, 3)
}


def sh(*command: str, cwd: Path | None = None, environ: dict[str, str] | None = None) -> str:
    """What it printed; it must succeed."""
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | (environ or {}), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def compose_program() -> tuple[str, ...]:
    """The older program or the plugin, whichever is here."""
    if shutil.which("docker-compose") is None:
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=30)
        if plugin.returncode != 0:
            pytest.skip(
                "neither docker-compose nor the compose plugin is installed (Debian: apt install docker-compose)"
            )
        return ("docker", "compose")
    return ("docker-compose",)


class Deployment:
    """The Compose file in a directory of its own, on loopback addresses of its own."""

    def __init__(self, directory: Path, project: str) -> None:
        self.directory = directory
        self.project = project
        self._compose = compose_program()
        choose = random.Random(project)
        self.prefix = f"127.{choose.randint(100, 250)}.{choose.randint(1, 250)}"
        self.environ = {
            "COMPOSE_PROJECT_NAME": project,
            "PODIUM_LOOPBACK": self.prefix,
            "PODIUM_IMAGE": f"{project}:1",
            "PODIUM_BASE_IMAGE": f"{project}-python:1",
            "PODIUM_WHEELS": "/src/wheelhouse",
            "PIP_NO_INDEX": "1",
            "ETCD_IMAGE": f"{project}-etcd:1",
            "PROMETHEUS_IMAGE": f"{project}-prometheus:1",
            "PODIUM_CONTROLLER": ",".join(f"{self.prefix}.{number}:7077" for number in (1, 2, 3)),
            "PODIUM_NODE_MEMORY": "256M",
        }

    def compose(self, *arguments: str) -> str:
        return sh(*self._compose, *arguments, cwd=self.directory, environ=self.environ)

    def take_token(self) -> None:
        """Of the first user, as docs/operations.md says; there once somebody leads."""
        self.until(lambda: bool(self._token()), "the first user's token")
        self.environ["PODIUM_TOKEN"] = self._token()

    def _token(self) -> str:
        return self.compose("exec", "-T", "controller-1", "cat", "/var/lib/podium/admin.token").strip()

    def podium(self, *arguments: str) -> str:
        return sh(PODIUM, *arguments, cwd=self.directory, environ=self.environ)

    def read(self, *arguments: str) -> Any:
        return json.loads(self.podium(*arguments, "-o", "json"))

    def prometheus(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.prefix}.1:9090/api/v1/{path}", timeout=5) as answer:
            return json.load(answer)["data"]

    def node_ids(self) -> list[str]:
        """Of its nodes, by the journals of those that were started."""
        names = (name for name in self.remains() if name.startswith(f"{self.project}_node-"))
        return [text for name in names if (text := self._node_id(name))]

    def _node_id(self, volume: str) -> str:
        mounted = f"{volume}:/node:ro"
        image = self.environ["PODIUM_IMAGE"]
        command = ("docker", "run", "--rm", "--user=0", "--volume", mounted, "--entrypoint=cat", image)
        done = subprocess.run(
            [*command, "/node/agent/node-id"], capture_output=True, text=True, timeout=30, check=False
        )
        return done.stdout.strip()

    def container(self, service: str) -> Any:
        """What the engine says of a service's container."""
        label = f"label=com.docker.compose.service={service}"
        found = sh(
            "docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={self.project}", "--filter", label
        )
        return json.loads(sh("docker", "inspect", found.strip()))[0]

    def remains(self) -> list[str]:
        """Everything the engine has of this project, images aside."""
        label = f"label=com.docker.compose.project={self.project}"
        listings = (("ps", "-aq"), ("volume", "ls", "-q"), ("network", "ls", "-q"))
        return [name for listing in listings for name in sh("docker", *listing, "--filter", label).split()]

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Ask other processes again and again, as people and monitoring do; until they answer, too."""
        failure: object = None
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            try:
                if holds():
                    return
            except (AssertionError, OSError) as error:
                failure = error
            time.sleep(0.2)
        logs = self.compose("logs", "--no-color", "--tail=30")
        raise AssertionError(f"{what}: not within {PATIENCE_S:g} s: {failure}\n{logs[-8000:]}")


@contextmanager
def deployed(directory: Path) -> Iterator[Deployment]:
    require_docker()
    for program in ("etcd", "prometheus"):
        require(program)
    made = Deployment(directory / "podium", f"podium-test-{uuid.uuid4().hex[:8]}")
    mark = f"podium.test={made.project}"
    try:
        _context(made.directory)
        _images(made, f"LABEL {mark}")
        yield made
    finally:
        nodes = made.node_ids()
        made.compose("down", "--volumes", "--timeout=5")
        end_containers_of(nodes)
        images = sh("docker", "images", "--quiet", "--filter", f"label={mark}").split()
        sh("docker", "image", "rm", "--force", *dict.fromkeys(images))
        sh("docker", "image", "prune", "--force", "--filter", f"label={mark}")


def _context(directory: Path) -> None:
    """What the image is made of, as .dockerignore says, and the wheels that it needs: a build here has no network."""
    directory.mkdir()
    said = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    wanted = [name for name in said if not name.startswith("deploy/")]
    for name in (*wanted, "Dockerfile", ".dockerignore", "docker-compose.yml", "deploy"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, directory / name)
    pip = (
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--wheel-dir",
        "wheelhouse",
        "--constraint",
        "constraints.txt",
    )
    sh(*pip, ".[all]", "hatchling", cwd=directory)
    for built in (directory / "wheelhouse").glob("podium-*.whl"):
        built.unlink()


def _images(made: Deployment, label: str) -> None:
    python_image(made.environ["PODIUM_BASE_IMAGE"], label, loads=Path(sysconfig.get_path("platlib")).rglob("*.so"))
    program_image(made.environ["ETCD_IMAGE"], "etcd", label)
    program_image(made.environ["PROMETHEUS_IMAGE"], "prometheus", label, 'ENTRYPOINT ["prometheus"]')


@beside(nothing)
async def test_one_command_starts_a_cluster_that_outlives_its_leader_and_leaves_nothing(directory: Path) -> None:
    def play() -> None:
        with deployed(directory) as deployment:
            _outlives_its_leader_and_leaves_nothing(deployment)

    await asyncio.to_thread(play)


def _outlives_its_leader_and_leaves_nothing(deployment: Deployment) -> None:
    image = ensure_image()
    deployment.compose("up", "--detach")
    deployment.take_token()
    deployment.until(lambda: _ready(deployment) == {"node-1", "node-2", "node-3"}, "three nodes ready")

    _trusts_no_one(deployment)
    deployment.podium("run", image, "--name", "web", "--replicas", "3", "-p", "8080:80", "--", "sh", "-c", _SERVE)
    before = {task["runtime_id"] for task in deployment.read("ps", "web")}
    assert len(before) == 3
    assert {_get(f"http://{deployment.prefix}.{node}:8080/") for node in (11, 12, 13)} == {"served"}

    deployment.until(lambda: _scraped(deployment), "Prometheus scrapes everything")
    rules = [rule for group in deployment.prometheus("rules")["groups"] for rule in group["rules"]]
    assert rules
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}

    deployment.until(lambda: _health(deployment) == {"healthy"}, "every health check passes")

    leader = _leader(deployment)
    deployment.compose("kill", f"controller-{leader}")
    deployment.until(lambda: _leader(deployment) != leader, "another controller leads")
    deployment.until(lambda: len(_ready(deployment)) == 3, "the nodes are back")
    assert {task["runtime_id"] for task in deployment.read("ps", "web")} == before
    assert deployment.read("jobs")[0]["running"] == 3

    _stops_cleanly(deployment, f"controller-{_leader(deployment)}", user="10001:10001")
    deployment.compose("start", f"controller-{leader}")  # two of three suffice, one would not be a test
    deployment.until(lambda: len(_ready(deployment)) == 3, "the last two controllers lead")

    deployment.podium("rm", "web")
    deployment.until(lambda: not _containers(before), "the job's containers are gone")
    _stops_cleanly(deployment, "node-1", user="0:0")
    deployment.compose("down", "--volumes", "--timeout=10")
    assert deployment.remains() == []


def _trusts_no_one(deployment: Deployment) -> None:
    """Who shows nothing is told nothing; who has joined needed a token, of which none is left."""
    deployment.until(lambda: deployment.read("token", "ls") == [], "all three controllers and nodes have joined")
    deployment.until(lambda: _refused(f"{deployment.prefix}.2:7078/metrics"), "metrics are not everybody's")
    stranger = deployment.environ | {"PODIUM_TOKEN": "", "PODIUM_INSECURE": "1"}
    refused = subprocess.run([PODIUM, "nodes"], env=os.environ | stranger, capture_output=True, timeout=60, check=False)
    assert refused.returncode != 0
    assert deployment.read("whoami")["name"] == "admin"
    assert "node-1" in deployment.compose("run", "--rm", "podium", "nodes", "-o", "name")


def _refused(address: str) -> bool:
    """Whoever scrapes checks the certificate too; Prometheus does so below."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        urllib.request.urlopen(f"https://{address}", timeout=10, context=context).close()
    except urllib.error.HTTPError as error:
        return error.code == 401
    return False


_SERVE = "mkdir -p /www; printf served > /www/index.html; exec httpd -f -p 80 -h /www"


def _ready(deployment: Deployment) -> set[str]:
    return {node["name"] for node in deployment.read("nodes") if node["status"] == "ready"}


def _leader(deployment: Deployment) -> int:
    """Number of the controller that leads."""
    answered = deployment.read("cluster")
    cluster = answered[0] if isinstance(answered, list) else answered
    return int(cluster["leader"].partition(":")[0].rpartition(".")[2])


def _scraped(deployment: Deployment) -> bool:
    targets = {target["labels"]["instance"]: target for target in deployment.prometheus("targets")["activeTargets"]}
    assert set(targets) == TARGETS
    failing = {name: target["lastError"] for name, target in targets.items() if target["health"] != "up"}
    assert not failing, failing
    return True


def _health(deployment: Deployment) -> set[str]:
    services = [f"{kind}-{number}" for kind in ("controller", "node") for number in (1, 2, 3)]
    return {deployment.container(service)["State"]["Health"]["Status"] for service in services}


def _containers(ids: set[str]) -> list[str]:
    return [id_ for id_ in sh("docker", "ps", "-aq", "--no-trunc").split() if id_ in ids]


def _stops_cleanly(deployment: Deployment, service: str, *, user: str) -> None:
    """SIGTERM reaches the program itself, which ends by it within its grace."""
    deployment.compose("stop", service)
    stopped = deployment.container(service)
    assert stopped["State"]["ExitCode"] == 0
    assert stopped["Config"]["User"] == user


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())
