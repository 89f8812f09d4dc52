"""Configs and secrets end to end, on real parts: a controller with a cluster key on SQLite, an agent with Docker and
processes, and Compose files. Nothing but the tasks' memory ever holds what is in a secret."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from agent.app import serve as serve_agent
from agent.network.haproxy.program import find_program
from agent.network.pretended import PretendedDataPlane
from agent.settings import AgentSettings
from client.client import Client
from client.compose import load
from client.settings import ClientSettings
from common.errors import Invalid
from common.model.api import JobDetail
from common.model.asset import AssetKind
from common.model.asset_calls import PutHow
from common.model.job import DesiredState
from common.model.privileges import NodePolicy
from common.model.task import TaskState
from tests.certificates import pair
from tests.docker_images import ensure_image, require_docker
from tests.integration.test_cluster_trust import cluster
from tests.ports import free_port

pytestmark = pytest.mark.timeout(120)

WAIT_S = 60.0
VALUE = "correct-horse-battery-staple-51"
DIGEST = hashlib.sha256(VALUE.encode()).hexdigest()


@pytest.fixture
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@asynccontextmanager
async def node(folder: Path, memory: Path, *runtimes: str, web_tls_port: int = 0) -> AsyncIterator[Client]:
    """A cluster of one node, and a client of its first user. The node has HAProxy when it is to serve HTTPS."""
    async with asyncio.timeout(WAIT_S), cluster(folder) as c:
        stop, ready = asyncio.Event(), asyncio.Event()
        settings = AgentSettings(
            controllers=(c.addresses.grpc,),
            data_dir=str(folder / "node"),
            name="n1",
            runtimes=runtimes,
            policy=NodePolicy(processes="process" in runtimes, process_user=""),
            secrets_dir=str(memory),
            join_token=str(await c.join_token()),
            proxy="haproxy",
            web_port=free_port(),
            web_tls_port=web_tls_port or free_port(),
            service_addresses="none",
        )
        plane = None if web_tls_port else PretendedDataPlane()
        async with asyncio.TaskGroup() as group:
            serving = serve_agent(settings, stop=stop, on_ready=ready.set, data_plane=plane, stop_tasks=True)
            group.create_task(serving)
            try:
                await ready.wait()
                known = ClientSettings(controllers=(c.addresses.grpc,), token=c.first_token)
                async with Client(known) as client:
                    yield client
            finally:
                stop.set()


async def up(client: Client, file: Path) -> None:
    project = load([file], project_name="shop", environment={})
    specs = await client.assets.handed_in("shop", project.specs, project.assets)
    await client.apply("shop", specs)


async def until(client: Client, well: Callable[[tuple[JobDetail, ...]], bool]) -> tuple[JobDetail, ...]:
    async for details in client.watch("shop"):
        if well(details):
            return details
    raise AssertionError("the watch ended")


def running(details: tuple[JobDetail, ...], version: int = 1) -> bool:
    return bool(details) and all(
        any(
            view.task.version == version and view.state is TaskState.RUNNING and view.task.desired is DesiredState.RUN
            for view in detail.tasks
        )
        for detail in details
    )


PROGRAM = "sha256sum $$PODIUM_SECRET_DB; ls -ln $$PODIUM_SECRET_DB; exec sleep 600"


async def test_the_value_of_a_secret_is_found_nowhere_but_in_its_tasks(
    tmp_path: Path, memory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    require_docker()
    ensure_image()
    caplog.set_level(logging.DEBUG)
    with tempfile.TemporaryDirectory() as elsewhere:
        (Path(elsewhere) / "db.txt").write_text(VALUE)
        file = Path(elsewhere) / "compose.yaml"
        file.write_text(
            "services:\n"
            f'  box: {{image: "podium-test:1", user: nobody, command: [sh, -c, "{PROGRAM}"], secrets: [db]}}\n'
            f'  plain: {{command: [sh, -c, "{PROGRAM}"], secrets: [db]}}\n'
            "secrets: {db: {file: db.txt}}\n"
        )
        async with node(tmp_path, memory, "docker", "process") as client:
            await up(client, file)
            details = await until(client, running)
            told = await _logs(client, "box", 2) + await _logs(client, "plain", 2)
            assert sum(line.startswith(DIGEST) for line in told) == 2
            rights = [line for line in told if not line.startswith(DIGEST)]
            assert all(line.startswith("-r--------") for line in rights)
            assert " 65534 " in rights[0]  # nobody, as the image has it
            assert await _places(client, details, tmp_path, caplog) == []
            assert any(VALUE.encode() in file.read_bytes() for file in memory.rglob("db")), "or this test finds nothing"
            with pytest.raises(Exception, match="config shop/db"):
                await client.assets.read_config("shop", "db")
            await client.remove("shop", all_jobs=True)
            await until(client, lambda found: not found)
        assert list(memory.iterdir()) == []
    assert _hidden_in(tmp_path) == []


async def _logs(client: Client, job: str, lines: int) -> list[str]:
    found: list[str] = []
    async with aclosing(client.logs("shop", job, follow=True)) as pieces:
        async for piece in pieces:
            found += [line.text for line in piece.lines]
            if len(found) >= lines:
                break
    return found


async def _places(
    client: Client,
    details: tuple[JobDetail, ...],
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    value: bytes = VALUE.encode(),
) -> list[str]:
    """Where else the value is; nowhere."""
    names = [detail.view.job.name for detail in details]
    texts = {
        "jobs": repr(details),
        "inspected task": repr([await client.inspect_task("shop", f"{name}.1") for name in names]),
        "listed secrets": repr(await client.assets.list_assets(AssetKind.SECRET)),
        "audit": repr(await client.trust.audit()),
        "events": repr([event async for event in client.events()]),
        "backup": b"".join([piece async for piece in client.backup()]).decode(),
        "logs of controller and agent": caplog.text,
    }
    if "box" in names:
        texts["docker inspect"] = await asyncio.to_thread(_inspected, details)
        assert "/run/secrets/db" in texts["docker inspect"]
    assert "asset" in texts["audit"]
    found = [name for name, text in texts.items() if _holds(text.encode(errors="replace"), value)]
    return found + _hidden_in(folder, value) + await asyncio.to_thread(_processes, value)


def _inspected(details: tuple[JobDetail, ...]) -> str:
    (box,) = (detail for detail in details if detail.view.job.name == "box")
    identifier = box.tasks[0].task.status.runtime_id
    done = subprocess.run(["docker", "inspect", identifier], capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(done.stdout)
    return done.stdout


def _hidden_in(folder: Path, value: bytes = VALUE.encode()) -> list[str]:
    """Files: the store, the audit log, the journal, requests and output of tasks, and what the proxy is told."""
    return [str(file) for file in folder.rglob("*") if file.is_file() and _holds(file.read_bytes(), value)]


def _processes(value: bytes) -> list[str]:
    found = []
    for name in ("cmdline", "environ"):
        for file in Path("/proc").glob(f"[0-9]*/{name}"):
            try:
                if _holds(file.read_bytes(), value):
                    found.append(str(file))
            except OSError:
                continue
    return found


def _holds(content: bytes, value: bytes) -> bool:
    encoded = {base64.b64encode(b" " * shift + value)[4:-4] for shift in range(3)}
    return value in content or any(one in content for one in encoded)


async def https(port: int, certificate: bytes, host: str) -> bytes:
    """An answer for `host`, from whoever shows this certificate. Raises `OSError` while nobody does."""
    context = ssl.create_default_context(cadata=certificate.partition(b"-----BEGIN PRIVATE")[0].decode())
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=host)
    try:
        writer.write(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        return await reader.read()
    finally:
        writer.close()


async def shown(port: int, certificate: bytes, host: str) -> bytes:
    """The answer as soon as there is one: HAProxy is told in the background."""
    async with asyncio.timeout(30):
        while True:
            try:
                if b" 200 " in (answer := await https(port, certificate, host)):
                    return answer
            except OSError:
                pass
            await asyncio.sleep(0.05)


@pytest.mark.skipif(not find_program(), reason="haproxy is not installed")
async def test_the_key_of_a_certificate_is_found_nowhere_but_with_the_proxies_that_show_it(
    tmp_path: Path, memory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    first, second = pair("shop.test"), pair("shop.test")
    port, file = free_port(), tmp_path / "app" / "compose.yaml"
    file.parent.mkdir()
    serve = f'"{sys.executable}", -m, http.server, --bind, "$${{PODIUM_NODE_ADDRESS}}", "$${{PORT}}"'
    file.write_text(
        f"services:\n  web:\n    command: [{serve}]\n    expose: [80]\n"
        "    x-podium: {http: {host: shop.test, tls: cert}}\n"
        "secrets: {cert: {external: true}}\n"
    )
    async with node(tmp_path, memory, "process", web_tls_port=port) as client:
        with pytest.raises(Invalid, match="no secret cert was made in namespace shop"):
            await up(client, file)
        await client.assets.put(AssetKind.SECRET, "shop", "cert", first, PutHow.CREATE)
        await up(client, file)
        details = await until(client, running)
        await shown(port, first, "shop.test")
        await client.assets.put(AssetKind.SECRET, "shop", "cert", second, PutHow.ROTATE)
        await shown(port, second, "shop.test")
        for key in (first.splitlines()[-3], second.splitlines()[-3]):
            assert await _places(client, details, tmp_path, caplog, key) == []
        (held,) = memory.rglob("*.pem")
        assert second.splitlines()[-3] in held.read_bytes(), "or this test finds nothing"
        assert (await until(client, running))[0].view.job.version == 1
        await client.remove("shop", all_jobs=True)
        await until(client, lambda found: not found)
    assert list(memory.iterdir()) == []


async def test_a_config_with_a_bad_value_is_rolled_back_together_with_the_code(tmp_path: Path, memory: Path) -> None:
    """And a rotation of an external one likewise; the tasks of the old version keep the old content meanwhile."""
    file = tmp_path / "app" / "compose.yaml"
    file.parent.mkdir()

    def write(code: int, color: str) -> None:
        (file.parent / "app.conf").write_text(f"color={color}\n")
        file.write_text(
            "services:\n"
            "  web:\n"
            f"    environment: {{CODE: '{code}'}}\n"
            '    command: [sh, -c, "echo code $$CODE; cat $$PODIUM_CONFIG_APP $$PODIUM_CONFIG_TUNE; '
            'if grep -q bad $$PODIUM_CONFIG_APP $$PODIUM_CONFIG_TUNE; then exit 1; fi; exec sleep 600"]\n'
            "    configs: [app, tune]\n"
            "    deploy: {restart_policy: {condition: none}, update_config: {monitor: 1s}}\n"
            "configs: {app: {file: app.conf}, tune: {external: true}}\n"
        )

    async with node(tmp_path, memory, "process") as client:
        await client.assets.put(AssetKind.CONFIG, "shop", "tune", b"good\n", PutHow.CREATE)
        write(1, "red")
        await up(client, file)
        (first,) = await until(client, lambda details: running(details) and details[0].view.job.good_version == 1)
        write(2, "bad")
        await up(client, file)
        (back,) = await until(client, lambda details: bool(details[0].view.job.note))
        assert back.view.job.version == 1
        assert back.view.job.note.startswith("version 2 was rolled back to 1: ")
        assert back.view.spec == first.view.spec
        task_id = first.tasks[0].task.id
        (place,) = memory.rglob(task_id)
        assert (place / "app").read_text() == "color=red\n"
        assert await _logs(client, "web", 3) == ["code 1", "color=red", "good"]
        await client.assets.put(AssetKind.CONFIG, "shop", "tune", b"bad\n", PutHow.ROTATE)
        (again,) = await until(
            client, lambda details: details[0].view.job.note.startswith("version 3 was rolled back to 1: ")
        )
        assert again.view.spec == first.view.spec
        assert [view.task.id for view in again.tasks if view.state is TaskState.RUNNING] == [task_id]
