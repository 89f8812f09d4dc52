"""The operator's commands over a transport of answers: what they ask, what they say, and how they end."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli import operate
from cli.app import app
from cli.command import Surroundings
from client.fake import FakeTransport
from client.transport import CORDON, DRAIN, DRAIN_STATUS, NODES, PLAN_DRAIN, RELEASE_BRAKE, STATUS, UNCORDON
from common.model.api import (
    BrakeReleased,
    ClusterRequest,
    ClusterView,
    DrainedNode,
    DrainView,
    LeftTask,
    NodeChange,
    NodeChanges,
    NodeList,
    NodesRequest,
    NodeView,
    Plan,
    PlannedStop,
    PlanStep,
    Unplaced,
)
from common.model.epoch import Epoch
from common.model.node import Availability, NodeStatus
from common.model.verdict import Verdict
from tests.builders import condition, node

ORDERED = NodeChanges(changes=(NodeChange(node="n1", node_id="id-n1", action="drain", text="takes no new tasks"),))


class Podium:
    def __init__(self, home: Path) -> None:
        self.fake = FakeTransport()
        self.environ = {"HOME": str(home)}

    def run(self, *arguments: str) -> Result:
        around = Surroundings(environ=self.environ, transport=self.fake, clock=lambda: 1_900_000_000.0)
        return CliRunner().invoke(app, list(arguments), obj=around, catch_exceptions=False)

    def asked(self, method: str) -> Any:
        return next(asked.request for asked in self.fake.asked if asked.method == method)

    def drains(self, views: Iterable[DrainView]) -> None:
        """A drain that is seen like this, one look after the other."""
        self.fake.answer(DRAIN, ORDERED)
        looks = iter(views)
        self.fake.answer(DRAIN_STATUS, lambda _address, _request: next(looks))


@pytest.fixture
def podium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Podium:
    monkeypatch.setattr(operate, "LOOK_S", 0.0)
    monkeypatch.setattr(operate, "STUCK_GRACE_S", 0.0)
    return Podium(tmp_path)


def seen(*left: LeftTask, availability: Availability = Availability.DRAINING) -> DrainView:
    return DrainView(nodes=(DrainedNode(node="n1", node_id="id-n1", availability=availability, left=left),))


def task(slot: int = 1, *, stuck: bool = False, text: str = "its successor on n2 is starting") -> LeftTask:
    return LeftTask(job="shop/web", slot=slot, task_id=f"t{slot}", stuck=stuck, text=text)


@pytest.mark.parametrize(("name", "method"), [("cordon", CORDON), ("uncordon", UNCORDON)])
def test_one_write_and_a_line_per_node(podium: Podium, name: str, method: Any) -> None:
    changes = (NodeChange(node="n1", node_id="id-n1", action="unchanged", text="is cordoned already"),)
    podium.fake.answer(method, NodeChanges(changes=changes))
    result = podium.run(name, "n1", "n2")
    assert (result.exit_code, result.stdout) == (0, "n1 unchanged: is cordoned already\n")
    request = podium.asked(f"Nodes/{name.capitalize()}")
    assert isinstance(request, NodesRequest)
    assert request.nodes == ("n1", "n2")
    assert request.idempotency_key
    plain = json.loads(podium.run(name, "n1", "-o", "json").stdout)
    assert plain == [{"node": "n1", "id": "id-n1", "action": "unchanged", "text": "is cordoned already"}]


def test_a_drain_is_followed_until_the_node_is_empty(podium: Podium) -> None:
    podium.drains([seen(task(1), task(2)), seen(task(2)), seen()])
    result = podium.run("drain", "n1")
    assert result.exit_code == 0
    assert result.stdout == "n1 drain: takes no new tasks\n"
    assert result.stderr.splitlines()[0] == "n1: 0/2 shop/web.1: its successor on n2 is starting"
    assert result.stderr.splitlines()[-1] == "n1: 2/2 empty"
    assert podium.asked("Nodes/DrainStatus").nodes == ("id-n1",), "by id: a name may come to mean another node"


def test_detached_it_is_only_ordered(podium: Podium) -> None:
    podium.fake.answer(DRAIN, ORDERED)
    assert podium.run("drain", "n1", "--detach").exit_code == 0
    assert [asked.method for asked in podium.fake.asked] == ["Nodes/Drain"]


def test_when_nothing_that_is_left_has_a_place_it_says_so_and_ends(podium: Podium) -> None:
    stuck = task(stuck=True, text="no node has 4 more CPUs")
    podium.drains(itertools.repeat(seen(stuck)))
    result = podium.run("drain", "n1")
    assert result.exit_code == 1
    assert "error: n1 is not empty, 1 task left; the drain goes on, `podium uncordon n1` ends it" in result.stderr
    assert "  shop/web.1: no node has 4 more CPUs" in result.stderr


def test_when_time_is_up_it_says_what_is_left(podium: Podium) -> None:
    podium.drains(itertools.repeat(seen(task(1, text="runs to completion and is not moved"), task(2, stuck=True))))
    result = podium.run("drain", "n1", "--timeout", "0")
    assert result.exit_code == 1
    assert "  shop/web.1: runs to completion and is not moved" in result.stderr


def test_a_drain_that_somebody_ended_is_not_waited_for(podium: Podium) -> None:
    podium.drains([seen(task()), seen(task(), availability=Availability.ACTIVE)])
    result = podium.run("drain", "n1")
    assert result.exit_code == 1
    assert "error: n1 is not being drained any more; 1 task stay there" in result.stderr


class TestPlan:
    PLAN = Plan(
        steps=(PlanStep(action="stop", subject="shop/web.1", text="its node is being drained", healthy_at_least=2),),
        stops=(PlannedStop(job="shop/web", slot=1, task_id="t1", node="n1", reason="its node is being drained"),),
        unplaced=(Unplaced(job="shop/web", slots=(1,), verdict=Verdict(subject="shop/web", verdict="fits nowhere")),),
    )

    def test_it_shows_steps_with_replicas_and_what_fits_nowhere(self, podium: Podium) -> None:
        podium.fake.answer(PLAN_DRAIN, self.PLAN)
        result = podium.run("drain", "n1", "--plan")
        assert result.exit_code == 1
        assert "1. stop shop/web.1: its node is being drained (at least 2 healthy meanwhile)" in result.stdout
        assert "! shop/web slot 1 fits nowhere" in result.stdout
        assert "warning: not all of it has a place elsewhere" in result.stderr
        assert [asked.method for asked in podium.fake.asked] == ["Nodes/PlanDrain"]

    def test_nothing_to_do_is_0_and_an_error_2(self, podium: Podium) -> None:
        assert podium.run("drain", "n1", "--plan").exit_code == 2
        podium.fake.answer(PLAN_DRAIN, Plan())
        assert podium.run("drain", "n1", "--plan").exit_code == 0

    def test_as_json(self, podium: Podium) -> None:
        podium.fake.answer(PLAN_DRAIN, self.PLAN)
        plain = json.loads(podium.run("drain", "n1", "--plan", "-o", "json").stdout)
        assert {"steps", "placements", "stops", "unplaced", "before", "after"} <= plain.keys()


class TestBrake:
    def test_a_release_says_why_it_held_and_what_follows(self, podium: Podium) -> None:
        podium.fake.answer(RELEASE_BRAKE, BrakeReleased(held="2 of 2 nodes fell silent", nodes=("n1", "n2")))
        result = podium.run("brake", "release")
        assert result.exit_code == 0
        assert result.stdout.splitlines() == [
            "released: 2 of 2 nodes fell silent",
            "counted as down from now on, and replaced: n1, n2",
        ]

    def test_nothing_to_release_is_no_fault(self, podium: Podium) -> None:
        podium.fake.answer(RELEASE_BRAKE, BrakeReleased())
        result = podium.run("brake", "release", "-o", "json")
        assert result.exit_code == 0
        assert json.loads(result.stdout) == {"released": False, "held": "", "nodes": []}

    def test_nodes_warn_of_it_beside_the_data(self, podium: Podium) -> None:
        silent = node()
        views = (NodeView(node=silent, condition=condition(silent, NodeStatus.UNREACHABLE)),)
        podium.fake.answer(NODES, NodeList(nodes=views))
        podium.fake.answer(STATUS, self.view)
        result = podium.run("nodes", "-o", "json")
        assert "warning: the brake is engaged: all are silent" in result.stderr
        assert json.loads(result.stdout)[0]["status"] == "unreachable"
        assert podium.asked("Cluster/Status").quick

    def test_ready_nodes_need_no_second_question(self, podium: Podium) -> None:
        podium.fake.answer(NODES, NodeList(nodes=(NodeView(node=node(), condition=condition(node())),)))
        assert podium.run("nodes").exit_code == 0
        assert len(podium.fake.asked) == 1

    def test_the_cluster_shows_it_with_its_reason(self, podium: Podium) -> None:
        podium.fake.answer(STATUS, self.view)
        shown = podium.run("cluster").stdout
        assert "engaged: all are silent; `podium brake release`" in shown
        assert "10.0.0.1:7077 (leads), 10.0.0.2:7077 (stands by)" in shown
        assert "a silent node is out of the balancers in 2.8 s" in shown
        plain = json.loads(podium.run("cluster", "-o", "json").stdout)
        assert (plain["brake"], plain["brake_reason"]) == (True, "all are silent")
        assert plain["store_health"] == "etcd answers in 2 ms"

    @staticmethod
    def view(_address: str, _request: ClusterRequest) -> ClusterView:
        return ClusterView(
            leader="10.0.0.1:7077",
            epoch=Epoch(term=3),
            controllers=("10.0.0.1:7077", "10.0.0.2:7077"),
            store="etcd",
            brake=True,
            brake_reason="all are silent",
            store_health="etcd answers in 2 ms",
            detection="a silent node is out of the balancers in 2.8 s, ...",
        )
