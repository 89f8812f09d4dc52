"""Where published traffic goes, and when a task that left it may be stopped."""

from __future__ import annotations

import msgspec
import pytest

from agent.network.interface import listeners_of
from common.model.endpoint import Service
from common.model.epoch import Epoch
from common.model.job import DesiredState, HealthCheck, HttpRoute, Port, ProxyProtocol, PublishMode
from common.model.node import Node, NodeCondition, NodeStatus
from common.model.task import Health, PortBinding, TaskState, TaskStatus
from controller.core.endpoints import Relay, drain_s, first_revision, gated, has_let_go, reach, services_of
from controller.state import State
from controller.store.keys import Record
from tests.dispatcher_rig import NOW_S, STOPPING, description, job_records, running_status, task_of, web_spec

NODES = [Node(id=name, description=description(name)) for name in ("n1", "n2")]


def services(*records: Record, **statuses: NodeStatus) -> tuple[Service, ...]:
    conditions = {name: NodeCondition(node_id=name, status=status) for name, status in statuses.items()}
    return services_of(State.of((*NODES, *records)), conditions)


def answering(*records: Record, **statuses: NodeStatus) -> list[str]:
    """Ids of the tasks behind the one published port."""
    (service,) = services(*records, **statuses)
    return [endpoint.task_id for endpoint in service.endpoints]


def running(task_id: str = "t1", **fields: object) -> Record:
    return task_of(task_id, **{"status": running_status(), **fields})


WEB = job_records(web_spec())


def test_a_running_task_answers_for_its_published_port() -> None:
    (service,) = services(*WEB, running())
    assert (service.key, service.job_name, service.container_port) == ("8080/tcp", "shop/web", 80)
    (endpoint,) = service.endpoints
    assert (endpoint.address, endpoint.port, endpoint.node_id) == ("10.0.0.1", 30_000, "n1")


@pytest.mark.parametrize(
    ("address", "listens"), [("10.0.0.5", "127.0.0.1"), ("127.0.0.31", "127.0.0.31"), ("node.test", "127.0.0.1")]
)
def test_a_port_for_each_nodes_own_programs_is_on_its_loopback(address: str, listens: str) -> None:
    spec = web_spec()
    ports = tuple(msgspec.structs.replace(port, loopback=True) for port in spec.task.ports)
    local = msgspec.structs.replace(spec, task=msgspec.structs.replace(spec.task, ports=ports))
    (service,) = services(*job_records(local), running())
    assert service.loopback
    assert [listener.address for listener in listeners_of(address, (service,))] == [listens]
    everywhere = msgspec.structs.replace(service, loopback=False)
    assert [listener.address for listener in listeners_of(address, (everywhere,))] == [address]


@pytest.mark.parametrize("address", ["", "0.0.0.0", "::"])
def test_a_task_that_listens_everywhere_is_reached_at_its_node(address: str) -> None:
    (service,) = services(*WEB, running(node_id="n2", status=running_status(address=address)))
    assert service.endpoints[0].address == "10.0.0.2"


def test_endpoints_are_ordered_by_slot_and_task() -> None:
    tasks = [running("c", slot=2), running("b"), running("a", slot=2)]
    assert answering(*WEB, *tasks) == ["b", "a", "c"]


@pytest.mark.parametrize(
    "unfit",
    [
        {"desired": DesiredState.STOP},
        {"status": TaskStatus(attempt=1, state=TaskState.STARTING)},
        {"status": TaskStatus(attempt=1, state=TaskState.RESTARTING, ports=running_status().ports)},
        {"status": running_status(health=Health.UNHEALTHY)},
        {"status": running_status(health=Health.STARTING)},
        {"status": msgspec.structs.replace(running_status(), ports=())},
        {"status": running_status(port=0)},
    ],
)
def test_a_task_that_cannot_or_should_not_answer_is_left_out(unfit: dict[str, object]) -> None:
    assert answering(*WEB, running("t1", **unfit), running("t2", slot=2)) == ["t2"]
    assert answering(*WEB, running("t1", **unfit)) == []


def test_with_a_health_check_only_a_healthy_task_answers() -> None:
    checked = job_records(web_spec(health_check=HealthCheck(test=("CMD", "true"))))
    assert answering(*checked, running()) == []
    assert answering(*checked, running(status=running_status(health=Health.HEALTHY))) == ["t1"]


@pytest.mark.parametrize("status", [NodeStatus.UNREACHABLE, NodeStatus.DOWN])
def test_a_silent_nodes_tasks_leave_while_others_answer(status: NodeStatus) -> None:
    tasks = [running("t1"), running("t2", slot=2, node_id="n2")]
    assert answering(*WEB, *tasks, n1=status) == ["t2"]
    assert answering(*WEB, *tasks, n1=NodeStatus.DISCONNECTED) == ["t1", "t2"]


def test_silence_alone_never_takes_the_last_ones() -> None:
    tasks = [running("t1"), running("t2", slot=2, node_id="n2")]
    assert answering(*WEB, *tasks, n1=NodeStatus.DOWN, n2=NodeStatus.UNREACHABLE) == ["t1", "t2"]


def test_a_lost_task_stays_until_its_replacement_answers() -> None:
    lost = running("t1", lost_at_s=NOW_S)
    starting = task_of("t2", node_id="n2", status=TaskStatus(attempt=1, state=TaskState.STARTING))
    assert answering(*WEB, lost, starting, n1=NodeStatus.DOWN) == ["t1"]
    assert answering(*WEB, lost, running("t2", node_id="n2"), n1=NodeStatus.DOWN) == ["t2"]


def test_a_task_that_is_to_stop_is_no_last_resort() -> None:
    assert answering(*WEB, running(desired=DesiredState.STOP), n1=NodeStatus.DOWN) == []


def test_an_unknown_node_is_not_a_silent_one() -> None:
    assert answering(*WEB, running("t1"), running("t2", slot=2, node_id="n9")) == ["t1", "t2"]


@pytest.mark.parametrize(
    "port", [Port(container_port=80), Port(container_port=80, published_port=8080, mode=PublishMode.HOST)]
)
def test_ports_that_are_not_published_on_every_node_are_for_other_jobs_only(port: Port) -> None:
    (service,) = services(*job_records(web_spec(ports=(port,))), running())
    assert (service.inner, service.key, service.listens) == (True, "/shop/web:80/tcp", "port 80/tcp of shop/web")
    assert [endpoint.task_id for endpoint in service.endpoints] == ["t1"]


def test_a_port_that_is_published_too_needs_no_service_of_its_own_for_other_jobs() -> None:
    ports = (Port(container_port=80), Port(container_port=80, published_port=8080), Port(container_port=80))
    assert [service.key for service in services(*job_records(web_spec(ports=ports)))] == ["8080/tcp"]


def test_a_routed_port_is_reached_by_other_jobs_beside_its_route() -> None:
    routed = Port(container_port=80, http=(HttpRoute(host="a.example"), HttpRoute(host="b.example")))
    keys = [service.key for service in services(*job_records(web_spec(ports=(routed,))))]
    assert keys == ["/shop/web:80/tcp", "a.example/", "b.example/"]


def test_the_names_of_a_job_go_along() -> None:
    named = msgspec.structs.replace(web_spec(), aliases=("www",))
    assert services(*job_records(named))[0].aliases == ("www",)


def test_a_published_port_is_there_before_anyone_answers() -> None:
    assert answering(*WEB) == []


def test_during_a_rollout_each_task_answers_with_its_own_container_port() -> None:
    moved = web_spec(ports=(Port(container_port=81, published_port=8080),))
    job, new = job_records(moved, version=2)
    _, old = WEB
    binding = PortBinding(container_port=81, host_address="10.0.0.2", host_port=31_000)
    status = msgspec.structs.replace(running_status(), ports=(binding,))
    (service,) = services(job, old, new, running("t1"), running("t2", version=2, node_id="n2", status=status))
    assert service.container_port == 81
    assert [(one.task_id, one.port) for one in service.endpoints] == [("t1", 30_000), ("t2", 31_000)]


def test_a_stopped_job_keeps_its_port_while_a_task_still_runs() -> None:
    job, version = job_records(web_spec(), desired=DesiredState.STOP)
    stopping = running(desired=DesiredState.STOP)
    assert answering(job, version, stopping) == []
    ended = task_of("t1", desired=DesiredState.STOP, status=TaskStatus(attempt=1, state=TaskState.STOPPED))
    assert services(job, version, ended) == ()


def test_a_port_goes_to_the_running_job_before_one_that_drains() -> None:
    leaving, version = job_records(web_spec("old"), desired=DesiredState.STOP, removed=True)
    last = running("t1", job="old", desired=DesiredState.STOP)
    (service,) = services(leaving, version, last, *job_records(web_spec("new"), created_at_s=9.0))
    assert service.job == "new"


def test_revisions_rise_over_terms_and_restores() -> None:
    epochs = [Epoch(term=1), Epoch(term=2), Epoch(term=90_000), Epoch(generation=1, term=1)]
    firsts = [first_revision(epoch) for epoch in epochs]
    assert firsts == sorted(firsts)
    assert firsts[1] - firsts[0] > 1_000_000
    assert first_revision(Epoch(generation=100, term=1 << 31)) < 1 << 63


@pytest.mark.parametrize(
    ("relay", "let_go"),
    [
        (Relay(revision=5), True),
        (Relay(revision=6), True),
        (Relay(revision=4), False),
        (Relay(revision=5, draining=frozenset({"t1"})), False),
        (Relay(revision=5, draining=frozenset({"t2"})), True),
    ],
)
def test_a_node_has_let_go_when_it_applied_the_withdrawal_and_its_connections_ended(relay: Relay, let_go: bool) -> None:
    assert has_let_go(relay, "t1", 5) is let_go


@pytest.mark.parametrize(
    ("grace_s", "now_s", "waits_s"),
    [
        (3.0, NOW_S, 3.0),
        (60.0, NOW_S, 60.0),
        (60.0, NOW_S + 4, 56.0),
        (60.0, NOW_S + 61, 0.0),
        (60.0, NOW_S - 500, 60.0),  # dated by a clock ahead of ours
        (0.0, NOW_S, 0.0),
    ],
)
def test_a_stop_waits_no_longer_than_its_grace(grace_s: float, now_s: float, waits_s: float) -> None:
    spec = web_spec()
    container = msgspec.structs.replace(spec.task.container, stop_grace_s=grace_s)
    spec = msgspec.structs.replace(spec, task=msgspec.structs.replace(spec.task, container=container))
    assert drain_s(task_of("t1", **STOPPING), spec, now_s) == waits_s


ROUTE = HttpRoute(host="shop.example.com", path="/cart", tls="shop")


def test_a_route_is_a_service_of_its_own_beside_the_published_port() -> None:
    port = Port(container_port=80, published_port=8080, http=(ROUTE,), proxy_protocol=ProxyProtocol.V2)
    by_route, by_port = services(*job_records(web_spec(ports=(port,), slow_start_s=5.0)), running())
    assert (by_route.key, by_route.http, by_route.published_port) == ("shop.example.com/cart", ROUTE, 0)
    assert by_route.proxy_protocol is ProxyProtocol.NONE  # the client's address is in a header of the request
    assert (by_port.key, by_port.http, by_port.proxy_protocol) == ("8080/tcp", None, ProxyProtocol.V2)
    assert by_route.endpoints == by_port.endpoints
    assert by_route.slow_start_s == by_port.slow_start_s == 5.0


def test_a_task_that_only_a_route_leads_to_is_withdrawn_before_its_stop() -> None:
    spec = web_spec(ports=(Port(container_port=80, http=(ROUTE,)),))
    assert gated(task_of("t1", status=running_status()), spec)


def test_the_endpoints_depend_on_a_task_that_runs_and_has_a_port_of_its_spec_or_its_image() -> None:
    spec = web_spec()
    bare = msgspec.structs.replace(spec, task=msgspec.structs.replace(spec.task, ports=()))
    portless = running(status=msgspec.structs.replace(running_status(), ports=()))
    assert reach(State.of((*WEB, portless)), portless) is not None
    state = State.of((*job_records(bare), portless))
    assert reach(state, portless) is None
    assert reach(state, running()) is not None
    assert reach(state, running(status=TaskStatus(state=TaskState.STARTING))) is None
    assert reach(state, None) is None
