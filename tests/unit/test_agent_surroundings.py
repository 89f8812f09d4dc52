"""Ports, runtimes, requests, settings, machine facts, metrics: what an agent's tasks live among."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator

import pytest
from aiohttp.test_utils import TestClient, TestServer

from agent import resources
from agent.__main__ import main
from agent.checks import Check
from agent.container_request import engine_bindings, probe_argv, request_of
from agent.http import application
from agent.metrics import ContainerUsage, Metrics
from agent.ports import PortAllocator, ephemeral_range
from agent.runtime.fake import FakeEngine, FakeRuntime
from agent.runtimes import Runtimes
from agent.settings import AgentBounds, AgentSettings
from common.errors import Conflict, Invalid, Unavailable
from common.http_guard import guard
from common.model.job import Container, HealthCheck, Port, Protocol, PublishMode
from common.model.node import RuntimeStatus
from common.model.resources import Resources, Usage
from common.model.task import PortBinding
from tests.agent_builders import assignment

HOST = "127.0.0.1"

# --- ports


@pytest.fixture
def ports() -> Iterator[PortAllocator]:
    allocator = PortAllocator(HOST, random.Random(1))
    yield allocator
    allocator.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0)) as server:
        yield server


def tcp(container_port: int = 80, published_port: int = 0, mode: PublishMode = PublishMode.INGRESS) -> Port:
    return Port(container_port=container_port, published_port=published_port, mode=mode)


def test_ports_are_free_outside_the_ephemeral_range_and_never_given_twice(ports: PortAllocator) -> None:
    given = [ports.reserve(f"t{number}", (tcp(80), tcp(81))) for number in range(50)]
    numbers = [binding.host_port for bindings in given for binding in bindings]
    assert len(set(numbers)) == 100
    low, high = ephemeral_range()
    assert not [number for number in numbers if low <= number <= high]
    for number in numbers[:5]:
        socket.create_server((HOST, number)).close()


def test_a_task_keeps_its_ports_until_they_are_released(ports: PortAllocator) -> None:
    first = ports.reserve("t1", (tcp(),))
    assert ports.reserve("t1", (tcp(),)) == first
    ports.release("t1")
    assert ports.reserve("t2", (tcp(published_port=first[0].host_port, mode=PublishMode.HOST),)) == first


def test_agents_that_share_a_machine_share_its_ports(ports: PortAllocator) -> None:
    other = PortAllocator(HOST, random.Random(1))
    mine = [ports.reserve(f"t{number}", (tcp(),))[0].host_port for number in range(20)]
    theirs = [other.reserve(f"t{number}", (tcp(),))[0].host_port for number in range(20)]
    other.close()
    assert not set(mine) & set(theirs)


def test_mode_host_binds_the_published_port_or_says_that_it_is_taken(
    ports: PortAllocator, listener: socket.socket
) -> None:
    taken = listener.getsockname()[1]
    with pytest.raises(Conflict, match=f"port {taken}/tcp on 127.0.0.1 is taken"):
        ports.reserve("t1", (tcp(80), tcp(81, taken, PublishMode.HOST)))
    listener.close()
    assert ports.reserve("t1", (tcp(81, taken, PublishMode.HOST),))[0].host_port == taken, "nothing was kept half"


def test_udp_and_tcp_are_different_ports(ports: PortAllocator) -> None:
    [tcp_binding] = ports.reserve("t1", (tcp(53),))
    same = Port(container_port=53, published_port=tcp_binding.host_port, protocol=Protocol.UDP, mode=PublishMode.HOST)
    assert ports.reserve("t2", (same,))[0].host_port == tcp_binding.host_port


def test_adopted_ports_are_not_given_away(ports: PortAllocator) -> None:
    binding = PortBinding(container_port=80, host_address=HOST, host_port=20_555)
    ports.adopt("old", (binding,))
    with pytest.raises(Conflict):
        ports.reserve("new", (tcp(80, 20_555, PublishMode.HOST),))
    assert ports.reserve("old", (tcp(),)) == (binding,)


def test_an_address_of_another_machine_is_said() -> None:
    with pytest.raises(Unavailable, match="is --advertise right"):
        PortAllocator("192.0.2.1", random.Random(1)).reserve("t1", (tcp(),))


# --- requests


def test_a_process_task_is_told_where_to_listen() -> None:
    bindings = (
        PortBinding(container_port=80, host_address=HOST, host_port=20_001),
        PortBinding(container_port=81, host_address=HOST, host_port=20_002),
    )
    container = Container(command=("serve", "${PORT}", "$${PORT}"), environment={"PORT": "1", "PODIUM_SLOT": "9"})
    request = request_of(assignment(container=container), 2, bindings, node_id="id", node_name="n1", address=HOST)
    environment = request.container.environment
    assert (environment["PORT"], environment["PODIUM_PORT_80"], environment["PODIUM_PORT_81"]) == (
        "20001",
        "20001",
        "20002",
    )
    assert environment["PODIUM_NODE_ADDRESS"] == HOST, "which address to listen on"
    assert environment["PODIUM_SLOT"] == "1", "a program must be able to trust what Podium says"
    assert request.container.command == ("serve", "20001", "${PORT}")
    assert request.identity.attempt == 2


def test_a_container_of_an_engine_listens_where_its_image_says() -> None:
    bindings = engine_bindings((tcp(80, 8080), tcp(81, 9090, PublishMode.HOST)), "10.0.0.1")
    assert [binding.host_port for binding in bindings] == [0, 9090]
    request = request_of(assignment(), 1, bindings, node_id="id", node_name="n1", address=HOST)
    assert "PORT" not in request.container.environment


def test_the_program_of_a_health_check() -> None:
    environment = {"PORT": "80"}
    assert probe_argv(HealthCheck(test=("CMD", "curl", "x:${PORT}")), environment) == ("curl", "x:80")
    assert probe_argv(HealthCheck(test=("CMD-SHELL", "x ${PORT}")), environment) == ("/bin/sh", "-c", "x ${PORT}")


# --- runtimes


def runtimes(engine: FakeEngine, observed: list[str] | None = None) -> Runtimes:
    note = observed if observed is not None else []

    def observe(operation: str, _seconds: float) -> None:
        note.append(operation)

    return Runtimes([FakeRuntime("n", engine)], AgentBounds(), observe, engine.clock)


async def test_a_runtime_is_refused_until_it_has_started_and_started_when_it_comes() -> None:
    engine, observed, answered = FakeEngine(lambda: 0.0), list[str](), list[str]()
    engine.away = "no socket"
    both = runtimes(engine, observed)
    both.on_answer(answered.append)
    await both.poll()
    assert [(status.ready, status.message) for status in both.statuses] == [(False, "no socket")]
    with pytest.raises(Unavailable, match="no socket"):
        await both.all()[0].list()
    engine.away = ""
    await both.poll()
    assert both.statuses[0].ready
    assert answered == ["fake"]
    await both.all()[0].list()
    assert observed.count("list") == 1


async def test_how_long_a_runtime_has_been_away_is_counted_from_the_first_answer_it_owed() -> None:
    now_s = [1_000.0]
    engine = FakeEngine(lambda: now_s[0])
    engine.away = "no socket"
    both = runtimes(engine)
    for now_s[0], engine.away in ((1_000.0, "no socket"), (1_060.0, "no answer")):
        await both.poll()
        assert both.statuses[0].since_s == 1_000.0
    assert both.statuses[0].problem == "does not answer since 1970-01-01T00:16:40Z: no answer"
    engine.away = ""
    await both.poll()
    assert (both.statuses[0].since_s, both.statuses[0].problem) == (0.0, "")
    now_s[0], engine.away = 2_000.0, "gone again"
    await both.poll()
    assert both.statuses[0].since_s == 2_000.0


@pytest.mark.parametrize("since_s", [0.0, -1.0, 1e300, float("nan"), float("inf")])
def test_a_time_that_no_calendar_has_is_left_out(since_s: float) -> None:
    status = RuntimeStatus(name="docker", ready=False, message="gone", since_s=since_s)
    assert status.problem == "does not answer: gone"


async def test_a_mistake_in_an_adapter_costs_a_repeat_only() -> None:
    engine = FakeEngine(lambda: 0.0)
    both = runtimes(engine)
    await both.poll()
    engine.prepare = lambda _container: [][1]  # type: ignore[misc]
    with pytest.raises(Unavailable, match="IndexError"):
        await both.all()[0].prepare(Container(image="x"), lambda _line: None)


def test_a_node_without_the_runtime_says_which_flag_is_missing() -> None:
    none = Runtimes([], AgentBounds(), lambda _operation, _seconds: None, lambda: 0.0)
    with pytest.raises(Invalid, match=r"image 'shop:1' needs the docker runtime.*--runtime docker"):
        none.of(Container(image="shop:1"))


# --- settings


def test_all_faults_of_the_settings_are_said_at_once() -> None:
    settings = AgentSettings(
        controllers=("10.0.0.1:7077", "n1"),
        data_dir="d",
        name="Bad_Name",
        runtimes=("podman",),
        advertise="0.0.0.0",
        http_listen="0.0.0.0:7079",
        docker_host="/var/run/docker.sock",
    )
    with pytest.raises(Invalid) as raised:
        settings.check()
    assert {fault.path for fault in raised.value.faults} == {
        "advertise",
        "controllers",
        "docker_host",
        "http_listen",
        "name",
        "runtimes",
    }
    assert "'n1' is not host:port with a port from 1 to 65535" in str(raised.value)
    assert "'Bad_Name' is not a name" in str(raised.value)
    assert "'0.0.0.0' means every address of this machine" in str(raised.value)
    assert "begins with one of unix://, tcp://" in str(raised.value)


def test_a_host_name_that_is_no_name_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "My_Laptop")
    with pytest.raises(Invalid, match=r"name: the host name: give another one with --name; 'my_laptop' is not a name"):
        AgentSettings(controllers=("127.0.0.1:7077",), data_dir="d").check()
    AgentSettings(controllers=("127.0.0.1:7077",), data_dir="d", name="n1.rack-2").check()


def test_the_bare_program_refuses_in_a_line_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data-dir", "d", "--runtime", "podman", "--labels", "zone=eu"]) == 2
    assert "runtimes: podman given; allowed are docker, process, fake" in capsys.readouterr().err
    assert main(["--data-dir", "d", "--device", "gpu", "--device", "gpu:count=0"]) == 2
    assert "device: 'gpu:count=0' has count 0" in capsys.readouterr().err


# --- the machine


def test_capacity_is_what_the_machine_has_or_what_the_operator_says() -> None:
    found = resources.capacity(cpus=0, memory_bytes=0)
    assert found.cpu_millis >= 100
    assert found.memory_bytes > 64 * 1024 * 1024
    assert resources.capacity(cpus=1.5, memory_bytes=7) == Resources(cpu_millis=1_500, memory_bytes=7)
    assert resources.attributes()["os"] == "linux"


def test_a_processor_is_described_by_its_model_features_and_level() -> None:
    second_level = "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"
    third_level = "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"
    lines = "processor\t: 0\nmodel name\t: Fast One\nflags\t\t: {}\n\nprocessor\t: 1\nmodel name\t: Other\n"
    assert resources.processor(lines.format(f"fpu {second_level} {third_level}")) == {
        "cpu.model": "Fast One",
        "cpu.level": "3",
        "cpu.avx": "yes",
        "cpu.avx2": "yes",
        "cpu.fma": "yes",
        "cpu.sse4_2": "yes",
    }
    assert resources.processor(lines.format(third_level))["cpu.level"] == "1"
    assert resources.processor("processor\t: 0\nFeatures\t: fp asimd sve\n") == {"cpu.asimd": "yes", "cpu.sve": "yes"}
    assert resources.processor("") == {}


def test_a_distribution_and_runtimes_are_described_as_far_as_they_say_something() -> None:
    assert resources.distribution({"ID": "debian", "VERSION_ID": "12"}) == {"os.name": "debian", "os.version": "12"}
    assert resources.distribution({"ID": "arch"}) == {"os.name": "arch"}
    answered, silent = RuntimeStatus(name="docker", version="20.10.24"), RuntimeStatus(name="fake")
    plain = RuntimeStatus(name="process", version="6.1")
    assert resources.versions((answered, silent, plain)) == {"docker.version": "20.10.24"}


def test_usage_is_measured() -> None:
    usage = resources.UsageMeter().read(tasks=3)
    assert usage.tasks == 3
    assert usage.memory_bytes > 0


# --- monitoring


async def test_probes_and_metrics() -> None:
    metrics = Metrics("1.2.3")
    checks = [Check(name="controller", good=True, text="registered")]

    async def scrape() -> bytes:
        return metrics.text()

    async with TestClient(TestServer(application(lambda: tuple(checks), scrape, guard()))) as client:
        assert (await client.get("/livez")).status == 200
        ready = await client.get("/readyz?verbose")
        assert (ready.status, await ready.text()) == (200, "[+] controller: registered\nok\n")
        checks.append(Check(name="runtime docker", good=False, text="no socket"))
        ready = await client.get("/readyz")
        assert (ready.status, await ready.text()) == (503, "[-] runtime docker: no socket\nnot ok\n")
        assert (await client.get("/healthz")).status == 503
        text = await (await client.get("/metrics")).text()
    assert 'podium_build_info{version="1.2.3"} 1.0' in text


def test_metrics_have_their_promised_names_and_forget_what_is_gone() -> None:
    metrics = Metrics("1")
    metrics.task_started(0.3)
    metrics.task_restarted()
    metrics.runtime_request("create", 0.1)
    metrics.traffic({"shop/web": 5}, {})
    metrics.traffic({"shop/web": 7}, {"shop/web": 30})
    metrics.traffic({"shop/web": 2}, {"shop/web": 40})
    seen = ContainerUsage(
        task_id="t1", namespace="shop", job="web", slot=1, usage=Usage(cpu_millis=500, memory_bytes=1_000)
    )
    metrics.containers((seen,), 10.0)
    text = metrics.text().decode()
    labels = '{job="web",namespace="shop",slot="1"}'
    for line in (
        "podium_task_start_seconds_count 1.0",
        "podium_task_restarts_total 1.0",
        'podium_runtime_request_seconds_count{op="create"} 1.0',
        'podium_proxy_connections_total{service="shop/web"} 9.0',
        'podium_proxy_requests_total{service="shop/web"} 40.0',
        f"container_cpu_usage_seconds_total{labels} 5.0",
        f"container_memory_usage_bytes{labels} 1000.0",
    ):
        assert line in text.splitlines()
    metrics.containers((), 10.0)
    assert "shop" not in metrics.text().decode().replace('service="shop/web"', "")


async def test_many_runtime_calls_at_once_are_each_timed() -> None:
    observed: list[str] = []
    both = runtimes(FakeEngine(lambda: 0.0), observed)
    await both.poll()
    await asyncio.gather(*(both.all()[0].list() for _ in range(5)))
    assert observed.count("list") == 5
