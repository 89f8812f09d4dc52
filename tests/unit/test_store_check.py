"""`podium store check`: a sound state passes, and each thing that can be wrong with one is named with what to do."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from common.model.job import Port, PublishMode
from common.model.node import Stray
from common.model.store import CheckReport, Finding
from common.model.task import Slot, TaskState
from controller.core import check as core
from controller.store import check
from controller.store.interface import Examination, Snapshot
from controller.store.keys import RESTORING, Record, encode, key_of
from tests import builders

NODE = builders.node(cpu=4)
JOB, VERSION = builders.job(builders.job_spec("shop/web", replicas=2, task=builders.task_spec(cpu=2)))
TASKS = (builders.task(JOB, 1, node_id=NODE.id), builders.task(JOB, 2, node_id=NODE.id))
THIRD = builders.task(JOB, 1, node_id=NODE.id, suffix="b")
SOUND: tuple[Record, ...] = (NODE, JOB, VERSION, *TASKS, Slot(job_id=JOB.id, slot=1))


def found(*records: Record) -> list[Finding]:
    return list(core.findings(core.Records.of(records)))


def without(*gone: Record) -> list[Record]:
    return [record for record in SOUND if record not in gone]


def test_a_sound_state_passes() -> None:
    assert found(*SOUND) == []


@pytest.mark.parametrize(
    ("records", "subject", "text"),
    [
        (without(VERSION), key_of(JOB), "is at version 1, which is not there"),
        (without(VERSION), "tasks/web-1", "runs version 1 of shop/web, which is not there"),
        (without(JOB), "tasks/web-1", "belongs to job job-web, which is not there"),
        (without(JOB), key_of(VERSION), "belongs to job job-web, which is not there"),
        (without(JOB), "slots/job-web/000001", "belongs to job job-web, which is not there"),
        (without(NODE), "tasks/web-1", "is on node id-n1, which is not there"),
        ([*SOUND, replace(JOB, id="twin")], "job shop/web", "is there 2 times"),
        ([*SOUND, THIRD], "node n1", "has 6000 millicores reserved and offers 4000"),
    ],
)
def test_what_does_not_fit_together_is_named(records: Iterable[Record], subject: str, text: str) -> None:
    fitting = [finding for finding in found(*records) if finding.subject == subject]
    assert text in [finding.text for finding in fitting]
    assert all(finding.why and finding.advice for finding in fitting)


def test_what_has_ended_takes_nothing() -> None:
    ended = builders.task(JOB, 1, node_id=NODE.id, suffix="old", state=TaskState.FAILED)
    gone = builders.task(JOB, 1, node_id="id-gone", suffix="older", state=TaskState.STOPPED)
    assert found(*SOUND, ended, gone) == []


def test_a_slot_may_have_two_tasks_while_it_changes_hands_and_never_three() -> None:
    job, version = builders.job()
    tasks = [builders.task(job, 1, node_id=NODE.id, suffix=suffix) for suffix in "abc"]
    assert found(NODE, job, version, *tasks[:2]) == []
    (finding,) = found(NODE, job, version, *tasks)
    assert (finding.subject, finding.error) == ("shop/web.1", True)
    assert "has 3 tasks that are meant to run" in finding.text
    lost = replace(tasks[2], lost_at_s=1.0)
    assert found(NODE, job, version, *tasks[:2], lost) == []


def publishing(name: str, mode: PublishMode) -> tuple[Record, Record, Record]:
    spec = replace(builders.task_spec(), ports=(Port(container_port=80, published_port=8080, mode=mode),))
    job, version = builders.job(builders.job_spec(name, task=spec))
    return job, version, builders.task(job, node_id=NODE.id)


def test_a_host_port_has_one_owner_on_a_node_and_a_published_one_in_the_cluster() -> None:
    first, second = (publishing(name, PublishMode.HOST) for name in ("shop/a", "shop/b"))
    (finding,) = found(NODE, *first, *second)
    assert (finding.subject, finding.text) == ("node n1", "port 8080/tcp belongs to 2 tasks: shop/a.1, shop/b.1")
    first, second = (publishing(name, PublishMode.INGRESS) for name in ("shop/a", "shop/b"))
    (finding,) = found(NODE, *first, *second)
    assert (finding.subject, finding.text) == ("port 8080/tcp", "is published by shop/a, shop/b")


def test_strays_are_a_warning() -> None:
    (finding,) = found(replace(NODE, strays=(Stray(task_id="t9", job="shop/new", slot=1),)))
    assert not finding.error
    assert "t9 (shop/new)" in finding.text
    assert "podium store stop-strays t9" in finding.advice


# --- the report


async def report(
    values: dict[str, bytes], *, examined: Examination | None = None, believed: dict[str, Record] | None = None
) -> CheckReport:
    snapshot = Snapshot(revision=7, values=values)
    return await check.report("sqlite", snapshot, examined or Examination(), believed=believed)


def stored(records: Iterable[Record] = SOUND) -> dict[str, bytes]:
    return {key_of(record): encode(record) for record in records}


async def test_a_report_counts_what_it_read() -> None:
    full = await report(stored(), examined=Examination(facts={"file": "/x"}))
    assert full.findings == ()
    assert full.facts["records"] == "jobs 1, nodes 1, slots 1, tasks 2, versions 1"
    assert (full.facts["revision"], full.facts["file"]) == ("7", "/x")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("tasks/x", b"{half", "store key 'tasks/x'"),
        ("tasks/x", encode(TASKS[0]), "holds the record of 'tasks/web-1'"),
        ("floppies/1", b"{}", "of no kind this version knows"),
        (RESTORING, b"{}", "begun and not finished"),
    ],
)
async def test_what_cannot_be_read_is_an_error(key: str, value: bytes, text: str) -> None:
    (finding,) = (await report(stored() | {key: value})).findings
    assert finding.error
    assert finding.subject == key
    assert text in finding.text


async def test_a_record_near_the_limit_is_a_warning() -> None:
    large = replace(JOB, note="x" * 800_000)
    (finding,) = (await report(stored([*without(JOB), large]))).findings
    assert (finding.error, finding.subject) == (False, key_of(JOB))


async def test_a_leader_that_believes_something_else_is_an_error() -> None:
    believed = {key_of(record): record for record in SOUND}
    assert (await report(stored(), believed=believed)).findings == ()
    other = believed | {key_of(JOB): replace(JOB, replicas=9), "nodes/more": builders.node("more")}
    assert [finding.subject for finding in (await report(stored(), believed=other)).findings] == [
        key_of(JOB),
        "nodes/more",
    ]


async def test_errors_come_first() -> None:
    examined = Examination(findings=(Finding(error=False, subject="etcd", text="small", why="w", advice="a"),))
    full = await report(stored() | {"tasks/x": b""}, examined=examined)
    assert [finding.error for finding in full.findings] == [True, False]
