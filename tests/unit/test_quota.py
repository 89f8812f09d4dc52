"""What namespaces may have: limits are set and lifted, growth beyond them is refused, what is there stays."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec
import pytest

from cli.quota import parse_limits
from common.errors import Conflict, Invalid
from common.model.api import ApplyRequest, ScaleRequest, ScaleTarget, SetQuota
from common.model.device import DeviceRequest
from common.model.job import DesiredState, JobMode, JobSpec, JobVersion, RunOf
from common.model.quota import Quota
from controller.api.requests import check_quota
from controller.core.apply import apply_specs, scale
from controller.core.plan import plan
from controller.core.quota import quota_view, set_quota
from controller.core.turns import at_once
from controller.scheduler.node_table import NodeTable
from controller.state import Write
from tests.builders import MIB, job_spec, node, task_spec
from tests.preemption_rig import job, stage
from tests.virtual_time import on_virtual_time
from tests.world import World


def world(*specs: JobSpec, **limits: int) -> World:
    made = World(*specs)
    made.state.apply(Write(Quota(namespace="shop", limits=limits)))
    return made


def refusal(made: World, *specs: JobSpec) -> str:
    with pytest.raises(Conflict) as raised:
        apply_specs(made.state, ApplyRequest(namespace="shop", specs=specs), 1.0, made.rng)
    return str(raised.value)


def scaled(made: World, replicas: int) -> None:
    request = ScaleRequest(namespace="shop", targets=(ScaleTarget(job="web", replicas=replicas),))
    made.write(scale(made.state, request, 1.0))


def web(replicas: int = 2, cpu: float = 1, memory_bytes: int = 0) -> JobSpec:
    return job_spec(replicas=replicas, task=task_spec(cpu=cpu, memory_bytes=memory_bytes))


def test_a_submit_over_the_quota_is_refused_with_the_numbers_of_every_limit() -> None:
    made = world(web(), tasks=3, cpu_millis=2500, memory_bytes=512 * MIB)
    api = msgspec.structs.replace(web(3, cpu=0.5, memory_bytes=256 * MIB), name="api")
    allow = "allow it with `podium quota set shop {}`, or ask for less"
    assert refusal(made, api).splitlines() == [
        f"over the quota of namespace shop: {text}; {allow.format(argument)}"
        for text, argument in (
            ("asks for 1.5 cores more, 2 of 2.5 cores are used", "cpus=3.5"),
            ("asks for 768 MiB of memory more, 0 of 512 MiB of memory are used", "memory=768M"),
            ("asks for 3 tasks more, 2 of 3 tasks are used", "tasks=5"),
        )
    ]
    assert made.state.job_named("shop", "api") is None


def test_what_one_request_gives_back_pays_for_what_it_asks() -> None:
    made = world(web(3), tasks=3)
    more, less = msgspec.structs.replace(web(2), name="api"), web(1)
    made.up(more, less)
    assert quota_view(made.state, "shop").used["tasks"] == 3


def test_scaling_is_held_to_the_quota_and_scaling_back_is_always_allowed() -> None:
    made = world(web(2), tasks=3)
    scaled(made, 3)
    with pytest.raises(Conflict, match="asks for 1 task more, 3 of 3 tasks are used"):
        scaled(made, 4)
    made.state.apply(Write(Quota(namespace="shop", limits={"tasks": 1})))
    scaled(made, 2)
    assert quota_view(made.state, "shop").warnings == (
        "2 of 1 task are used: nothing is stopped, but nothing more is admitted",
    )


def test_a_stopped_job_asks_for_nothing_and_has_to_fit_when_it_comes_back() -> None:
    made = world(web(3), tasks=3)
    of = made.job()
    made.state.apply(Write(msgspec.structs.replace(of, desired=DesiredState.STOP)))
    made.up(msgspec.structs.replace(web(1), name="api"))
    assert "asks for 3 tasks more, 1 of 3 tasks is used" in refusal(made, web(3))


def test_a_rollout_asks_for_no_more_than_its_slots() -> None:
    made = world(web(3), tasks=3, cpu_millis=3000)
    changed = web(3)
    made.up(msgspec.structs.replace(changed, labels={"a": "b"}))
    assert made.job().version == 2
    assert "asks for 3 cores more" in refusal(made, web(3, cpu=2))


def test_other_namespaces_do_not_count() -> None:
    made = world(web(1), tasks=1)
    other = msgspec.structs.replace(web(5), namespace="other")
    made.write(apply_specs(made.state, ApplyRequest(namespace="other", specs=(other,)), 1.0, made.rng))
    assert quota_view(made.state, "shop").used == {"cpu_millis": 1000, "tasks": 1}


def test_devices_are_limited_by_kind() -> None:
    made = world(**{"devices.gpu": 1500})
    task = msgspec.structs.replace(task_spec(), devices=(DeviceRequest(kind="gpu", share_millis=500),))
    made.up(job_spec(replicas=3, task=task))
    assert "asks for 0.5 gpu more, 1.5 of 1.5 gpu are used" in refusal(made, job_spec(replicas=4, task=task))


def test_a_batch_job_asks_for_what_runs_at_a_time_and_is_still_to_do() -> None:
    made = world(tasks=4)
    spec = job_spec("shop/work", replicas=100, mode=JobMode.BATCH)
    made.up(msgspec.structs.replace(spec, batch=msgspec.structs.replace(spec.batch, parallelism=4)))
    assert quota_view(made.state, "shop").used["tasks"] == 4
    of = made.state.job_named("shop", "work")
    assert of is not None
    progress = msgspec.structs.replace(of.progress, version=1, succeeded="1-90,92-99", failed="91")
    made.state.apply(Write(msgspec.structs.replace(of, progress=progress)))
    assert quota_view(made.state, "shop").used["tasks"] == 1


@on_virtual_time
async def test_a_job_that_grows_by_itself_grows_up_to_the_quota_and_on_when_there_is_room() -> None:
    async with stage([node("n1", cpu=8)]) as play:
        await play.up(job("web", cpu=1, replicas=2), within_s=5)
        await play.world.write(Quota(namespace="shop", limits={"tasks": 4}))
        spec = job("backup-1", cpu=1, replicas=4, mode=JobMode.BATCH)
        await play.up(msgspec.structs.replace(spec, replicas=0), within_s=1)
        of = play.world.job("backup-1")
        version = JobVersion(job_id=of.id, version=of.version, spec=spec)
        play.stuck.add("backup-1")
        await play.world.write(version, msgspec.structs.replace(of, replicas=4, run_of=RunOf(job_id="x", due_s=1.0)))
        await asyncio.sleep(20)
        assert len(play.live("backup-1")) == 2
        assert any(reason.reason == "quota" for reason in play.why("backup-1").reasons)
        await play.world.write(Quota(namespace="shop", limits={"tasks": 5}))
        await asyncio.sleep(20)
        assert len(play.live("backup-1")) == 3


# --- setting


def changed(made: World, **fields: object) -> Quota | None:
    for group in set_quota(made.state, SetQuota(namespace="shop", **fields)):  # type: ignore[arg-type]
        for change in group:
            made.state.apply(change)
    return made.state.quotas.get("shop")


def test_limits_that_are_not_named_stay_and_the_last_one_takes_the_record_with_it() -> None:
    made = World()
    assert changed(made, limits={"tasks": 5, "cpu_millis": 1}) == Quota(
        namespace="shop", limits={"cpu_millis": 1, "tasks": 5}
    )
    assert changed(made, limits={"tasks": 6}, lifted=("cpu_millis",)) == Quota(namespace="shop", limits={"tasks": 6})
    assert set_quota(made.state, SetQuota(namespace="shop", limits={"tasks": 6})) == ()
    assert changed(made, lift_all=True) is None
    assert set_quota(made.state, SetQuota(namespace="shop", lift_all=True)) == ()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "names no limit"),
        ({"limits": {"tasks": -1}}, "-1 is out of range"),
        ({"limits": {"disk": 1}}, "'disk' is no resource"),
        ({"limits": {"devices.GPU": 1}}, "is not a name"),
        ({"limits": {"tasks": 1}, "lifted": ("tasks",)}, "is set and lifted"),
    ],
)
def test_wrong_limits_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        check_quota(SetQuota(namespace="shop", **fields))  # type: ignore[arg-type]


def test_limits_as_people_write_them() -> None:
    assert parse_limits(["cpus=8", "memory=32G", "tasks=0", "gpu=2", "fpga=none"]) == (
        {"cpu_millis": 8000, "memory_bytes": 32 << 30, "tasks": 0, "devices.gpu": 2000},
        ["devices.fpga"],
    )


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["cpus"], "cpus: is not NAME=LIMIT"),
        (["cpus=1", "cpus=2"], "cpus: is given twice"),
        (["cpus=x", "tasks=1.5"], "tasks: '1.5' is not a number of tasks"),
        (["memory=8X"], "memory: '8X' is not a size"),
    ],
)
def test_limits_that_cannot_be_read_are_all_named(items: Iterable[str], said: str) -> None:
    with pytest.raises(Invalid) as raised:
        parse_limits(items)
    assert said in str(raised.value)


def test_a_plan_is_refused_as_the_deployment_would_be() -> None:
    made = world(web(2), tasks=2)
    request = ApplyRequest(namespace="shop", specs=(web(3),))
    with pytest.raises(Conflict, match="over the quota of namespace shop"):
        at_once(plan(made.state, made.conditions, NodeTable(), request, made.now_s, made.rng))
