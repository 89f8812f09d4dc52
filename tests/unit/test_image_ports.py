"""Ports that only an image declares: who learns of them, when, and for how long they give their job a name."""

from __future__ import annotations

import msgspec
import pytest

from agent.container_request import reachable_ports
from agent.runtime.docker_answers import ImageConfig
from agent.runtime.docker_request import declared_ports
from agent.runtime.fake import Preparation
from common.model.endpoint import Service
from common.model.job import Container, DesiredState, Job, JobMode, JobSpec, JobVersion, Port, Protocol, PublishMode
from common.model.node import Node
from common.model.privileges import Privileges
from common.model.task import Health, PortBinding, Task, TaskReport, TaskState, TaskStatus
from common.settings import LIMITS
from controller.core.endpoints import gated, services_of
from controller.core.image_ports import has_image_ports, learned
from controller.dispatcher.assignments import AssignmentSet
from controller.dispatcher.statuses import status_changes
from controller.state import State
from tests.agent_builders import assignment
from tests.agent_rig import Machine, orders
from tests.dispatcher_rig import NOW_S, STOPPING, description, job_records, task_of, web_spec
from tests.virtual_time import on_virtual_time

DB = web_spec("db", ports=())
SQL, ADMIN = Port(container_port=5432), Port(container_port=9000)


def bound(*ports: int, protocol: Protocol = Protocol.TCP) -> tuple[PortBinding, ...]:
    return tuple(
        PortBinding(container_port=port, host_address="10.0.0.1", host_port=30_000 + port % 1000, protocol=protocol)
        for port in ports
    )


def status(*ports: int, state: TaskState = TaskState.RUNNING, sequence: int = 3) -> TaskStatus:
    return TaskStatus(attempt=1, state=state, sequence=sequence, ports=bound(*ports))


def task(task_id: str = "t1", *ports: int, **fields: object) -> Task:
    return task_of(task_id, job="db", **{"status": status(*ports), **fields})


def version(number: int) -> JobVersion:
    return JobVersion(job_id="id-db", version=number, spec=DB)


def job(number: int = 1, **fields: object) -> Job:
    return job_records(DB, version=number, **fields)[0]


def reported(state: State, task_id: str, seen: TaskStatus) -> State:
    for group in status_changes(state, [("n1", TaskReport(task_id=task_id, status=seen))], NOW_S):
        for change in group:
            state.apply(change)
    return state


def offered(state: State) -> dict[str, list[str]]:
    return {service.key: [one.task_id for one in service.endpoints] for service in services_of(state, {})}


@pytest.fixture
def machine() -> Machine:
    return Machine()


def state_of(*records: Job | JobVersion | Task) -> State:
    return State.of((Node(id="n1", description=description("n1")), *records))


# --- what the controller makes of reports


def test_a_port_that_the_image_declares_gives_the_job_a_name() -> None:
    state = reported(state_of(job(), version(1), task_of("t1", job="db")), "t1", status(5432))
    (service,) = services_of(state, {})
    assert service == Service(namespace="shop", job="db", container_port=5432, endpoints=service.endpoints)
    assert service.inner, "nothing outside reaches it"
    assert [(one.task_id, one.address, one.port) for one in service.endpoints] == [("t1", "10.0.0.1", 30_432)]


def test_before_any_task_ran_nobody_knows_the_port() -> None:
    state = reported(state_of(job(), version(1), task_of("t1", job="db")), "t1", status(state=TaskState.PREPARING))
    assert offered(state) == {}
    assert state.jobs["id-db"].image_ports_of == 0


def test_the_name_stays_while_no_task_runs() -> None:
    state = reported(state_of(job(), version(1), task("t1")), "t1", status(5432, sequence=4))
    state = reported(state, "t1", status(5432, state=TaskState.RESTARTING))
    assert offered(state) == {"/shop/db:5432/tcp": []}
    assert offered(state_of(state.jobs["id-db"], version(1))) == {"/shop/db:5432/tcp": []}


def test_it_goes_with_the_job() -> None:
    known = {"image_ports": (SQL,), "image_ports_of": 1}
    assert offered(state_of(job(desired=DesiredState.STOP, **known), version(1))) == {}
    assert offered(state_of(job(removed=True, **known), version(1))) == {}


def test_the_same_report_writes_the_job_no_second_time() -> None:
    state = reported(state_of(job(), version(1), task_of("t1", job="db")), "t1", status(5432))
    groups = status_changes(state, [("n1", TaskReport(task_id="t1", status=status(5432, sequence=9)))], NOW_S)
    assert [type(change.record) for group in groups for change in group] == [Task]


def test_a_job_whose_image_declares_nothing_is_never_written() -> None:
    before = job()
    assert learned(before, task("t1"), DB) is before


def test_what_tasks_of_one_version_say_is_put_together() -> None:
    first = learned(job(), task("t1", 9000), DB)
    both = learned(first, task("t2", 5432), DB)
    assert (both.image_ports, both.image_ports_of) == ((SQL, ADMIN), 1)
    assert learned(both, task("t1", 9000), DB) is both


def test_in_a_rollout_each_task_answers_at_the_ports_of_its_own_image() -> None:
    old = [task("old", 5432), task("both", 5432, 9000, slot=2)]
    state = state_of(job(2, image_ports=(SQL,), image_ports_of=1), version(1), version(2), *old)
    assert offered(state) == {"/shop/db:5432/tcp": ["old", "both"], "/shop/db:9000/tcp": ["both"]}
    late = task("new", version=2, status=TaskStatus(attempt=1, state=TaskState.STARTING))
    state = reported(state_of(*state.jobs.values(), version(1), version(2), *old, late), "new", status())
    assert offered(state)["/shop/db:5432/tcp"] == ["old", "both"]
    state = reported(state, "new", status(9000, sequence=4))
    assert state.jobs["id-db"].image_ports == (ADMIN,)
    assert offered(state) == {"/shop/db:5432/tcp": ["old", "both"], "/shop/db:9000/tcp": ["new", "both"]}


def test_the_ports_before_stand_in_until_a_task_of_the_new_version_runs() -> None:
    known = job(2, image_ports=(SQL,), image_ports_of=1)
    assert offered(state_of(known, version(1), version(2))) == {"/shop/db:5432/tcp": []}
    assert learned(known, task("t1", version=1), DB) is known, "an old one's word is over"
    assert learned(known, task("t1", version=2, status=status(state=TaskState.STARTING)), DB) is known
    renamed = learned(known, task("t1", version=2), DB)
    assert (renamed.image_ports, renamed.image_ports_of) == ((), 2)


def test_a_port_of_the_file_is_no_second_one_of_the_image() -> None:
    published = web_spec("db", ports=(Port(container_port=5432, published_port=15432),))
    record = JobVersion(job_id="id-db", version=1, spec=published)
    state = state_of(job(image_ports=(SQL,), image_ports_of=1), record, task("t1", 5432, 9000))
    assert offered(state) == {"/shop/db:9000/tcp": ["t1"], "15432/tcp": ["t1"]}


def test_one_that_others_reach_is_withdrawn_before_its_stop() -> None:
    assert gated(task("t1", 5432, **STOPPING), DB)
    assert not gated(task("t1", **STOPPING), DB)


# --- what an agent may claim


def test_an_agent_claims_no_more_than_a_few_and_no_odd_ones() -> None:
    many = status(*range(1, 100), 0, 70_000)
    state = reported(state_of(job(), version(1), task_of("t1", job="db")), "t1", many)
    assert [one.container_port for one in state.tasks["t1"].status.ports] == list(range(1, LIMITS.image_ports + 1))
    assert all(service.inner for service in services_of(state, {}))
    more = learned(state.jobs["id-db"], task("t2", *range(200, 210)), DB)
    assert more is state.jobs["id-db"]


@pytest.mark.parametrize(
    "spec",
    [
        msgspec.structs.replace(DB, mode=JobMode.BATCH),
        web_spec("db", ports=(), container=Container(command=("serve",))),
        web_spec("db", ports=(), container=Container(image="a", privileges=Privileges(host_network=True))),
    ],
)
def test_what_is_not_called_by_its_images_ports_may_claim_none(spec: JobSpec) -> None:
    assert not has_image_ports(spec)
    state = state_of(*job_records(spec), task_of("t1", job="db"))
    assert reported(state, "t1", status(5432)).tasks["t1"].status.ports == ()
    assert not next(iter(AssignmentSet(state, "n1", lambda _: False).complete().assignments)).image_ports


# --- the agent


def test_ports_are_read_off_an_image() -> None:
    config = msgspec.json.decode(
        b'{"ExposedPorts": {"8080": {}, "53/udp": {}, "53/tcp": {}, "9/sctp": {}, "0/tcp": {}, "x/tcp": {}}}',
        type=ImageConfig,
    )
    assert [(port.container_port, port.protocol.value) for port in declared_ports(config)] == [
        (53, "tcp"),
        (53, "udp"),
        (8080, "tcp"),
    ]
    assert declared_ports(ImageConfig()) == ()


def test_of_an_image_with_thousands_the_first_few_count() -> None:
    order = msgspec.structs.replace(assignment(ports=(ADMIN,)), image_ports=True)
    declared = tuple(Port(container_port=number) for number in (9000, *range(10_000, 20_000)))
    assert reachable_ports(order, declared) == (ADMIN, *declared[1 : LIMITS.image_ports + 1])
    assert reachable_ports(assignment(ports=(ADMIN,)), declared) == (ADMIN,), "not asked for"


@on_virtual_time
async def test_a_task_is_reachable_at_the_ports_of_its_image(machine: Machine) -> None:
    machine.engine.prepare = lambda _container: Preparation(ports=(SQL, ADMIN))
    host = Port(container_port=9000, published_port=9001, mode=PublishMode.HOST)
    order = msgspec.structs.replace(assignment(ports=(host,)), image_ports=True)
    machine.controller.first = orders(order)
    async with machine.running() as controller:
        seen = await controller.until_state("t1", TaskState.RUNNING)
    assert [(one.container_port, one.host_port > 0) for one in seen.ports] == [(9000, True), (5432, True)]
    assert seen.ports[0].host_port == 9001, "as its file has it"
    assert seen.health is Health.NONE
