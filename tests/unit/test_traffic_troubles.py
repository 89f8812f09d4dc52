"""What people are told when a node cannot carry a job's traffic, or no node routes HTTP."""

from __future__ import annotations

import msgspec

from common.model.endpoint import TrafficProblem
from common.model.job import HttpRoute, Port
from common.model.node import Node, NodeCondition, NodeStatus
from common.model.session import EndpointsApplied
from controller.core.traffic import in_short, routing_notes, troubles
from controller.core.views import job_view
from controller.state import State
from tests.dispatcher_rig import NOW_S, description, job_records, rig, running_status, task_of, web_spec

ROUTED = web_spec(ports=(Port(container_port=80, published_port=8080, http=(HttpRoute(host="a.test"),)),))
TAKEN = TrafficProblem(service="8080/tcp", text="port 8080/tcp on 10.0.0.1 cannot be published: in use")
OTHER = TrafficProblem(service="9090/tcp", text="port 9090/tcp on 10.0.0.1 cannot be published: in use")


def state(proxy: str) -> State:
    node = Node(id="n1", description=msgspec.structs.replace(description("n1"), proxy=proxy))
    return State.of((node, *job_records(ROUTED), task_of("t1", status=running_status())))


def test_a_route_that_no_node_can_serve_is_told_to_who_submits_it_and_who_asks() -> None:
    (note,) = routing_notes(state("relay"), [ROUTED, web_spec("plain")])
    assert "nobody serves a.test/" in note
    assert "--proxy" in note
    assert in_short(troubles(state("relay"), ROUTED, {})) == note
    assert routing_notes(state("haproxy"), [ROUTED]) == ()


def test_a_job_says_what_a_node_cannot_do_for_it_and_not_what_for_others() -> None:
    condition = NodeCondition(node_id="n1", status=NodeStatus.READY, traffic=(OTHER, TAKEN))
    known = state("haproxy")
    (job,) = known.jobs.values()
    later_s = NOW_S + 60.0
    assert job_view(known, job, {"n1": condition}, later_s).message == f"node n1: {TAKEN.text}"
    well = msgspec.structs.replace(condition, traffic=(OTHER,))
    assert job_view(known, job, {"n1": well}, later_s).message == ""
    assert condition.degraded == f"{OTHER.text}; {TAKEN.text}"
    assert condition.runtime_trouble == ""


async def test_what_a_node_says_of_its_proxy_is_known_until_it_says_otherwise() -> None:
    async with rig(*job_records(web_spec())) as r:
        agent = await r.agent("n1")
        agent.say(EndpointsApplied(revision=agent.revision, problems=(TAKEN,)))
        await agent.told()
        assert r.presence.conditions["n1"].traffic == (TAKEN,)
        agent.say(EndpointsApplied(revision=agent.revision))
        await agent.told()
        assert r.presence.conditions["n1"].traffic == ()
