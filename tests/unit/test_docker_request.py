"""What is asked of an engine for a request, what is read back from it, and what its errors mean to us."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.docker_answers import PullLine
from agent.runtime.docker_engine import LeftOver, error_for
from agent.runtime.docker_pull import LayerCount
from agent.runtime.docker_request import bindings_of, configuration, container_name, identity_labels, identity_of
from agent.runtime.interface import ContainerIdentity, ContainerRequest
from common.errors import Conflict, Invalid, NotFound, PodiumError, Unavailable
from common.model.device import DeviceGrant
from common.model.job import Container, EngineOptions, Protocol
from common.model.resources import Resources
from common.model.task import PortBinding

IDENTITY = ContainerIdentity(
    node_id="n1", task_id="0123456789abcdefghjk", attempt=2, namespace="shop", job="web", slot=3
)
PLAIN = ContainerRequest(identity=IDENTITY, container=Container(image="shop:1"))


def test_the_name_says_whose_it_is() -> None:
    assert container_name(IDENTITY) == "podium-shop-web-3-01234567-2"


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_any_name_is_one_the_engine_accepts(namespace: str, task_id: str) -> None:
    identity = msgspec.structs.replace(IDENTITY, namespace=namespace, task_id=task_id)
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", container_name(identity))


def test_identity_survives_its_labels_and_others_have_none() -> None:
    assert identity_of(identity_labels(IDENTITY)) == IDENTITY
    assert identity_of({}) is None
    assert identity_of({**identity_labels(IDENTITY), "podium.attempt": "two"}) is None


def test_our_labels_win_over_the_jobs() -> None:
    container = Container(image="shop:1", labels={"podium.node": "elsewhere", "team": "tills"})
    labels = configuration(msgspec.structs.replace(PLAIN, container=container))["Labels"]
    assert isinstance(labels, dict)
    assert (labels["podium.node"], labels["team"]) == ("n1", "tills")


def test_what_is_not_given_is_left_to_the_image() -> None:
    body = configuration(PLAIN)
    assert body.keys().isdisjoint({"Cmd", "Entrypoint", "User", "WorkingDir", "Hostname"})
    host = body["HostConfig"]
    assert isinstance(host, dict)
    assert host.keys() == {"PortBindings", "RestartPolicy", "LogConfig", "CapDrop", "SecurityOpt"}
    assert host["RestartPolicy"] == {"Name": "no"}


def test_limits_leave_no_swap_and_may_exceed_the_machine() -> None:
    host = configuration(msgspec.structs.replace(PLAIN, limits=Resources(cpu_millis=2500, memory_bytes=1 << 30)))
    limits = host["HostConfig"]
    assert isinstance(limits, dict)
    assert (limits["Memory"], limits["MemorySwap"]) == (1 << 30, 1 << 30)
    assert (limits["CpuPeriod"], limits["CpuQuota"]) == (100_000, 250_000)
    tiny = configuration(msgspec.structs.replace(PLAIN, limits=Resources(cpu_millis=1)))["HostConfig"]
    assert isinstance(tiny, dict)
    assert tiny["CpuQuota"] == 1_000


def test_the_engine_is_asked_for_gpus_that_it_can_know_and_for_no_others() -> None:
    def asked(*grants: DeviceGrant) -> object:
        host = configuration(msgspec.structs.replace(PLAIN, devices=grants))["HostConfig"]
        assert isinstance(host, dict)
        return host.get("DeviceRequests")

    found = (DeviceGrant(kind="gpu", id="GPU-7f0e"), DeviceGrant(kind="gpu", id="GPU-8a1b", share_millis=500))
    other = (DeviceGrant(kind="gpu", id="0"), DeviceGrant(kind="fpga", id="GPU-9"))
    assert asked(*found, *other) == [
        {"Driver": "nvidia", "DeviceIDs": ["GPU-7f0e", "GPU-8a1b"], "Capabilities": [["gpu"]]}
    ]
    assert asked(*other) is None, "any engine can run a task with declared units"


def test_ports_are_bound_where_they_are_asked_for() -> None:
    bindings = (
        PortBinding(container_port=80, host_address="10.0.0.1", host_port=0),
        PortBinding(container_port=53, host_address="10.0.0.1", host_port=5353, protocol=Protocol.UDP),
    )
    body = configuration(msgspec.structs.replace(PLAIN, bindings=bindings))
    host = body["HostConfig"]
    assert isinstance(host, dict)
    assert body["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    assert host["PortBindings"] == {
        "80/tcp": [{"HostIp": "10.0.0.1", "HostPort": ""}],
        "53/udp": [{"HostIp": "10.0.0.1", "HostPort": "5353"}],
    }


def test_bindings_are_read_back() -> None:
    ports = {
        "80/tcp": [{"HostIp": "10.0.0.1", "HostPort": "32768"}],
        "53/udp": [{"HostIp": "10.0.0.1", "HostPort": "5353"}],
        "9/tcp": None,
        "9/sctp": [{"HostIp": "10.0.0.1", "HostPort": "9"}],
    }
    assert bindings_of(ports) == (
        PortBinding(container_port=53, host_address="10.0.0.1", host_port=5353, protocol=Protocol.UDP),
        PortBinding(container_port=80, host_address="10.0.0.1", host_port=32768),
    )
    assert bindings_of(None) == ()


@pytest.mark.parametrize(
    "change", [{"image": "a/../b"}, {"image": ""}, {"stop_signal": "SIGNONE"}, {"tmpfs": ("relative:size=1m",)}]
)
def test_what_the_engine_must_not_see_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        configuration(msgspec.structs.replace(PLAIN, container=msgspec.structs.replace(PLAIN.container, **change)))


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (404, "No such container: x", NotFound),
        (409, "Conflict. The container name is in use", Conflict),
        (400, "invalid mount", Invalid),
        (500, "unable to find user foo: no matching entries in passwd file", Invalid),
        (500, 'could not select device driver "nvidia" with capabilities: [[gpu]]', Invalid),
        (500, "driver failed ...: Bind for 0.0.0.0:80 failed: port is already allocated", Conflict),
        (500, "listen tcp4 127.0.0.1:80: bind: address already in use", Conflict),
        (500, 'Get "https://r.example/v2/": dial tcp: lookup r.example: no such host', Unavailable),
        (0, "manifest unknown: manifest unknown", NotFound),
        (0, "pull access denied for x, repository does not exist or may require 'docker login'", NotFound),
        (0, "toomanyrequests: You have reached your pull rate limit", Unavailable),
        (500, "no space left on device", Unavailable),
        (409, "id already in use", LeftOver),
        (500, f"task {'0a' * 32}: already exists", LeftOver),
        (500, "endpoint with name x already exists in network y", Unavailable),
        (503, "", Unavailable),
    ],
)
def test_the_engines_errors_are_sorted_by_what_can_be_done(status: int, message: str, kind: type[PodiumError]) -> None:
    assert type(error_for(status, message)) is kind


def test_a_pull_is_told_in_few_lines() -> None:
    count = LayerCount("shop:1")
    given = [
        PullLine(status="Pulling from library/shop", id="1"),
        PullLine(status="Pulling fs layer", id="aa"),
        PullLine(status="Downloading", id="aa"),
        PullLine(status="Already exists", id="bb"),
        PullLine(status="Pull complete", id="aa"),
        PullLine(status="Digest: sha256:00"),
    ]
    assert [text for line in given if (text := count.advance(line))] == [
        "pulling shop:1: 0 of 1 layers",
        "pulling shop:1: 1 of 2 layers",
        "pulling shop:1: 2 of 2 layers",
    ]


def test_a_container_asks_its_node_for_names() -> None:
    engine = EngineOptions(dns_search=("a.example",), dns_options=("ndots:2",))
    container = Container(image="shop:1", engine=engine)
    alone = msgspec.structs.replace(PLAIN, container=container)
    asking = msgspec.structs.replace(alone, resolver="198.18.0.1", search=("shop.podium", "podium", "a.example"))
    host = configuration(asking)["HostConfig"]
    assert isinstance(host, dict)
    assert (host["Dns"], host["DnsSearch"]) == (["198.18.0.1"], ["shop.podium", "podium", "a.example"])
    assert host["DnsOptions"] == ["ndots:2"]
    host = configuration(alone)["HostConfig"]
    assert isinstance(host, dict)
    assert (host.get("Dns"), host["DnsSearch"]) == (None, ["a.example"])
