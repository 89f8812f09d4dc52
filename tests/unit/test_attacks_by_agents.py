"""What an agent that was taken over may try with its own good certificate, and what comes of it.

That its certificate is its name, whatever a message says, is shown on real sockets in
`tests/integration/test_cluster_trust.py`.
"""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from agent.core.elsewhere import connectable
from common.errors import Invalid
from common.model.endpoint import Endpoint, Service, TrafficProblem
from common.model.epoch import Epoch
from common.model.job import Port, Protocol
from common.model.node import NodeDescription, RuntimeStatus
from common.model.privileges import BindRule, NodePolicy
from common.model.resources import Resources, Usage
from common.model.session import (
    EndpointsApplied,
    ExecOutput,
    Heartbeat,
    HeartbeatAck,
    LogChunk,
    LogLine,
    LogStream,
    OpenLog,
    Program,
    Redirect,
    Register,
    Registered,
    ServiceTraffic,
    StatusAck,
    TaskUsage,
    UsageReport,
    VolumeReport,
)
from common.model.task import PortBinding, TaskReport, TaskState, TaskStatus
from common.settings import LIMITS
from controller.core.confine import LINE_CHARACTERS, TEXT_CHARACTERS
from controller.core.endpoints import services_of
from controller.core.events import condition_event
from tests.dispatcher_rig import Agent, MemoryLink, Rig, description, job_records, report_of, rig, task_of, web_spec

JOB = job_records(web_spec())


async def status_after(status: TaskStatus, *, name: str = "t1") -> TaskStatus:
    """What is stored of the node's own task once its agent has reported this of the task `name`."""
    async with rig(*JOB, task_of("t1"), task_of("t2", node_id="n2", slot=2)) as r:
        agent = await r.agent("n1")
        agent.report(TaskReport(task_id=name, status=status))
        await agent.next(StatusAck)
        return r.state.tasks[name].status


# --- tasks that are not its own


async def test_it_cannot_report_on_tasks_of_another_node() -> None:
    for state in (TaskState.FAILED, TaskState.RUNNING, TaskState.STOPPED):
        assert await status_after(TaskStatus(attempt=1, state=state), name="t2") == TaskStatus()


async def test_it_is_told_nothing_of_tasks_of_another_node() -> None:
    async with rig(*JOB, task_of("t1"), task_of("t2", node_id="n2", slot=2)) as r:
        agent = await r.agent("n1", report_of("t2", TaskState.RUNNING))  # it claims to run it
        assert set(agent.set) == {"t1"}
        await r.change_task("t2", reason="changed")
        await r.write(task_of("t3", node_id="n2", slot=3))
        assert "Assignments" not in await agent.told()


async def test_its_inventory_ends_no_task_of_another_node() -> None:
    running = task_of("t2", node_id="n2", status=TaskStatus(attempt=1, state=TaskState.RUNNING))
    async with rig(*JOB, running) as r:
        await r.agent("n1")
        assert r.state.tasks["t2"].status.state is TaskState.RUNNING


async def test_it_cannot_answer_for_a_log_or_a_program_of_another_node() -> None:
    async with rig(*JOB, task_of("t1"), task_of("t2", node_id="n2", slot=2)) as r:
        honest, thief = await r.agent("n2"), await r.agent("n1")
        program = Program(argv=("sh",))
        async with (
            r.dispatcher.logs.open("n2", "t2") as reader,
            r.dispatcher.execs.open("n2", "t2", program) as channel,
        ):
            asked = await honest.next(OpenLog)
            line = LogLine(task_id="t2", time_s=1.0, stream=LogStream.STDOUT, text="forged")
            thief.say(LogChunk(request_id=asked.request_id, lines=(line,), done=True))
            thief.say(ExecOutput(request_id=channel._id, content=b"forged", done=True))
            await thief.told()
            other = msgspec.structs.replace(line, task_id="t1")  # of a task that was not asked for
            honest.say(LogChunk(request_id=asked.request_id, lines=(other,), done=True))
            honest.say(ExecOutput(request_id=channel._id, content=b"true", done=True))
            assert (await reader.read()).lines == ()
            assert (await channel.read()).content == b"true"


# --- the traffic of others


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "10.0.0.9", "example.com", "10.0.0.1\nshow env", "::1%\nx", "::1"]
)
async def test_it_cannot_draw_its_service_s_traffic_elsewhere(address: str) -> None:
    binding = PortBinding(container_port=80, host_address=address, host_port=30_000)
    assert (await status_after(TaskStatus(attempt=1, state=TaskState.RUNNING, ports=(binding,)))).ports == ()


async def test_its_ports_are_those_of_the_task_each_once() -> None:
    good = PortBinding(container_port=80, host_address="10.0.0.1", host_port=30_000)
    images = (
        msgspec.structs.replace(good, container_port=443),
        msgspec.structs.replace(good, protocol=Protocol.UDP),
    )
    wrong = (
        msgspec.structs.replace(good, host_port=0),
        msgspec.structs.replace(good, host_port=70_000),
        msgspec.structs.replace(good, host_port=30_001),
        msgspec.structs.replace(images[0], host_port=30_002),
    )
    status = TaskStatus(attempt=1, state=TaskState.RUNNING, ports=(*wrong[:2], *images, good, *wrong[2:]))
    assert (await status_after(status)).ports == (*images, good)


async def test_a_port_that_it_makes_up_is_never_published() -> None:
    made_up = PortBinding(container_port=443, host_address="10.0.0.1", host_port=30_000)
    async with rig(*JOB, task_of("t1")) as r:
        thief = await r.agent("n1")
        status = TaskStatus(attempt=1, state=TaskState.RUNNING, ports=(made_up,))
        thief.report(TaskReport(task_id="t1", status=status))
        await thief.next(StatusAck)
        services = services_of(r.state, {})
        assert {service.listens for service in services if service.endpoints} == {"port 443/tcp of shop/web"}
        assert {service.listens for service in services if not service.inner} == {"port 8080/tcp"}


async def test_a_node_that_moved_binds_where_it_is_now() -> None:
    binding = PortBinding(container_port=80, host_address="10.0.0.99", host_port=30_000)
    report = TaskReport(task_id="t1", status=TaskStatus(attempt=1, state=TaskState.RUNNING, ports=(binding,)))
    async with rig(*JOB, task_of("t1")) as r:
        await r.agent("n1")
    async with rig(*JOB, task_of("t1")) as r:
        moved = r.dial("n1")
        moved.description = msgspec.structs.replace(moved.description, address="10.0.0.99")
        moved.register(report)
        await moved.next(Registered)
        assert r.state.tasks["t1"].status.ports == (binding,)


def test_no_node_s_proxy_connects_to_its_own_loopback_on_another_one_s_word() -> None:
    forbidden = ("127.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.1", "0.0.0.0", "localhost", "224.0.0.1")
    endpoints = tuple(
        Endpoint(task_id=address, slot=1, node_id="n2", address=address, port=80)
        for address in (*forbidden, "10.0.0.2")
    )
    own = Endpoint(task_id="own", slot=1, node_id="n1", address="127.0.0.1", port=80)
    service = Service(namespace="shop", job="web", container_port=80, published_port=8080, endpoints=(*endpoints, own))
    (kept,) = connectable([service], "n1", "10.0.0.1")
    assert [endpoint.task_id for endpoint in kept.endpoints] == ["10.0.0.2", "own"]
    assert connectable([service], "n1", "127.0.0.11") == (service,), "a cluster on one machine is at such addresses"


# --- replays, stale sessions, statuses that run backwards


async def registered(r: Rig, number: int, *inventory: TaskReport, name: str = "one") -> Agent:
    agent = r.dial("n1")
    agent.say(Register(node=agent.description, inventory=inventory, instance=name, registration=number))
    return agent


async def test_a_registration_that_was_heard_before_is_refused() -> None:
    running = TaskStatus(attempt=1, state=TaskState.RUNNING)
    async with rig(*JOB, task_of("t1", status=running)) as r:
        present = await registered(r, 7, TaskReport(task_id="t1", status=running))
        await present.next(Registered)
        for number in (7, 6, 1):
            replay = await registered(r, number)  # of a time when the node had no tasks yet
            assert f"registration {number} of this process was taken in before" in (await replay.next(Redirect)).reason
        assert r.state.tasks["t1"].status.state is TaskState.RUNNING
        present.beat()
        await present.next(HeartbeatAck)
        again = await registered(r, 8, TaskReport(task_id="t1", status=running))
        await again.next(Registered)


async def test_what_comes_late_of_a_session_that_was_replaced_counts_no_more() -> None:
    async with rig(*JOB, task_of("t1")) as r:
        old = await registered(r, 1)
        await old.next(Registered)
        before = r.dispatcher._sessions["n1"]
        new = await registered(r, 2)
        await new.next(Registered)
        old.report(report_of("t1", TaskState.FAILED))
        r.dispatcher._take_in(before, await old.link.up.get())
        await old.ended()
        await new.told()
        assert r.state.tasks["t1"].status.state is TaskState.PENDING


@pytest.mark.parametrize("second", [5, 4, 0, -1, 2**60])
async def test_an_old_sequence_ends_the_session(second: int) -> None:
    for repeated in (lambda agent, number: agent.beat(number), lambda agent, number: agent.report(sequence=number)):
        async with rig() as r:
            agent = await r.agent("n1")
            repeated(agent, 5)
            repeated(agent, second)
            with pytest.raises(Invalid, match=r"came after 5: it is an old one, sent again"):
                await agent.ended()


async def test_a_status_never_runs_backwards() -> None:
    async with rig(*JOB, task_of("t1")) as r:
        agent = await r.agent("n1")
        agent.report(report_of("t1", TaskState.RUNNING, attempt=2), sequence=1)
        agent.report(report_of("t1", TaskState.STARTING, attempt=2), sequence=2)
        agent.report(report_of("t1", TaskState.RUNNING, attempt=1), sequence=3)
        await agent.until(lambda: r.state.tasks["t1"].status.state is TaskState.RUNNING)
        agent.report(report_of("t1", TaskState.FAILED, attempt=2), sequence=4)
        agent.report(report_of("t1", TaskState.RUNNING, attempt=3), sequence=5)
        while (await agent.next(StatusAck)).sequence < 5:
            pass
        assert r.state.tasks["t1"].ended
        assert r.state.tasks["t1"].status.attempt == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"attempt": 2**63 - 1},
        {"attempt": -1},
        {"sequence": 2**63 - 1},
        {"sequence": -(2**63)},
        {"exit_code": 2**62},
        {"state": TaskState.LOST},
        {"state": TaskState.PENDING},
    ],
)
async def test_a_status_that_no_agent_observes_is_dropped(fields: dict[str, object]) -> None:
    status = TaskStatus(**{"attempt": 1, "state": TaskState.RUNNING, **fields})
    assert await status_after(status) == TaskStatus()


async def test_times_that_no_calendar_has_and_endless_texts_are_not_stored() -> None:
    status = TaskStatus(
        attempt=1,
        state=TaskState.FAILED,
        message="x" * 100_000,
        runtime_id="y" * 100_000,
        started_at_s=1e300,
        ended_at_s=float("nan"),
    )
    kept = await status_after(status)
    assert (kept.started_at_s, kept.ended_at_s, len(kept.message), len(kept.runtime_id)) == (0, 0, TEXT_CHARACTERS, 256)


# --- two agents with one identity


async def test_two_agents_with_one_identity_raise_an_alarm_and_do_not_take_turns() -> None:
    async with rig() as r:
        original = await registered(r, 1)
        await original.next(Registered)
        for beat, contested in ((1, False), (2, True), (3, True)):
            copy = await registered(r, 1, name="two")
            assert "another agent" in (await copy.next(Redirect)).reason
            await copy.ended()
            assert bool(r.presence.conditions["n1"].rival) is contested
            await asyncio.sleep(0.001)  # the loop's clock has to have moved
            original.beat(beat)
            await original.next(HeartbeatAck)
        condition = r.presence.conditions["n1"]
        assert "another agent, from peer of n1, claims to be this node and is kept out" in condition.degraded
        event = condition_event(None, msgspec.structs.replace(condition, rival=""), condition)
        assert event is not None
        assert event.kind == "node.contested"


async def test_an_agent_that_was_only_restarted_raises_no_alarm() -> None:
    async with rig() as r:
        await (await registered(r, 1)).next(Registered)
        for number in (1, 2, 3):  # nobody is heard of meanwhile
            restarted = await registered(r, number, name="two")
            await restarted.next(Redirect)
        assert not r.presence.conditions["n1"].rival


# --- more than there is


def described(**fields: object) -> NodeDescription:
    return msgspec.structs.replace(description("n1"), **fields)


@pytest.mark.parametrize(
    ("told", "path"),
    [
        (described(labels={f"l{number}": "" for number in range(100_000)}), "node.description"),
        (described(labels={f"l{number}": "" for number in range(300)}), "node.labels"),
        (described(labels={"a\nb": ""}), "node.labels"),
        (described(attributes={"": "x"}), "node.attributes"),
        (described(address="10.0.0.1\n127.0.0.1"), "node.address"),
        (described(address="fe80::1%\nx"), "node.address"),
        (described(name="nоde"), "node.name"),  # a Cyrillic letter
        (described(name=".".join(["a" * 60] * 5)), "node.name"),
        (described(id="../n2"), "node.id"),
        (described(id="n2\n"), "node.id"),
        (described(capacity=Resources(cpu_millis=-1)), "node.capacity"),
        (described(runtimes=tuple(RuntimeStatus(name=f"r{number}") for number in range(17))), "node.runtimes"),
        (described(agent_version="v" * 300), "node.agent_version"),
        (described(policy=NodePolicy(bind=(BindRule(path="/srv/../etc"),))), "node.policy"),
    ],
)
async def test_a_node_that_describes_itself_so_is_not_taken_in(told: NodeDescription, path: str) -> None:
    async with rig() as r:
        agent = Agent(told, MemoryLink())
        r.serve(agent, r.dispatcher)
        agent.register()
        with pytest.raises(Invalid) as error:
            await agent.ended()
        assert path in [fault.path for fault in error.value.faults]
        assert not r.state.nodes


async def test_a_flood_of_tasks_that_nobody_knows_is_not_kept() -> None:
    inventory = tuple(report_of(f"t{number}", TaskState.RUNNING) for number in range(LIMITS.strays_per_node + 1))
    async with rig() as r:
        r.state.generation = 3  # restored: what a node runs and the state does not know is kept as a stray
        agent = r.dial("n1")
        agent.register(*inventory, highest_epoch=Epoch())
        assert "1001 tasks that the state does not know" in (await agent.next(Redirect)).reason
        assert not r.state.nodes


@pytest.mark.parametrize(
    "body",
    [
        Heartbeat(sequence=1, usage=Usage(cpu_millis=-1)),
        Heartbeat(sequence=1, usage=Usage(memory_bytes=2**60)),
        UsageReport(interval_s=float("nan")),
        UsageReport(interval_s=1.0, tasks=(TaskUsage(task_id="t1", memory_bytes=-5),)),
        VolumeReport(volumes=("../other",)),
        VolumeReport(volumes=("shop_data\n",)),
    ],
)
async def test_what_no_agent_says_ends_the_session(body: msgspec.Struct) -> None:
    async with rig() as r:
        agent = await r.agent("n1")
        agent.say(body)
        with pytest.raises(Invalid):
            await agent.ended()


async def test_endless_lines_and_troubles_are_cut() -> None:
    async with rig(*JOB, task_of("t1")) as r:
        agent = await r.agent("n1")
        runtimes = tuple(RuntimeStatus(name="docker", ready=False, message="m" * 10_000) for _ in range(100))
        agent.say(Heartbeat(sequence=1, runtimes=runtimes))
        problems = tuple(TrafficProblem(service="8080/tcp", text="p" * 10_000) for _ in range(1_000))
        agent.say(EndpointsApplied(revision=agent.revision, problems=problems))
        async with r.dispatcher.logs.open("n1", "t1", follow=True) as reader:
            asked = await agent.next(OpenLog)
            line = LogLine(task_id="t1", time_s=1.0, stream=LogStream.STDOUT, text="x" * 1_000_000)
            agent.say(LogChunk(request_id=asked.request_id, lines=(line,)))
            (kept,) = (await reader.read()).lines
        condition = r.presence.conditions["n1"]
        assert len(kept.text) == LINE_CHARACTERS
        assert len(condition.runtimes) == LIMITS.runtimes_per_node
        assert max(len(one.message) for one in condition.runtimes) == TEXT_CHARACTERS
        assert (len(condition.traffic), len(condition.traffic[0].text)) == (100, TEXT_CHARACTERS)


# --- traffic of others


async def test_it_calls_and_counts_for_no_job_that_its_proxy_does_not_serve() -> None:
    inner = (Port(container_port=80),)
    hidden = job_records(msgspec.structs.replace(web_spec("hidden", ports=inner), namespace="bank"))
    shown = job_records(msgspec.structs.replace(web_spec("shown"), namespace="bank"))
    near = job_records(web_spec("near", ports=inner))
    async with rig(*JOB, *near, *hidden, *shown, task_of("t1")) as r:
        agent = await r.agent("n1")
        names = ("bank/hidden", "bank/shown", "shop/near", "bank/none", "nonsense")
        agent.say(EndpointsApplied(revision=agent.revision, wanted=names))
        r.dispatcher.measurements.want()
        traffic = tuple(ServiceTraffic(job=name, connections=10**6) for name in names)
        agent.say(UsageReport(interval_s=2.0, traffic=traffic))
        await agent.told()
        assert r.dispatcher.measurements.waited_for["n1"] == ("bank/shown", "shop/near")
        measured = r.dispatcher.measurements.nodes["n1"].traffic
        assert [one.job for one in measured] == ["bank/shown", "shop/near"]
