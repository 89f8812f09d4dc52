"""The worst days, on real hosts: controllers, etcd members, agents, cables and disks fail under an application at work.

One cluster of three hosts runs through the whole file, and one application with it. After each fault the cluster is
mended and has to be at rest: every slot runs once, the engines run what the controller knows of and nothing else.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
import pytest

from client.client import Client
from common.model.api import JobDetail, NodeView, ScaleTarget, TaskView
from common.model.job import (
    Constraint,
    ConstraintOperator,
    Container,
    HealthCheck,
    JobMode,
    JobSpec,
    Placement,
    Port,
    TaskSpec,
)
from common.model.node import NodeStatus
from tests.cluster.hosts import AGENTS, DOORS, STORE, Host, Hosts
from tests.cluster.load import Load, load
from tests.cluster.machine import require_machines, until_async
from tests.cluster.processes import healthy, live
from tests.docker_images import TEST_IMAGE, ensure_image, require_docker
from tests.etcd import require_etcd

pytestmark = [pytest.mark.docker, pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(300)]

NAMESPACE, WEB, PORT = "shop", "web", 8080
ALONE = "alone"
SERVE = """
mkdir -p /tmp/www
echo "web.$PODIUM_SLOT v$VERSION" >/tmp/www/index.html
trap 'exit 0' TERM
httpd -f -p 80 -h /tmp/www & wait
"""
DOWN_S = 8
"""Silence after which a node is replaced: on a busy machine, what is to be back before takes a while."""
SELF_S, LOST_S = 6, 21
"""Of exclusive tasks: as close together as the default stop grace allows."""
CALLER = "caller"
NAMES = ("web", "1.web.shop.podium", "2.web.shop.podium", "3.web.shop.podium")
CALL = f"""
while :; do
    for name in {" ".join(NAMES)}; do
        echo "$name $(timeout 5 wget -q -O - "http://$name/" || echo FAILED)"
    done
    sleep 0.1
done
"""
FAKES = ("f1", "f2")
"""Agents without an engine on the host `edge`."""


def web(version: int = 1) -> JobSpec:
    check = HealthCheck(test=("CMD", "wget", "-q", "-O", "-", "http://127.0.0.1/"), interval_s=1.0)
    container = Container(
        image=TEST_IMAGE, command=("sh", "-c", SERVE), environment={"VERSION": str(version)}, stop_grace_s=5.0
    )
    real = Constraint(attribute="node.labels.fake", operator=ConstraintOperator.NOT_EQUAL, value="yes")
    task = TaskSpec(
        container=container,
        ports=(Port(container_port=80, published_port=PORT),),
        health_check=check,
        placement=Placement(constraints=(real,)),
    )
    return JobSpec(namespace=NAMESPACE, name=WEB, replicas=3, task=task)


def caller() -> JobSpec:
    """On every host with an engine: it asks for all names of the application all the time, and prints the answers."""
    container = Container(image=TEST_IMAGE, command=("sh", "-c", CALL), stop_grace_s=0.0)
    task = msgspec.structs.replace(web().task, container=container, ports=(), health_check=None)
    return JobSpec(namespace=NAMESPACE, name=CALLER, mode=JobMode.DAEMON, task=task)


def alone(*constraints: Constraint) -> JobSpec:
    """Exclusive."""
    container = Container(image=TEST_IMAGE, command=("sleep", "86400"), stop_grace_s=1.0)
    task = TaskSpec(container=container, placement=Placement(constraints=constraints), exclusive=True)
    return JobSpec(namespace=NAMESPACE, name=ALONE, task=task)


def small(name: str, replicas: int, *constraints: Constraint) -> JobSpec:
    task = TaskSpec(container=Container(image="any:1"), placement=Placement(constraints=constraints))
    return JobSpec(namespace=NAMESPACE, name=name, replicas=replicas, task=task)


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    require_machines()
    require_docker()
    require_etcd()
    timers = f"down={DOWN_S} exclusive-self={SELF_S} exclusive-lost={LOST_S}"
    options = [word for timer in timers.split() for word in ("--tune", timer)]
    made = Hosts(tmp_path_factory.mktemp("hosts"), *options)
    try:
        made.open(ensure_image())
        yield made
    finally:
        made.close()


class Shop:
    """The application, and what must hold of it."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts

    @property
    def client(self) -> Client:
        return self.hosts.client

    async def tasks(self, version: int | None = None) -> dict[int, TaskView]:
        """By slot, once all of them are healthy and there are no others."""
        found = await self.hosts.until(NAMESPACE, lambda all_: healthy(_job(all_), 3, version))
        return {view.task.slot: view for view in live(_job(found))}

    async def containers(self) -> dict[str, str]:
        """When each was started, by id, as the engines say; only what the controller knows of, each slot once."""
        ids = {view.task.status.runtime_id for view in (await self.tasks()).values()}
        await _until(lambda: set(self.hosts.containers()) == ids, "the engines run these containers only")
        return await asyncio.to_thread(self.hosts.containers)

    def load(self, *hosts: Host, per_second: float = 20.0):  # type: ignore[no-untyped-def]
        """Requests to the published port of these hosts, or of all."""
        return load([(host.address, PORT) for host in hosts or self.hosts.all], per_second)

    async def until_node(self, host: Host, *statuses: NodeStatus) -> None:
        await self.hosts.until_nodes(lambda nodes: _node(nodes, host.name).condition.status in statuses)

    async def until_answered(self, seen: Load, more: int = 20) -> None:
        enough = seen.answers + more
        await seen.until(lambda seen: seen.answers >= enough)


@pytest.fixture
async def shop(rack: Hosts) -> AsyncIterator[Shop]:
    """The application at rest on a sound cluster; both are so again afterwards."""
    rack.client = rack.new_client()
    async with rack.client:
        made = Shop(rack)
        await rack.until_led()
        await rack.until_ready(3)
        await rack.client.apply(NAMESPACE, [web()], remove_orphans=True)
        await made.containers()
        yield made
        await asyncio.to_thread(rack.mend)
        await rack.until_led()
        await rack.until_nodes(
            lambda nodes: all(_node(nodes, host.name).condition.status is NodeStatus.READY for host in rack.all)
        )
        await made.containers()


# --- controllers


async def test_leaders_that_are_killed_frozen_and_stopped_disturb_nothing(shop: Shop) -> None:
    hosts, before = shop.hosts, await shop.containers()
    async with shop.load() as seen:
        leader = await hosts.until_led()
        leader.controller.kill()
        await hosts.until_led(by_none_of=[leader])
        hosts.revive(leader)
        for last in (False, False, True):
            leader = await hosts.until_led()
            leader.controller.freeze()
            submitted = asyncio.create_task(shop.client.apply(NAMESPACE, [small("none", 0)]))
            await hosts.until_led(by_none_of=[leader])
            if last:  # it goes through without the frozen one, for whose answer the client waits a while
                await submitted
            leader.controller.thaw()
            await submitted
            await shop.client.remove(NAMESPACE, ["none"])
            await hosts.until_ready(3)
        leader = await hosts.until_led()
        given_back = await asyncio.to_thread(hosts.leases_given_back)
        assert await asyncio.to_thread(leader.controller.end) == 0
        given_back = await asyncio.to_thread(hosts.leases_given_back) - given_back
        assert given_back >= 2, "of the leader key and of its place on the list"
        await hosts.until_led(by_none_of=[leader])
        await hosts.until_ready(3)
        await shop.until_answered(seen)
    assert seen.failures == []
    assert await shop.containers() == before


async def test_every_acknowledged_submit_survives_a_leader_that_dies_among_them(shop: Shop) -> None:
    hosts, before = shop.hosts, await shop.containers()
    acknowledged: list[str] = []
    enough = asyncio.Event()

    async def submit(number: int) -> None:
        while not enough.is_set():
            name = f"job-{number}-{len(acknowledged)}"
            await shop.client.apply(NAMESPACE, [small(name, 0)])
            acknowledged.append(name)

    async with shop.load() as seen, asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(submit(number))
        await _until(lambda: len(acknowledged) > 20, "submits are acknowledged")
        leader = await hosts.until_led()
        leader.controller.kill()
        await hosts.until_led(by_none_of=[leader])
        there = len(acknowledged)
        await _until(lambda: len(acknowledged) > there + 20, "they are again")
        enough.set()
    assert {view.job.name for view in await shop.client.jobs(NAMESPACE)} == {WEB, *acknowledged}
    assert seen.failures == []
    assert await shop.containers() == before


async def test_a_rollout_goes_on_under_the_next_leader(shop: Shop) -> None:
    hosts = shop.hosts
    async with shop.load() as seen:
        await shop.client.apply(NAMESPACE, [web(version=2)])
        await hosts.until(
            NAMESPACE, lambda all_: any(t.task.version == _job(all_).view.job.version for t in live(_job(all_)))
        )
        leader = await hosts.until_led()
        leader.controller.kill()
        version = (await shop.client.inspect_job(NAMESPACE, WEB)).view.job.version
        await shop.tasks(version)
    assert seen.failures == []
    assert {body.rpartition(" ")[2] for body in seen.bodies} == {"v1", "v2"}


@pytest.fixture
async def fakes(shop: Shop) -> AsyncIterator[tuple[str, ...]]:
    """Two more agents, on one more host, whose containers exist in their memory only."""
    hosts = shop.hosts
    for name in FAKES:
        options = ("--runtime", "fake", "--labels", "fake=yes", "--http-listen", "", "--cpus", "1000")
        hosts.edge.start_agent(hosts.controllers, name, *options)
    await hosts.until_ready(5)
    yield FAKES
    await asyncio.to_thread(hosts.mend)
    hosts.edge.mend()
    await hosts.until_ready(5)
    await shop.client.apply(NAMESPACE, [web()], remove_orphans=True)
    await hosts.until(NAMESPACE, lambda all_: len(all_) == 1)
    for name in FAKES:
        hosts.edge.agents.pop(name).kill()


async def test_a_thousand_replicas_are_placed_once_each_although_the_leader_dies(
    shop: Shop, fakes: tuple[str, ...]
) -> None:
    hosts, before = shop.hosts, await shop.containers()
    fake = Constraint(attribute="node.labels.fake", operator=ConstraintOperator.EQUAL, value="yes")
    async with shop.load(per_second=5) as seen:
        await shop.client.apply(NAMESPACE, [small("many", 1000, fake)])
        await hosts.until(NAMESPACE, lambda all_: _running(all_, "many") > 50)
        leader = await hosts.until_led()
        leader.controller.kill()
        await hosts.until(NAMESPACE, lambda all_: healthy(_job(all_, "many"), 1000))
    assert seen.failures == []
    nodes = await shop.client.nodes()
    assert sum(_node(nodes, name).tasks for name in fakes) == 1000
    assert await shop.containers() == before


@pytest.mark.parametrize("hosts_cut", [1, 3], ids=["60 % of them", "all of them"])
async def test_a_leader_cut_off_from_its_agents_distrusts_itself(
    shop: Shop, fakes: tuple[str, ...], hosts_cut: int
) -> None:
    hosts, before = shop.hosts, await shop.containers()
    leader = await hosts.until_led()
    others = [*hosts.others(leader), leader][:hosts_cut]
    cut = (*fakes, *(host.name for host in others))
    async with shop.load() as seen:
        for host in (*others, hosts.edge):
            leader.drop("INPUT", "--protocol", "tcp", "--dport", DOORS, "--source", host.address)
        await hosts.until_nodes(
            lambda nodes: all(_node(nodes, name).condition.status is NodeStatus.UNREACHABLE for name in cut)
        )
        assert (await shop.client.status()).brake
        await shop.until_answered(seen, 20 * DOWN_S)
        nodes = await shop.client.nodes()
        assert {_node(nodes, name).condition.status for name in cut} == {NodeStatus.UNREACHABLE}
        leader.mend()
        await hosts.until_ready(5)
        await until_async(lambda: _released(shop), "the brake is released")
    assert seen.failures == []
    assert await shop.containers() == before


async def test_a_leader_cut_off_from_etcd_only_hands_over(shop: Shop) -> None:
    hosts, before = shop.hosts, await shop.containers()
    leader = await hosts.until_led()
    async with shop.load() as seen:
        leader.drop("OUTPUT", "--protocol", "tcp", "--dport", str(STORE))
        await hosts.until_led(by_none_of=[leader])
        await hosts.until_ready(3)
        leader.mend()
        await shop.until_answered(seen)
    assert seen.failures == []
    assert await shop.containers() == before


# --- names


async def test_services_find_each_other_on_other_hosts_with_all_controllers_dead_and_agents_restarting(
    shop: Shop,
) -> None:
    hosts, before = shop.hosts, await shop.containers()
    assert len({view.node for view in (await shop.tasks()).values()}) > 1
    await shop.client.apply(NAMESPACE, [caller()])
    found = await hosts.until(NAMESPACE, lambda all_: _running(all_, CALLER) == 3)
    callers = [(hosts.host(view.node), view.task.status.runtime_id) for view in live(_job(found, CALLER))]
    await _until_called(callers)
    for host in hosts.all:
        host.controller.kill()
    await _until_called(callers)
    for host in hosts.all:
        host.agent.kill()
    await _until_called(callers)
    for host in hosts.all:
        host.start_agent(hosts.controllers)
    await _until_called(callers)
    assert {line for host, container in callers for line in _called(host, container) if "FAILED" in line} == set()
    await asyncio.to_thread(hosts.mend)
    await hosts.until_ready(3)
    await shop.client.remove(NAMESPACE, [CALLER])
    await hosts.until(NAMESPACE, lambda all_: len(all_) == 1)
    assert await shop.containers() == before


# --- agents


async def test_an_agent_cut_off_for_less_than_the_grace_keeps_what_it_runs(shop: Shop) -> None:
    hosts, before = shop.hosts, await shop.containers()
    leader = await hosts.until_led()
    far, near = hosts.others(leader)
    async with shop.load(leader, near) as seen:
        far.cut()
        await shop.until_node(far, NodeStatus.UNREACHABLE)
        far.mend()
        await shop.until_node(far, NodeStatus.READY)
        for chain, match in (("OUTPUT", "--dport"), ("INPUT", "--sport")):  # it is not heard; it does not hear
            far.drop(chain, "--protocol", "tcp", match, DOORS)
            await shop.until_node(far, NodeStatus.DISCONNECTED, NodeStatus.UNREACHABLE)
            far.mend()
            await shop.until_node(far, NodeStatus.READY)
        leader = await hosts.until_led()  # on a busy machine it may have changed
        ports = await asyncio.to_thread(_session_ports, far, leader)
        for port in ports:  # half-open: the connection is gone, a new one would do
            far.drop("OUTPUT", "--protocol", "tcp", "--sport", port)
            far.drop("INPUT", "--protocol", "tcp", "--dport", port)
        assert ports, hosts.logs()
        await _until(lambda: bool(_session_ports(far, leader) - ports), "the agent dials again")
        await shop.until_node(far, NodeStatus.READY)
    assert seen.failures == []
    assert await shop.containers() == before


async def test_a_host_cut_off_beyond_the_grace_is_replaced_and_comes_back_without_doubles(shop: Shop) -> None:
    hosts, before = shop.hosts, await shop.tasks()
    far = hosts.others(await hosts.until_led())[0]
    near = hosts.others(far)
    far.cut()  # requests on their way to it are lost; from here on none may be
    async with shop.load(*near) as seen:
        await shop.until_node(far, NodeStatus.DOWN)
        after = await shop.tasks()
        assert far.name not in {view.node for view in after.values()}
        kept = {slot: view.task.id for slot, view in before.items() if view.node != far.name}
        assert {slot: after[slot].task.id for slot in kept} == kept
        far.mend()
        await shop.until_node(far, NodeStatus.READY)
        await shop.containers()
    assert seen.failures == []


async def test_an_exclusive_task_of_a_host_cut_off_ends_there_before_it_begins_elsewhere(shop: Shop) -> None:
    hosts = shop.hosts
    near = await hosts.until_led()
    elsewhere = Constraint(attribute="node.name", operator=ConstraintOperator.NOT_EQUAL, value=near.name)
    await shop.client.apply(NAMESPACE, [alone(elsewhere)])
    (first,) = live(_job(await hosts.until(NAMESPACE, lambda all_: _healthy(all_, ALONE)), ALONE))
    host = hosts.host(first.node)
    host.cut()
    (second,) = live(_job(await hosts.until(NAMESPACE, lambda all_: _healthy(all_, ALONE, but=first.task.id)), ALONE))
    assert second.node not in (first.node, near.name)
    assert second.task.fencing_token > first.task.fencing_token
    ended_at, _ = await asyncio.to_thread(_life, host, first)
    _, begun_at = await asyncio.to_thread(_life, hosts.host(second.node), second)
    assert ended_at < begun_at
    host.mend()
    await shop.until_node(host, NodeStatus.READY)
    await hosts.until(NAMESPACE, lambda all_: _healthy(all_, ALONE, but=first.task.id))
    await shop.client.remove(NAMESPACE, [ALONE])
    await hosts.until(NAMESPACE, lambda all_: len(all_) == 1)


async def test_an_upgraded_or_killed_agent_adopts_and_one_without_its_state_is_a_new_node(shop: Shop) -> None:
    hosts, before = shop.hosts, await shop.containers()
    used = {view.node for view in (await shop.tasks()).values()}
    host = next(host for host in hosts.others(hosts.host("n3")) if host.name in used)
    async with shop.load() as seen:
        assert await asyncio.to_thread(host.agent.end) == 0  # as a package manager does
        hosts.revive(host)
        await shop.until_node(host, NodeStatus.READY)
        host.agent.kill()
        hosts.revive(host)
        await shop.until_node(host, NodeStatus.READY)
        await shop.until_answered(seen)
    assert seen.failures == []
    assert await shop.containers() == before
    old = _node(await shop.client.nodes(), host.name).node.id
    host.agent.kill()
    shutil.rmtree(host.agent_directory())
    hosts.revive(host)
    await hosts.until_nodes(
        lambda nodes: any(view.node.id == old and view.condition.status is NodeStatus.DOWN for view in nodes)
    )
    assert _node(await shop.client.nodes(), host.name).node.id != old
    after = await shop.tasks()
    orphans = set(before) - {view.task.status.runtime_id for view in after.values()}
    assert orphans
    assert orphans <= set(host.engine.containers()), "what nobody knows any more is left to its owner"
    host.engine.docker("rm", "-f", *orphans)


async def test_a_copy_of_a_hosts_disk_is_refused_and_told_why(shop: Shop) -> None:
    hosts, before = shop.hosts, await shop.containers()
    host, edge = hosts.host("n1"), hosts.edge
    shutil.copytree(
        host.agent_directory(), edge.agent_directory("n1"), ignore=lambda _, names: [n for n in names if "sock" in n]
    )
    edge.start_agent(hosts.controllers, "n1", "--runtime", "fake", "--http-listen", "")
    copy = edge.agents.pop("n1")
    await _until(lambda: f"another agent from ipv4:{host.address}" in copy.log(), "the copy is refused")
    assert f"this node was at {host.address} and is at {edge.address}: it starts no task" in copy.log()
    assert "delete the agent's data directory" in copy.log()
    assert "registered with" not in copy.log()
    copy.kill()
    assert _node(await shop.client.nodes(), "n1").node.description.address == host.address
    assert await shop.containers() == before


async def test_a_dead_host_is_replaced_and_takes_part_again_when_it_is_back(shop: Shop) -> None:
    hosts = shop.hosts
    leader = await hosts.until_led()
    dead = leader if leader.name != "n3" else hosts.others(leader)[0]
    near = hosts.others(dead)
    await shop.tasks()
    await asyncio.to_thread(dead.machine.die)  # requests it was answering die with it; from here on none may
    async with shop.load(*near) as seen:
        await hosts.until_led(by_none_of=[dead])
        await shop.until_node(dead, NodeStatus.DOWN)
        assert dead.name not in {view.node for view in (await shop.tasks()).values()}
        hosts.boot(dead)
        await asyncio.to_thread(hosts.revive, dead)
        await shop.until_node(dead, NodeStatus.READY)
        await shop.containers()
    assert seen.failures == []


# --- stores and disks


async def test_etcd_members_that_die_freeze_and_run_out_of_disk_cost_no_request(shop: Shop) -> None:
    hosts, before = shop.hosts, await shop.containers()
    async with shop.load() as seen:
        follower = hosts.others(hosts.store_leader())[0]
        follower.store.kill()
        await _writes(shop)
        hosts.revive(follower)
        await _until(lambda: hosts.store_answers(follower), "the member answers")
        leader = hosts.store_leader()
        leader.store.kill()
        await _writes(shop)
        hosts.revive(leader)
        await _until(lambda: hosts.store_answers(leader), "the member answers")
        frozen = hosts.store_leader()
        frozen.store.freeze()
        await _writes(shop)
        frozen.store.thaw()
        await _until(lambda: hosts.store_answers(frozen), "the member answers")
        full = hosts.host("n3")
        full.fill("etcd")
        await _until(lambda: hosts.bloat(near=hosts.host("n1")) and not full.store.runs, "the full member gives up")
        await _writes(shop)
        full.free("etcd")
        await asyncio.to_thread(hosts.mend)
        await _until(lambda: hosts.store_answers(full), "the member answers")
        await hosts.until_ready(3)
    assert seen.failures == []
    assert await shop.containers() == before


async def test_an_agent_whose_disk_is_full_keeps_what_it_runs(shop: Shop) -> None:
    hosts, before = shop.hosts, await shop.containers()
    host = hosts.host("n3")
    async with shop.load() as seen:
        host.fill("agent")
        # Wherever the three are by now, this host gets one more: four each, and it has three at most.
        await shop.client.scale(NAMESPACE, [ScaleTarget(job=WEB, replicas=12)])
        await _until(lambda: "is its disk full" in host.agent.log(), "the agent cannot write")
        await shop.until_answered(seen, 40)
        host.free("agent")
        await hosts.until(NAMESPACE, lambda all_: healthy(_job(all_), 12))
        await shop.client.scale(NAMESPACE, [ScaleTarget(job=WEB, replicas=3)])
        await shop.tasks()
    assert seen.failures == []
    assert await shop.containers() == before


# --- small steps


def _job(found: tuple[JobDetail, ...], name: str = WEB) -> JobDetail:
    return next(detail for detail in found if detail.view.job.name == name)


def _running(found: tuple[JobDetail, ...], name: str) -> int:
    details = [detail for detail in found if detail.view.job.name == name]
    return sum(bool(view.task.status.runtime_id) for detail in details for view in live(detail))


def _healthy(found: tuple[JobDetail, ...], name: str, *, but: str = "") -> bool:
    """One task runs, and it is another one."""
    details = [detail for detail in found if detail.view.job.name == name]
    tasks = [view for detail in details for view in live(detail)]
    return [view.state.value for view in tasks] == ["running"] and tasks[0].task.id != but


def _life(host: Host, view: TaskView) -> tuple[str, str]:
    """When the task's container ended and began: text that sorts as time does, of the same clock on all hosts."""
    assert host.engine is not None
    form = "{{.State.FinishedAt}} {{.State.StartedAt}}"
    ended_at, begun_at = host.engine.docker("inspect", "-f", form, view.task.status.runtime_id).stdout.split()
    return ended_at, begun_at


def _node(nodes: tuple[NodeView, ...], name: str) -> NodeView:
    """The one that was heard of last, when an older one had the name too."""
    return max((node for node in nodes if node.node.name == name), key=lambda node: node.condition.last_seen_s)


def _called(host: Host, container: str) -> list[str]:
    """What a caller was answered so far, by name: complete lines only."""
    assert host.engine is not None
    return host.engine.docker("logs", container).stdout.splitlines()


async def _until_called(callers: list[tuple[Host, str]]) -> None:
    """Every caller gets an answer for each name twice from now on, of the slot where it names one."""
    for host, container in callers:
        already = len(await asyncio.to_thread(_called, host, container))

        def answered(host: Host = host, container: str = container, already: int = already) -> bool:
            fresh = Counter(_called(host, container)[already:])
            by_slot = [fresh[f"{name} web.{name[0]} v1"] for name in NAMES[1:]]
            by_name = sum(fresh[f"web web.{slot} v1"] for slot in (1, 2, 3))
            return min(by_name, *by_slot) > 1

        await _until(answered, f"{host.name} reaches all names")


async def _writes(shop: Shop) -> None:
    """A write is acknowledged, and taken back."""
    await shop.client.apply(NAMESPACE, [small("proof", 0)])
    await shop.client.remove(NAMESPACE, ["proof"])


async def _released(shop: Shop) -> bool:
    return not (await shop.client.status()).brake


def _session_ports(host: Host, leader: Host) -> set[str]:
    """From where the host's agent talks to the leader."""
    listed = host.machine.do("ss", "-Htn", "state", "established", "dst", f"{leader.address}:{AGENTS}").stdout
    return {line.split()[2].rpartition(":")[2] for line in listed.splitlines()}


async def _until(holds: Callable[[], bool], what: str) -> None:
    await until_async(lambda: asyncio.to_thread(holds), what)
