"""Volumes: where tasks that have one may go, what a node may give away, what a Compose file says, and who deletes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from agent.policy import Guarded, check_policy
from agent.runtime.docker_request import configuration
from agent.runtime.process_volumes import ProcessVolumes, variable
from common import validation
from common.errors import Conflict, Invalid, NotFound
from common.model.job import Container, JobSpec, Mount, MountKind, TaskSpec
from common.model.node import Node, NodeCondition, NodeDescription, NodeStatus, RuntimeStatus
from common.model.privileges import BindRule, NodePolicy
from common.model.resources import Resources
from common.model.session import RemoveVolume, VolumeRemoved, VolumeReport
from common.model.task import TaskReport
from common.model.volume import ListVolumes, RemoveVolumeRequest
from common.rollout_rules import stop_first_because
from controller.scheduler.node_table import NodeTable
from controller.scheduler.schedule import schedule
from controller.scheduler.values import Request
from tests.api_rig import api
from tests.api_rig import node as api_node
from tests.compose_files import Workspace
from tests.dispatcher_rig import job_records, running_status, task_of
from tests.runtime_rigs import DockerRig

DATA = Mount(kind=MountKind.VOLUME, source="shop_data", target="/data")
SHARED = msgspec.structs.replace(DATA, shared=True)
READ = msgspec.structs.replace(DATA, read_only=True)


def spec(*mounts: Mount, name: str = "db", replicas: int = 1) -> JobSpec:
    container = Container(image="db:1", mounts=mounts)
    return JobSpec(namespace="shop", name=name, replicas=replicas, task=TaskSpec(container=container))


def table(
    *nodes: tuple[str, tuple[str, ...]],
    allow: tuple[str, ...] = (),
    down: tuple[str, ...] = (),
    policy: NodePolicy | None = None,
) -> NodeTable:
    made = NodeTable()
    on_a = policy or NodePolicy(bind=tuple(BindRule(path=path) for path in allow))
    for name, volumes in nodes:
        description = NodeDescription(
            id=name,
            name=name,
            address="10.0.0.1",
            capacity=Resources(cpu_millis=1000, memory_bytes=1 << 30),
            runtimes=(RuntimeStatus(name="docker"),),
            policy=on_a if name == "a" else NodePolicy(),
        )
        status = NodeStatus.DOWN if name in down else NodeStatus.READY
        condition = NodeCondition(node_id=name, status=status)
        made.set_node(Node(id=name, description=description, volumes=volumes), condition)
    return made


def request_of(job: JobSpec, tasks: int = 1) -> Request:
    return Request(job_id=job.name, task_ids=tuple(f"{job.name}{number}" for number in range(tasks)), spec=job)


def places(nodes: NodeTable, job: JobSpec, tasks: int = 1) -> tuple[list[str], str]:
    """Where its tasks go, and why the rest does not."""
    plan = schedule(nodes, [request_of(job, tasks)])
    verdict = plan.unplaced[0].verdict.verdict if plan.unplaced else ""
    return [placement.node_id for placement in plan.placements], verdict


# --- where tasks go


def test_a_task_goes_back_to_its_volume_and_nowhere_else() -> None:
    assert places(table(("a", ()), ("b", ("shop_data",)), ("c", ())), spec(DATA)) == (["b"], "")


def test_it_waits_for_the_node_that_is_away_and_says_which_one() -> None:
    found, verdict = places(table(("a", ()), ("b", ("shop_data",)), down=("b",)), spec(DATA))
    assert found == []
    assert "its data is in volume shop_data, which is on b: node a does not have it" in verdict


def test_a_volume_has_one_writer_at_a_time() -> None:
    nodes = table(("a", ("shop_data",)))
    nodes.add_task("a", spec(DATA, name="other").task, "other")
    found, verdict = places(nodes, spec(DATA))
    assert found == []
    assert "must be the only one to write volume shop_data: another task has it on node a" in verdict
    assert places(nodes, spec(READ, name="reader"))[0] == ["a"], "reading beside it is fine"


def test_each_replica_has_a_volume_of_its_own_and_goes_back_to_one() -> None:
    fresh = table(("a", ()), ("b", ()), ("c", ()), ("d", ()))
    assert len(set(places(fresh, spec(DATA, replicas=3), 3)[0])) == 3
    kept = table(("a", ("shop_data",)), ("b", ()), ("c", ("shop_data",)), ("d", ("shop_data",)))
    assert sorted(places(kept, spec(DATA, replicas=3), 3)[0]) == ["a", "c", "d"]
    lost = table(("a", ("shop_data",)), ("b", ()), ("c", ("shop_data",)), down=("c",))
    assert places(lost, spec(DATA, replicas=2), 2)[0] == ["a"], "the other one's data is on c"
    more = table(("a", ("shop_data",)), ("b", ()))
    assert sorted(places(more, spec(DATA, replicas=2), 2)[0]) == ["a", "b"], "a second one begins with nothing"


def test_an_external_volume_is_never_begun_anew() -> None:
    external = msgspec.structs.replace(DATA, external=True)
    found, verdict = places(table(("a", ()), ("b", ("shop_other",))), spec(external))
    assert found == []
    assert "its data is in volume shop_data, which is on no node, and external: Podium makes none" in verdict
    kept = (("a", ()), ("b", ("shop_data",)))
    assert places(table(*kept), spec(external)) == (["b"], "")
    assert places(table(*kept), spec(external, replicas=2), 2)[0] == ["b"], "there is none for a second one"
    shared = msgspec.structs.replace(external, shared=True)
    assert places(table(*kept), spec(shared, replicas=2), 2)[0] == ["b", "b"]


def test_those_who_share_a_volume_are_where_it_is() -> None:
    nodes = table(("a", ()), ("b", ()), ("c", ()))
    first = places(nodes, spec(SHARED, replicas=3), 3)[0]
    assert len(first) == 3
    assert len(set(first)) == 1
    assert places(nodes, spec(SHARED, name="web"))[0] == first[:1]


def test_a_copy_of_the_table_is_independent() -> None:
    nodes = table(("a", ()), ("b", ()))
    twin = nodes.copy()
    twin.add_task("a", spec(DATA).task, "db")
    assert nodes.volumes.at("shop_data") == set()
    twin.remove_task("a", spec(DATA).task, "db")
    assert twin.volumes.at("shop_data") == set()


def test_bind_mounts_only_where_the_policy_allows_them() -> None:
    bind = Mount(kind=MountKind.BIND, source="/srv/data/shop", target="/data")
    nodes = table(("a", ()), ("b", ()), allow=("/srv/data",))
    assert places(nodes, spec(bind))[0] == ["a"]
    found, verdict = places(nodes, spec(msgspec.structs.replace(bind, source="/srv/database")))
    assert found == []
    assert "the policies of nodes a and b do not allow bind mounts under /srv/database" in verdict
    assert "node b's policy does not allow bind mounts under /srv" in places(table(("b", ())), spec(bind))[1]


def test_a_single_writer_makes_an_update_stop_first() -> None:
    assert stop_first_because(spec(DATA)) == "it alone may write volume shop_data"
    assert stop_first_because(spec(SHARED)) == stop_first_because(spec(READ)) == ""


# --- what a node gives


def test_links_do_not_lead_out_of_what_is_allowed(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    (allowed / "data").mkdir(parents=True)
    (allowed / "way-out").symlink_to("/etc")

    def bind(path: Path) -> Mount:
        return Mount(kind=MountKind.BIND, source=str(path), target="/x")

    policy, guarded = NodePolicy(bind=(BindRule(path=str(allowed)),)), Guarded(directories=(str(tmp_path / "agent"),))

    def check(*mounts: Mount, policy: NodePolicy = policy) -> None:
        check_policy(Container(image="a", mounts=mounts), policy, guarded)

    check(bind(allowed / "data"), DATA)
    for path, words in ((allowed / "way-out", "leads to /etc"), (tmp_path, "not allow"), (Path("/etc"), "not allow")):
        with pytest.raises(Invalid, match=words):
            check(bind(path))
    with pytest.raises(Invalid, match="does not allow bind mounts under"):
        check(bind(allowed), policy=NodePolicy())


def test_volumes_of_processes_are_directories_that_stay(tmp_path: Path) -> None:
    volumes = ProcessVolumes(tmp_path / "volumes")
    assert volumes.names() == ()
    places = volumes.make(("shop_my-data",), None)
    assert places == {"PODIUM_VOLUME_MY_DATA": str(tmp_path / "volumes" / "shop_my-data")}
    assert variable("shop_a.b") == "PODIUM_VOLUME_A_B"
    kept = Path(places["PODIUM_VOLUME_MY_DATA"]) / "kept"
    kept.write_text("x")
    volumes.make(("shop_my-data",), None)
    assert kept.read_text() == "x"
    assert volumes.names() == ("shop_my-data",)
    volumes.remove("../volumes")
    volumes.remove("shop_my-data")
    assert volumes.names() == ()


def test_what_the_engine_is_asked_for() -> None:
    rig = DockerRig()
    mounts = (
        DATA,
        Mount(kind=MountKind.BIND, source="/srv/a", target="/a", read_only=True),
        Mount(kind=MountKind.TMPFS, target="/t", size_bytes=5),
    )
    body = configuration(rig.request(Container(image="db:1", mounts=mounts)))
    host = body["HostConfig"]
    assert isinstance(host, dict)
    volume, bind, tmpfs = host["Mounts"]  # type: ignore[misc]  # it is a list of three
    assert volume["Source"] == f"podium_{rig.node_id}_shop_data"  # type: ignore[index,call-overload]
    assert volume["VolumeOptions"] == {"Labels": {"podium.node": rig.node_id, "podium.volume": "shop_data"}}  # type: ignore[index,call-overload]
    assert (bind["Source"], bind["ReadOnly"]) == ("/srv/a", True)  # type: ignore[index,call-overload]
    assert tmpfs["TmpfsOptions"] == {"SizeBytes": 5}  # type: ignore[index,call-overload]


# --- what is refused


@pytest.mark.parametrize(
    ("mount", "path", "words"),
    [
        (msgspec.structs.replace(DATA, source="bank_data"), "source", "not of namespace shop"),
        (msgspec.structs.replace(DATA, source="shop_../x"), "source", "no name of a volume"),
        (msgspec.structs.replace(DATA, target="data"), "target", "no absolute path"),
        (msgspec.structs.replace(DATA, target="/"), "target", "the root of the container"),
        (Mount(kind=MountKind.BIND, source="/srv/../etc", target="/x"), "source", "no plain path"),
        (Mount(kind=MountKind.TMPFS, target="/x", size_bytes=-1), "size_bytes", "-1"),
    ],
)
def test_mounts_that_make_no_sense(mount: Mount, path: str, words: str) -> None:
    (fault,) = validation.faults(spec(mount))
    assert fault.path == f"task.container.mounts[0].{path}"
    assert words in fault.text


def test_a_plain_process_is_given_what_it_can_have() -> None:
    def faults(mount: Mount) -> str:
        container = Container(command=("sleep", "1"), mounts=(mount,))
        found = validation.faults(JobSpec(namespace="shop", name="p", task=TaskSpec(container=container)))
        return " ".join(fault.text for fault in found)

    assert faults(DATA) == ""
    assert faults(Mount(kind=MountKind.BIND, source="/srv/a", target="/srv/a")) == ""
    assert "read_only needs an image" in faults(READ)
    assert "give the same path as target" in faults(Mount(kind=MountKind.BIND, source="/srv/a", target="/b"))
    assert "tmpfs needs an image" in faults(Mount(kind=MountKind.TMPFS, target="/b"))


# --- Compose


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_the_forms_of_compose(workspace: Workspace, tmp_path: Path) -> None:
    text = """
    name: shop
    services:
      db:
        image: db:1
        volumes:
          - data:/data
          - ./conf:/conf:ro,z
          - /srv/x:/x
          - {type: volume, source: other, target: /other, read_only: true, volume: {nocopy: true}}
          - {type: tmpfs, target: /run, tmpfs: {size: 64M}}
          - /anonymous
    volumes:
      data:
      other: {name: given, driver: local}
    """
    project = workspace.load(text)
    found = project.specs[0].task.container.mounts
    assert [(m.kind.value, m.source, m.target, m.read_only, m.size_bytes) for m in found] == [
        ("volume", "test_data", "/data", False, 0),
        ("bind", str(tmp_path / "conf"), "/conf", True, 0),
        ("bind", "/srv/x", "/x", False, 0),
        ("volume", "test_given", "/other", True, 0),
        ("tmpfs", "", "/run", False, 64 << 20),
    ]
    assert ["volume without a name" in fault.text or "nocopy" in fault.path for fault in project.warnings] == [
        True,
        True,
    ]


def test_who_shares_a_volume_and_who_gets_copies(workspace: Workspace) -> None:
    text = """
    name: shop
    services:
      php: {image: a, volumes: ["code:/a"]}
      cron: {image: a, volumes: ["code:/a"]}
      web: {image: a, volumes: ["code:/a:ro", "own:/o"], deploy: {replicas: 2}}
      many: {image: a, volumes: ["all:/o"], deploy: {replicas: 2}}
    volumes: {code: , own: , all: {x-podium: {shared: true}}}
    """
    project = workspace.load(text)
    shared = {(one.name, mount.source): mount.shared for one in project.specs for mount in one.task.container.mounts}
    assert shared == {
        ("php", "test_code"): True,
        ("cron", "test_code"): True,
        ("web", "test_code"): True,
        ("web", "test_own"): False,
        ("many", "test_all"): True,
    }
    (warning,) = project.warnings
    assert (warning.path, "each of the 2 replicas" in warning.text) == ("services.web.volumes[1]", True)


@pytest.mark.parametrize(
    ("top", "name"),
    [
        ("{external: true}", "test_data"),
        ("{external: true, name: old}", "test_old"),
        ("{external: true, name: test_old}", "test_old"),
        ("{external: {name: old}}", "test_old"),
    ],
)
def test_external_volumes_by_their_names(workspace: Workspace, top: str, name: str) -> None:
    file = f"services: {{db: {{image: a, volumes: ['data:/data']}}}}\nvolumes: {{data: {top}}}\n"
    (mount,) = workspace.spec(file).task.container.mounts
    assert (mount.source, mount.external) == (name, True)
    (mount,) = workspace.spec(file.replace("true", "false")).task.container.mounts
    assert mount.external == ("{name:" in top)


@pytest.mark.parametrize(
    ("volumes", "top", "words"),
    [
        (
            '["dta:/x"]',
            "{data: }",
            "uses volume 'dta', which the project does not name under volumes (did you mean data?)",
        ),
        ('["data:/x", "data:/x/"]', "{data: }", "/x is mounted already, in line"),
        ('["data:/x:rx"]', "{data: }", "option 'rx' is not supported: allowed are ro and rw"),
        ('["~/x:/x"]', "{data: }", "a home directory of this machine"),
        ("[{type: bind, target: /x}]", "{data: }", "source is missing"),
        ("[{type: npipe, target: /x}]", "{data: }", "allowed is volume, bind or tmpfs"),
        ('["data:/x"]', "{data: {driver: nfs}}", "only `local` is there"),
        ('["data:x"]', "{data: }", "no absolute path"),
    ],
)
def test_faults_with_their_place(workspace: Workspace, volumes: str, top: str, words: str) -> None:
    faults = workspace.faults(f"services:\n  db:\n    image: a\n    volumes: {volumes}\nvolumes: {top}\n")
    assert len(faults) == 1
    assert words in faults[0]


# --- what nodes keep


async def test_what_a_node_says_is_kept_in_its_record_and_deleted_only_on_request() -> None:
    records = (*job_records(msgspec.structs.replace(spec(DATA), name="web")), task_of("t1", status=running_status()))
    async with api(api_node("n1"), *records) as a:
        agent = await a.rig.agent("n1", TaskReport(task_id="t1", status=running_status()))
        written = asyncio.Event()
        a.rig.ledger.subscribe(lambda _committed: written.set())
        agent.say(VolumeReport(volumes=("shop_data", "shop_old", "bank_x")))
        async with asyncio.timeout(5):
            await written.wait()
        listed = (await a.nodes.volumes(ListVolumes(namespace="shop"))).volumes
        assert [(one.name, one.jobs, one.tasks) for one in listed] == [
            ("shop_data", ("shop/web",), ("shop/web.1",)),
            ("shop_old", (), ()),
        ]
        with pytest.raises(Conflict, match=r"shop/web\.1 has it; stop that first"):
            await a.nodes.remove_volume(RemoveVolumeRequest(namespace="shop", volume="data"))
        with pytest.raises(NotFound, match="no node keeps a volume shop_x"):
            await a.nodes.remove_volume(RemoveVolumeRequest(namespace="shop", volume="x"))
        for error in ("it is in use", ""):
            removing = asyncio.create_task(
                a.nodes.remove_volume(RemoveVolumeRequest(namespace="shop", volume="old", node="n1"))
            )
            asked = await agent.next(RemoveVolume)
            assert asked.name == "shop_old"
            agent.say(VolumeRemoved(request_id=asked.request_id, error=error))
            if error:
                with pytest.raises(Conflict, match=error):
                    await removing
        assert (await removing).volumes[0].name == "shop_old"
