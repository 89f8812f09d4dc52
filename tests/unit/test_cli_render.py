"""The JSON forms have the fields that scripts rely on; tables say the same for people."""

from __future__ import annotations

import json

from msgspec.structs import replace

from cli import render_json, render_plan, render_table
from common.model.api import (
    ClusterView,
    DeviceHolder,
    JobChange,
    JobDetail,
    NodeView,
    Plan,
    PlannedPlacement,
    PlannedStop,
    PlanStep,
    TaskDetail,
    TaskList,
    Unplaced,
)
from common.model.device import Device, DeviceGrant, DeviceRequest
from common.model.epoch import Epoch
from common.model.event import Event
from common.model.job import DesiredState, Port
from common.model.node import RuntimeStatus
from common.model.resources import Resources
from common.model.session import LogLine
from common.model.task import Health, PortBinding, Slot, Task, TaskState, TaskStatus
from common.model.verdict import Fix, Reason, Verdict
from tests.builders import GIB, MIB, attempt, condition, job, job_spec, job_view, node, task, task_spec, task_view

NOON_S = 1_900_000_000.25
NOON = "2030-03-17T17:46:40.250Z"


def running(slot: int = 1) -> Task:
    record, _ = job()
    return replace(
        task(record, slot, node_id="id-n1"),
        status=TaskStatus(
            attempt=3,
            state=TaskState.RUNNING,
            sequence=9,
            exit_code=None,
            started_at_s=NOON_S,
            runtime_id="c0ffee",
            ports=(PortBinding(container_port=80, host_address="127.0.0.1", host_port=31000),),
        ),
    )


def test_a_time_that_never_was_is_null() -> None:
    assert render_json.rfc3339(0.0) is None
    assert render_json.rfc3339(NOON_S) == NOON


def test_a_job() -> None:
    spec = job_spec(replicas=3)
    spec = replace(spec, task=replace(spec.task, ports=(Port(container_port=80, published_port=8080),)))
    plain = render_json.job(job_view(spec, healthy=2, message="1 of 3 replicas are on their way", version=4))
    assert plain | {"id": "", "created_at": "", "changed_at": ""} == {
        "id": "",
        "namespace": "shop",
        "name": "web",
        "mode": "service",
        "version": 4,
        "status": "running",
        "desired": 3,
        "running": 3,
        "healthy": 2,
        "succeeded": 0,
        "failed": 0,
        "image": "app:1",
        "ports": [{"container": 80, "published": 8080, "protocol": "tcp", "mode": "ingress", "loopback": False}],
        "message": "1 of 3 replicas are on their way",
        "rollout": None,
        "autoscale": None,
        "created_at": "",
        "changed_at": "",
    }


def test_a_jobs_message_tells_of_a_paused_rollout_and_of_one_that_failed_but_nothing_twice() -> None:
    view = job_view(message="slow", note="version 2 was rolled back", paused="slow")
    assert render_json.job(view)["message"] == "slow; version 2 was rolled back"


def test_a_task() -> None:
    plain = render_json.task(task_view(running(), health=Health.HEALTHY))
    wanted = {
        "id": "web-1",
        "job": "shop/web",
        "slot": 1,
        "node": "n1",
        "state": "running",
        "desired": "run",
        "health": "healthy",
        "ports": [{"container": 80, "host_address": "127.0.0.1", "host_port": 31000, "protocol": "tcp"}],
        "restarts": 2,
        "exit_code": None,
        "message": "",
        "started_at": NOON,
        "runtime_id": "c0ffee",
        "job_version": 1,
    }
    assert plain.items() >= wanted.items()


def test_a_task_that_never_started_has_not_restarted() -> None:
    record, _ = job()
    assert render_json.task(task_view(task(record)))["restarts"] == 0


def test_attempts_stand_with_their_task_and_forgotten_tasks_get_rows_of_their_own() -> None:
    live, gone = running(), replace(running(), id="old", node_id="id-n1")
    slot = Slot(
        job_id=live.job_id,
        slot=1,
        attempts=(attempt(gone, 5, oom=True, signal="SIGKILL", exit_code=137), attempt(live, 1, ended_at_s=NOON_S)),
    )
    rows = render_json.tasks(TaskList(tasks=(task_view(live),), slots=(slot,)), {live.job_id: "shop/web"})
    assert [row["id"] for row in rows] == ["web-1", "old"]
    assert [record["ended_at"] for record in rows[0]["attempts"]] == [NOON]
    assert rows[1].items() >= {"job": "shop/web", "node": "n1", "state": "failed", "exit_code": 137}.items()
    assert rows[0].keys() == rows[1].keys()


def test_a_node_is_shown_as_its_last_heartbeat_said() -> None:
    machine = node("n1", cpu=2, memory_bytes=GIB, labels={"zone": "eu"})
    away = (RuntimeStatus(name="docker", ready=False, message="no answer"),)
    view = NodeView(
        node=machine,
        condition=replace(condition(machine, runtimes=away), last_seen_s=NOON_S),
        reserved=Resources(cpu_millis=500, memory_bytes=256 * MIB),
        tasks=3,
    )
    assert (
        render_json.node(view).items()
        >= {
            "id": "id-n1",
            "name": "n1",
            "status": "ready",
            "availability": "active",
            "address": "127.0.0.1",
            "labels": {"zone": "eu"},
            "cpu_millis": {"capacity": 2000, "reserved": 500},
            "memory_bytes": {"capacity": GIB, "reserved": 256 * MIB},
            "tasks": 3,
            "runtimes": ["docker"],
            "degraded": "docker does not answer: no answer",
            "agent_version": "",
            "last_seen": NOON,
        }.items()
    )
    assert render_json.node_detail(view)["attributes"]["os"] == "linux"


def with_gpus(*, holders: tuple[DeviceHolder, ...] = ()) -> NodeView:
    machine = node("n1")
    units = (Device(kind="gpu", id="GPU-7f", model="A10"), Device(kind="gpu", id="GPU-8a", model="A10"))
    described = replace(machine.description, devices=(*units, Device(kind="fpga", id="0")))
    return NodeView(node=replace(machine, description=described), condition=condition(machine), device_holders=holders)


def test_a_node_lists_its_devices() -> None:
    assert render_json.node(with_gpus())["devices"] == [
        {"kind": "gpu", "id": "GPU-7f", "model": "A10"},
        {"kind": "gpu", "id": "GPU-8a", "model": "A10"},
        {"kind": "fpga", "id": "0", "model": ""},
    ]
    bare = NodeView(node=node("n2"), condition=condition(node("n2")))
    grid = render_table.nodes([render_json.node(with_gpus()), render_json.node(bare)], NOON_S)
    column = grid.headings.index("DEVICES")
    assert [row[column] for row in grid.rows] == ["2 gpu A10, 1 fpga", ""]
    assert "DEVICES" not in render_table.nodes([render_json.node(bare)], NOON_S).headings


def test_a_node_in_detail_says_who_holds_which_share_of_its_devices_also_of_one_that_is_gone() -> None:
    def holder(unit: str, slot: int, share_millis: int = 1000) -> DeviceHolder:
        grant = DeviceGrant(kind="gpu", id=unit, share_millis=share_millis)
        return DeviceHolder(grant=grant, task_id=f"web-{slot}", job="shop/web", slot=slot)

    held = render_json.node_detail(
        with_gpus(holders=(holder("GPU-7f", 1, 300), holder("GPU-7f", 2, 500), holder("GPU-0", 3)))
    )["devices"]
    assert [(unit["id"], unit["present"]) for unit in held] == [
        ("GPU-7f", True),
        ("GPU-8a", True),
        ("0", True),
        ("GPU-0", False),
    ]
    assert held[0]["held_by"] == [
        {"task": "web-1", "job": "shop/web", "slot": 1, "share": 0.3},
        {"task": "web-2", "job": "shop/web", "slot": 2, "share": 0.5},
    ]
    assert [unit["held_by"] for unit in held[1:3]] == [[], []]
    assert held[3]["held_by"][0]["task"] == "web-3"
    json.dumps(held)


def test_a_task_says_which_devices_it_holds_and_a_job_what_it_asks_for() -> None:
    grant = DeviceGrant(kind="gpu", id="GPU-7f", share_millis=500)
    assert render_json.task(task_view(running()))["devices"] == []
    plain = render_json.task(task_view(replace(running(), devices=(grant,))))
    assert plain["devices"] == [{"kind": "gpu", "id": "GPU-7f", "share": 0.5}]
    request = DeviceRequest(kind="gpu", share_millis=500, models=("A10",))
    view = job_view(job_spec(task=replace(task_spec(), devices=(request,))))
    (asked,) = render_json.job_detail(JobDetail(view=view))["spec"]["task"]["devices"]
    assert asked == {"kind": "gpu", "count": 1, "share_millis": 500, "models": ("A10",)}


def test_a_cluster_counts_every_status() -> None:
    plain = render_json.cluster(
        ClusterView(leader="a:1", epoch=Epoch(generation=1, term=7), nodes={"ready": 3}, timers={"heartbeat": 1.0})
    )
    assert plain["epoch"] == {"generation": 1, "term": 7}
    assert plain["nodes"] == {"ready": 3, "disconnected": 0, "unreachable": 0, "down": 0}
    assert {"leader", "controllers", "store", "timers", "brake", "survives_loss_of_any_node"} <= plain.keys()


def verdict() -> Verdict:
    return Verdict(
        subject="shop/web",
        verdict="no node has 64 GiB free",
        reasons=(
            Reason(
                reason="resource",
                node="n1",
                resource="memory_bytes",
                need="64G",
                have="8G",
                short="8G",
                text="n1 has 8G",
            ),
            Reason(reason="status", nodes=2, text="are down"),
        ),
        fixes=(Fix(text="ask for less", command="podium up"),),
    )


def test_why() -> None:
    plain = render_json.verdict(verdict())
    assert plain["reasons"][0].keys() >= {"node", "reason", "resource", "need", "have", "short", "text"}
    assert plain["fixes"] == [{"text": "ask for less", "command": "podium up"}]
    assert render_table.why(plain) == [
        "shop/web: no node has 64 GiB free",
        "  - n1: n1 has 8G",
        "  - 2 nodes: are down",
        "what would help:",
        "  - ask for less: podium up",
    ]


def test_a_plan() -> None:
    planned = Plan(
        changes=(JobChange(job="shop/web", action="update", version=2, text="image: a -> b"),),
        steps=(PlanStep(action="replace", subject="shop/web.1", text="new before old", healthy_at_least=2),),
        placements=(PlannedPlacement(job="shop/web", slot=1, node="n2"),),
        stops=(PlannedStop(job="shop/web", slot=1, task_id="t", node="n1", reason="replaced"),),
        unplaced=(Unplaced(job="shop/db", slots=(1, 2), verdict=verdict()),),
        before={"n1": 1},
        after={"n2": 1},
    )
    plain = render_json.plan(planned)
    assert plain.keys() >= {"steps", "placements", "stops", "unplaced", "before", "after"}
    text = "\n".join(render_plan.plan(plain))
    for said in (
        "shop/web update (version 2): image: a -> b",
        "1. replace shop/web.1: new before old (at least 2 healthy meanwhile)",
        "+ shop/web.1 on n2",
        "- shop/web.1 on n1: replaced",
        "! shop/db slots 1-2 fit nowhere",
        "no node has 64 GiB free",
        "n1: 1 -> 0",
        "n2: 0 -> 1",
    ):
        assert said in text


def test_an_event_and_a_log_line() -> None:
    event = Event(time_s=NOON_S, kind="node.down", subject="node n1", message="silent", cause="no heartbeat")
    plain = render_json.event(event)
    assert plain.items() >= {"time": NOON, "kind": "node.down", "subject": "node n1", "cause": "no heartbeat"}.items()
    assert render_table.event(plain) == (NOON, "node.down", "node n1", "silent (no heartbeat)")
    assert render_json.log_line(LogLine(task_id="t", text="hi"))["stream"] == "stdout"


def test_details_hold_the_spec_and_every_attempt_and_are_json() -> None:
    live = running()
    slot = Slot(job_id=live.job_id, slot=1, attempts=(attempt(live), attempt(replace(live, id="old"))))
    view = job_view(job_spec(task=task_spec(constraints=["node.labels.zone == eu"])))
    plain = render_json.job_detail(JobDetail(view=view, tasks=(task_view(live),), slots=(slot,)))
    assert plain["spec"]["task"]["placement"]["constraints"][0]["operator"] == "=="
    assert [row["id"] for row in plain["tasks"]] == [live.id, "old"]
    detail = render_json.task_detail(TaskDetail(view=task_view(live), spec=view.spec, slot=slot))
    assert (len(detail["attempts"]), [record["task"] for record in detail["earlier_attempts_of_slot"]]) == (1, ["old"])
    json.dumps([plain, detail])


def test_tables_shorten_and_say_what_is_stopping() -> None:
    live = replace(running(), id="0123456789abcdefghjk", desired=DesiredState.STOP)
    slot = Slot(
        job_id=live.job_id,
        slot=1,
        attempts=(
            attempt(
                live,
                2,
                ended_at_s=NOON_S,
                signal="SIGKILL",
                oom=True,
                memory_peak_bytes=64 * MIB,
                memory_limit_bytes=64 * MIB,
                log_tail=("one", "two", "three", "fo\x1b[31mur"),
            ),
        ),
    )
    rows = render_json.tasks(TaskList(tasks=(task_view(live, message="a\nb"),), slots=(slot,)), {})
    grid = render_table.tasks(rows, NOON_S + 90, attempts=True)
    assert grid.rows[0][:4] == ("01234567", "shop/web.1", "n1", "running (stopping)")
    assert grid.rows[0][-1] == "a b"
    assert [row[0] for row in grid.rows[1:]] == [
        "  attempt 2, 90s ago: out of memory, 64M of 64M used",
        "    | two",
        "    | three",
        "    | fo·[31mur",
    ]
    assert len(render_table.tasks(rows, NOON_S, attempts=False).rows) == 1


def test_the_last_health_check_of_an_attempt_is_shown_unless_it_is_the_reason() -> None:
    record = render_json.attempt_record(attempt(running(), ended_at_s=NOON_S, health_output="503\n"))
    assert render_table.attempt_notes(record, NOON_S)[-1] == "    last health check: 503"
    doomed = record | {"message": "unhealthy after a failed health check, which said: 503"}
    assert len(render_table.attempt_notes(doomed, NOON_S)) == 1


def test_a_task_known_from_its_records_alone_is_shown_as_it_ended() -> None:
    old = running()
    ends = {
        "failed": attempt(old, started_at_s=NOON_S, ended_at_s=NOON_S),
        "complete": attempt(old, started_at_s=NOON_S, ended_at_s=NOON_S, exit_code=0),
        "rejected": attempt(old, ended_at_s=NOON_S, exit_code=None, message="no such image"),
    }
    for state, record in ends.items():
        slot = Slot(job_id=old.job_id, slot=1, attempts=(record,))
        assert [row["state"] for row in render_json.tasks(TaskList(slots=(slot,)), {})] == [state]


def test_ages_and_sizes_in_units_people_read() -> None:
    moment = render_json.rfc3339(NOON_S)
    ages = [render_table.age(moment, NOON_S + passed_s) for passed_s in (-5, 0, 119, 120, 7200, 200_000)]
    assert ages == ["0s", "0s", "119s", "2m", "2h", "2d"]
    assert render_table.age(None, NOON_S) == "-"
    assert [render_table.size(size) for size in (0, 512, 1536, 64 * MIB, 3 * GIB)] == [
        "0B",
        "512B",
        "1.5K",
        "64M",
        "3G",
    ]
    assert render_table.cores(1500) == "1.5"
