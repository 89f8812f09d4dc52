"""The commands that read, over a transport of answers: what they ask, and what they print where."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from msgspec.structs import replace

from client.transport import EVENTS, INSPECT_JOB, INSPECT_NODE, JOBS, LOGS, NODES, STATUS, TASKS, USAGE, WHY
from common.model.api import (
    ClusterView,
    EventBatch,
    JobDetail,
    JobList,
    ListTasks,
    LogLines,
    NodeList,
    NodeView,
    TaskList,
)
from common.model.epoch import Epoch
from common.model.event import Event
from common.model.node import NodeStatus
from common.model.resources import Resources, Usage
from common.model.session import LogLine, TaskUsage
from common.model.task import Slot
from common.model.usage import NodeUse, TaskUse, UsageView
from common.model.verdict import Reason, Verdict
from tests.builders import attempt, condition, job_spec, job_view, node
from tests.cli_rig import NOW_S, Podium, live


@pytest.fixture
def podium(tmp_path: Path) -> Podium:
    return Podium(tmp_path)


def test_jobs_of_all_namespaces_unless_one_is_chosen(podium: Podium) -> None:
    podium.fake.answer(JOBS, JobList(jobs=(job_view(),)))
    assert podium.json("jobs")[0]["name"] == "web"
    podium.run("jobs", "-n", "shop")
    podium.environ["PODIUM_NAMESPACE"] = "other"
    podium.run("jobs")
    podium.run("--namespace", "early", "jobs")
    podium.run("--namespace", "early", "jobs", "-n", "late")
    assert [asked.request.namespace for asked in podium.fake.asked] == ["", "shop", "other", "early", "late"]


def test_every_form_of_a_list(podium: Podium) -> None:
    podium.fake.answer(JOBS, JobList(jobs=(job_view(),)))
    assert podium.run("jobs", "-o", "name").stdout == "shop/web\n"
    assert "name: web\n" in podium.run("jobs", "-o", "yaml").stdout
    table = podium.run("jobs").stdout
    assert table.splitlines()[0].split()[:3] == ["JOB", "STATUS", "HEALTHY"]
    assert table.splitlines()[1].split()[:3] == ["shop/web", "running", "1/1"]
    assert "\x1b" not in table


def test_an_empty_list_is_an_empty_list(podium: Podium) -> None:
    podium.fake.answer(JOBS, JobList())
    assert podium.json("jobs") == []
    assert podium.run("jobs", "-o", "name").stdout == ""
    assert podium.run("jobs").stdout.startswith("JOB")


def test_ps_of_one_job_in_the_current_namespace_or_by_its_full_name(podium: Podium) -> None:
    podium.fake.answer(TASKS, TaskList(tasks=(live(),)))
    assert podium.json("ps", "web", "-n", "shop")[0]["id"] == "web-1"
    podium.run("ps", "other/api")
    podium.run("ps", "web")
    podium.run("ps")
    assert [asked.request for asked in podium.fake.asked] == [
        ListTasks(namespace="shop", job="web"),
        ListTasks(namespace="other", job="api"),
        ListTasks(namespace="default", job="web"),
        ListTasks(),
    ]


def test_ps_all_shows_how_attempts_ended_also_of_forgotten_tasks(podium: Podium) -> None:
    view = live()
    gone = replace(view.task, id="gone", job_id="job-old")
    slots = (
        Slot(job_id=view.task.job_id, slot=1, attempts=(attempt(view.task, 1, signal="SIGSEGV", log_tail=("boom",)),)),
        Slot(job_id="job-old", slot=2, attempts=(attempt(gone),)),
    )
    old = job_view(job_spec("shop/old"))
    podium.fake.answer(TASKS, TaskList(tasks=(view,), slots=slots))
    podium.fake.answer(JOBS, JobList(jobs=(old,)))
    rows = podium.json("ps", "--all")
    assert [(row["job"], row["slot"], row["state"]) for row in rows] == [
        ("shop/web", 1, "running"),
        ("shop/old", 2, "failed"),
    ]
    assert podium.asked("Jobs/Tasks").include_ended
    table = podium.run("ps", "--all").stdout
    assert "attempt 1" in table
    assert "SIGSEGV" in table
    assert "    | boom" in table


def test_nodes_and_the_cluster(podium: Podium) -> None:
    machine = node("n1")
    podium.fake.answer(NODES, NodeList(nodes=(NodeView(node=machine, condition=condition(machine)),)))
    podium.fake.answer(STATUS, ClusterView(leader="a:1", epoch=Epoch(term=3), version="9"))
    assert podium.json("nodes")[0]["status"] == "ready"
    assert podium.json("cluster")["epoch"]["term"] == 3
    assert podium.run("nodes", "-o", "name").stdout == "n1\n"
    assert "generation 0, term 3" in podium.run("cluster").stdout
    assert podium.json("version")["controller"] == "9"


def test_version_without_a_controller(podium: Podium) -> None:
    assert podium.json("version")["controller"] is None


def test_inspect_is_yaml_for_people_and_json_for_programs(podium: Podium) -> None:
    machine = node("n1")
    podium.fake.answer(INSPECT_JOB, JobDetail(view=job_view(), tasks=(live(),)))
    podium.fake.answer(INSPECT_NODE, NodeView(node=machine, condition=condition(machine)))
    assert "spec:\n" in podium.run("inspect", "job", "shop/web").stdout
    assert podium.json("inspect", "job", "shop/web")["tasks"][0]["id"] == "web-1"
    assert podium.json("inspect", "node", "n1")["attributes"]["os"] == "linux"
    assert podium.run("inspect", "pod", "x").exit_code == 2


def test_why(podium: Podium) -> None:
    verdict = Verdict(subject="shop/web", verdict="fits nowhere", reasons=(Reason(reason="resource", text="too big"),))
    podium.fake.answer(WHY, verdict)
    assert podium.json("why", "shop/web")["reasons"][0]["text"] == "too big"
    assert podium.run("why", "web.1", "-n", "shop").stdout == "shop/web: fits nowhere\n  - too big\n"
    assert podium.fake.asked[-1].request.name == "web.1"


def happened(second: int) -> Event:
    return Event(time_s=NOW_S + second, kind="task.running", subject="task shop/web.1", message="it runs")


def test_events_are_a_list_or_with_watch_a_line_each(podium: Podium) -> None:
    podium.fake.stream(EVENTS, [EventBatch(events=(happened(1), happened(2)))])
    assert [event["kind"] for event in podium.json("events", "--since", "10m")] == ["task.running"] * 2
    assert podium.asked("Cluster/Events").since_s == NOW_S - 600

    async def until_interrupted(address: str, request: object) -> AsyncGenerator[EventBatch, None]:
        yield EventBatch(events=(happened(1), happened(2)))
        raise KeyboardInterrupt

    podium.fake.stream(EVENTS, until_interrupted)
    watched = podium.run("events", "-w", "-o", "json")
    assert [json.loads(line)["subject"] for line in watched.stdout.splitlines()] == ["task shop/web.1"] * 2
    assert watched.exit_code == 130


def test_logs_name_the_task_of_each_line_and_keep_warnings_apart(podium: Podium) -> None:
    lines = tuple(LogLine(task_id=f"t{slot}", job="shop/web", slot=slot, text=f"hi {slot}") for slot in (1, 10))
    podium.fake.stream(LOGS, [LogLines(lines=lines, warnings=("node n2 does not answer",))])
    result = podium.run("logs", "shop/web", "--tail", "5", "--since", "1h")
    assert result.stdout == "web.1 | hi 1\nweb.10 | hi 10\n"
    assert result.stderr == "warning: node n2 does not answer\n"
    request = podium.asked("Jobs/Logs")
    assert (request.namespace, request.name, request.tail, request.since_s) == ("shop", "web", 5, NOW_S - 3600)
    result = podium.run("logs", "web.1", "-o", "json")
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == ["hi 1", "hi 10"]
    assert podium.fake.asked[-1].request.tail == -1


def test_top_once_for_programs(podium: Podium) -> None:
    has = Resources(cpu_millis=4000, memory_bytes=1 << 30)
    used = NodeUse(
        node="n1",
        node_id="id-n1",
        status=NodeStatus.READY,
        usage=Usage(cpu_millis=1000, memory_bytes=1 << 28, tasks=2),
        capacity=has,
        reserved=Resources(),
        measured=True,
    )
    idle = TaskUse(job="shop/api", slot=2, node="n1", usage=TaskUsage(task_id="t2", memory_bytes=5))
    busy = TaskUse(
        job="shop/web",
        slot=1,
        node="n1",
        usage=TaskUsage(task_id="t1", cpu_millis=250),
        limits=Resources(cpu_millis=500),
    )
    podium.fake.answer(USAGE, UsageView(nodes=(used,), tasks=(idle, busy)))
    rows = [line.split() for line in podium.run("top").stdout.splitlines()]
    assert rows[1] == ["n1", "ready", "1.00", "/", "4.00", "25", "256M", "/", "1G", "25", "2"]
    assert [row[0] for row in rows[4:]] == ["shop/web.1", "shop/api.2"], "the busiest first"
    assert rows[4][3:7] == ["0.25", "/", "0.50", "50"]
    plain = json.loads(podium.run("top", "shop/web", "-o", "json").stdout)
    assert plain["nodes"][0]["cpu_millis"] == {"used": 1000, "reserved": 0, "capacity": 4000}
    assert plain["tasks"][1]["cpu_millis"] == {"used": 250, "limit": 500}
    assert plain["tasks"][0]["cpu_millis"]["limit"] is None
    request = podium.fake.asked[-1].request
    assert (request.namespace, request.job) == ("shop", "web")
