"""Routes, the PROXY protocol and slow starts in Compose files: what they become, and what is refused where."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.model.job import HttpRoute, Port, ProxyProtocol
from tests.compose_files import Workspace, service_file


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_a_route_goes_to_the_only_port_of_the_container(workspace: Workspace) -> None:
    spec = workspace.service("expose: [80]\nx-podium: {http: {host: Shop.Example.com}, slow_start: 30s}")
    assert spec.task.ports == (Port(container_port=80, http=(HttpRoute(host="shop.example.com"),)),)
    assert spec.task.slow_start_s == 30.0


def test_several_routes_and_a_port_that_only_they_name(workspace: Workspace) -> None:
    routes = "[{host: a.test, path: /x/, tls: cert, port: 81}, {host: b.test, port: 80}]"
    spec = workspace.service(f"ports: ['8080:80']\nx-podium: {{http: {routes}}}")
    first, second = spec.task.ports
    assert first == Port(container_port=80, published_port=8080, http=(HttpRoute(host="b.test"),))
    assert second == Port(container_port=81, http=(HttpRoute(host="a.test", path="/x", tls="cert"),))


@pytest.mark.parametrize(("written", "protocols"), [("v2", ["v2", "v2", "none"]), ("{25: v1}", ["v1", "none", "none"])])
def test_the_proxy_protocol_of_all_published_tcp_ports_or_of_one(
    workspace: Workspace, written: str, protocols: list[str]
) -> None:
    spec = workspace.service(f"ports: ['25:25', '80:80', '53:53/udp']\nx-podium: {{proxy_protocol: {written}}}")
    assert [port.proxy_protocol for port in spec.task.ports] == [ProxyProtocol(name) for name in protocols]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("http: {path: /x}", "x-podium.http: host is missing"),
        ("http: {host: a.test, port: 0}", "x-podium.http.port"),
        ("http: {host: 'a.test:80', port: 80}", "'a.test:80' is not a host name"),
        ("http: {host: '*.test', port: 80}", "is not a host name"),
        ("http: {host: a.test, port: 80, path: shop}", "'shop' is not a path"),
        ("http: {host: a.test, port: 80, path: '/x y'}", "is not a path"),
        ("http: {host: a.test, port: 80, tls: ../key}", "is not a name"),
        ("http: {host: a.test}", "several TCP ports, so say which one"),
        ("http: [{host: a.test, port: 80}, {host: a.test, port: 81}]", "requests for a.test/ are routed already"),
        ("http: {host: a.test, port: 80, cert: x}", "x-podium.http.cert: is not a key of a route"),
        ("proxy_protocol: v3", "x-podium.proxy_protocol"),
        ("proxy_protocol: {443: v1}", "publishes no TCP port 443"),
        ("slow_start: soon", "x-podium.slow_start"),
    ],
)
def test_what_cannot_be_meant_is_refused_where_it_stands(workspace: Workspace, written: str, said: str) -> None:
    faults = workspace.faults(service_file(f"ports: ['80:80', '81:81']\nx-podium: {{{written}}}"))
    assert said in "\n".join(faults)


def test_two_services_with_one_route_are_refused_naming_the_other(workspace: Workspace) -> None:
    service = "{image: a, expose: [80], x-podium: {http: {host: a.test}}}"
    (fault,) = workspace.faults(f"services:\n  one: {service}\n  two: {service}\n")
    assert "requests for a.test/ are routed already by services.one.x-podium.http" in fault


def test_a_certificate_is_a_secret_made_by_name_and_not_one_that_comes_with_the_file(workspace: Workspace) -> None:
    served = "expose: [80]\nx-podium: {http: {host: a.test, tls: cert}}"
    for section, name in (("", "cert"), ("secrets: {cert: {external: true, name: wild}}", "wild")):
        (spec,) = workspace.load(f"{service_file(served)}{section}\n").specs
        assert spec.task.ports[0].http == (HttpRoute(host="a.test", tls=name),)
        assert spec.task.container.assets == ()
    project = workspace.load(f"{service_file(served)}secrets: {{cert: {{external: true, name: wild}}}}\n")
    assert [(asset.path, asset.name, asset.content) for asset in project.assets] == [("secrets.cert", "wild", None)]
    (fault,) = workspace.faults(f"{service_file(served)}secrets: {{cert: {{file: cert.pem}}}}\n")
    assert "podium secret create cert FILE" in fault
    assert fault.startswith("compose.yaml:5: services.web.x-podium.http.tls")
