"""What a node lets tasks have of it: the file that says so, who may ask, where such tasks go, the agent's last word."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.policy import Guarded, check_policy, sockets_of
from agent.policy_file import node_policy, policy_of, read_policy
from agent.runtime.docker_request import configuration
from agent.runtime.process_files import User
from agent.runtime.process_users import COUNT, FIRST, Users, has_own_numbers
from agent.settings import AgentSettings
from common.errors import Forbidden, Invalid
from common.model.api import ApplyRequest, RollbackRequest
from common.model.job import (
    Container,
    DesiredState,
    EngineOptions,
    JobMode,
    JobSpec,
    JobVersion,
    Mount,
    MountKind,
    Port,
    TaskSpec,
)
from common.model.privileges import OWN_USER, BindRule, HostDevice, NodePolicy, Privileges
from common.model.program import BeginExec
from common.model.session import Program
from common.model.task import TaskState
from common.model.trust import Role
from common.policy import asks, needs_a_right, refused
from common.validation import faults
from controller.scheduler.fixes import verified_fixes
from controller.scheduler.verdicts import unplaced_verdict
from controller.state import State
from tests.builders import job, task
from tests.runtime_rigs import DockerRig
from tests.unit.test_gate import AUTHORITY, GATE, bearer, user
from tests.unit.test_volumes import places, request_of, table

SOCKET = "/var/run/docker.sock"
FUSE = HostDevice(source="/dev/fuse", target="/dev/fuse")


def bind(source: str, *, read_only: bool = False) -> Mount:
    return Mount(kind=MountKind.BIND, source=source, target="/x", read_only=read_only)


def having(**privileges: object) -> Container:
    return Container(image="shop:1", privileges=Privileges(**privileges))


ASKED: dict[str, tuple[Container, NodePolicy]] = {
    "privileged": (having(privileged=True), NodePolicy(privileged=True)),
    "host_network": (having(host_network=True), NodePolicy(host_network=True)),
    "host_pid": (having(host_pid=True), NodePolicy(host_pid=True)),
    "host_ipc": (having(host_ipc=True), NodePolicy(host_ipc=True)),
    "engine_socket": (having(engine_socket=True), NodePolicy(engine_socket=True)),
    "new_privileges": (having(new_privileges=True), NodePolicy(new_privileges=True)),
    "unconfined": (having(unconfined=("seccomp",)), NodePolicy(unconfined=("seccomp",))),
    "capabilities": (having(cap_add=("NET_ADMIN",)), NodePolicy(capabilities=("NET_ADMIN",))),
    "all capabilities": (having(cap_add=("SYS_ADMIN",)), NodePolicy(capabilities=("ALL",))),
    "devices": (having(devices=(FUSE,)), NodePolicy(devices=("/dev/fuse",))),
    "bind": (
        Container(image="shop:1", mounts=(bind("/srv/data/shop"),)),
        NodePolicy(bind=(BindRule(path="/srv/data"),)),
    ),
    "bind, read only": (
        Container(image="shop:1", mounts=(bind("/srv/certs", read_only=True),)),
        NodePolicy(bind=(BindRule(path="/srv/certs", read_only=True),)),
    ),
    "the engine's socket, mounted": (
        Container(image="shop:1", mounts=(bind(SOCKET),)),
        NodePolicy(bind=(BindRule(path=SOCKET),), engine_socket=True),
    ),
    "a directory with the engine's socket": (
        Container(image="shop:1", mounts=(bind("/run"),)),
        NodePolicy(bind=(BindRule(path="/run"),), engine_socket=True),
    ),
}
"""What a task can ask for, and the least policy that allows it."""


def spec_of(container: Container) -> JobSpec:
    return JobSpec(namespace="shop", name="db", task=TaskSpec(container=container))


# --- who may ask, and what each policy makes of it


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("what", ASKED)
def test_who_may_ask_for_what(role: Role, what: str) -> None:
    """Directories that a node gives away are any deployer's; what lets a task out of its container is an operator's."""
    container, _ = ASKED[what]
    least = Role.DEPLOYER if what.startswith("bind") else Role.OPERATOR
    state, request = State.of([AUTHORITY, user(role=role)]), ApplyRequest(namespace="shop", specs=(spec_of(container),))
    ranks = list(Role)
    if ranks.index(role) >= ranks.index(least):
        GATE.admit(state, bearer(), "Jobs/Apply", request)
    else:
        with pytest.raises(Forbidden, match="takes deployer" if role is Role.VIEWER else f"takes {least.value}"):
            GATE.admit(state, bearer(), "Jobs/Apply", request)


@pytest.mark.parametrize("what", ASKED)
@pytest.mark.parametrize("policy_of", ASKED)
def test_what_each_policy_makes_of_each_request(what: str, policy_of: str) -> None:
    """The scheduler, the agent and the rule itself say the same; a controller that was taken over gets no further."""
    container, own = ASKED[what]
    policy = ASKED[policy_of][1]
    allowed = not refused(policy, container)
    assert allowed >= (policy == own)
    guarded = Guarded(directories=(), sockets=())
    if allowed:
        check_policy(container, policy, guarded)
    else:
        with pytest.raises(Invalid, match="this node's policy does not allow"):
            check_policy(container, policy, guarded)
    placed, _ = places(table(("a", ()), policy=policy), spec_of(container))
    assert bool(placed) is allowed


@pytest.mark.parametrize("what", ASKED)
def test_by_default_nothing_is_allowed_and_why_says_what_would_help(what: str) -> None:
    container, policy = ASKED[what]
    nodes = table(("a", ()), ("b", ()))
    verdict = unplaced_verdict(nodes, request_of(spec_of(container)))
    assert "the policies of nodes a and b do not allow" in verdict.verdict
    fixes = [proposal.fix.text for proposal in verified_fixes(nodes, request_of(spec_of(container)))]
    assert fixes[0].startswith("allow it on node a")
    assert "podium agent --policy" in fixes[0]
    advised = fixes[0].partition("`")[2].partition("`")[0]
    assert not refused(policy_of(advised.replace("; ", "\n"), "policy.yaml"), container), "what is advised helps"
    assert not refused(policy, container)


def test_nodes_that_lack_the_same_are_told_of_together() -> None:
    container = Container(
        image="a", mounts=(bind("/srv/a"), bind("/srv/b", read_only=True)), privileges=Privileges(privileged=True)
    )
    nodes = table(("a", ()), ("b", ()), ("c", ()), policy=NodePolicy(privileged=True))
    verdict = unplaced_verdict(nodes, request_of(spec_of(container)))
    mounts = "bind mounts under /srv/a and bind mounts under /srv/b"
    lines = "bind: [/srv/a, {path: /srv/b, read_only: true}]"
    both = f"(podium agent --policy: privileged: true; {lines})"
    assert [reason.text for reason in verdict.reasons if reason.reason == "policy"] == [
        f"the policies of nodes b and c do not allow privileged mode, {mounts} {both} (2 of 3 nodes)",
        f"node a's policy does not allow {mounts} (podium agent --policy: {lines}) (1 of 3 nodes)",
    ]


def test_plain_tasks_ask_for_nothing() -> None:
    plain = Container(image="shop:1", mounts=(Mount(kind=MountKind.TMPFS, target="/run"),))
    assert asks(plain) == ()
    assert not needs_a_right(plain)


@pytest.mark.parametrize(("role", "enters"), [(Role.DEPLOYER, False), (Role.OPERATOR, True)])
@pytest.mark.parametrize("name", ["db", "t1"])
def test_whoever_enters_a_privileged_task_has_its_rights(role: Role, enters: bool, name: str) -> None:
    made, version = job(spec_of(having(privileged=True)))
    running = msgspec.structs.replace(task(made, state=TaskState.RUNNING), id="t1")
    state = State.of([AUTHORITY, user(role=role), made, version, running])
    begin = BeginExec(namespace="shop", name=name, program=Program(argv=("sh",)))
    if enters:
        GATE.admit(state, bearer(), "Jobs/Exec", begin)
    else:
        with pytest.raises(Forbidden, match="to privilege job takes operator"):
            GATE.admit(state, bearer(), "Jobs/Exec", begin)


@pytest.mark.parametrize(
    ("changed", "allowed"),
    [
        ({}, True),
        ({"replicas": 5}, True),
        ({"name": "another"}, False),
        ({"task": TaskSpec(container=having(privileged=True, host_network=True))}, False),
        ({"task": TaskSpec(container=msgspec.structs.replace(having(privileged=True), image="shop:2"))}, False),
        ({"mode": JobMode.DAEMON}, False),
    ],
)
def test_a_deployer_s_up_is_judged_by_what_it_changes(changed: dict[str, Any], *, allowed: bool) -> None:
    granted = spec_of(having(privileged=True))
    made, version = job(granted)
    specs = (
        msgspec.structs.replace(granted, **changed),
        msgspec.structs.replace(spec_of(Container(image="a")), name="web"),
    )
    request = ApplyRequest(namespace="shop", specs=specs)
    state = State.of([AUTHORITY, user(role=Role.DEPLOYER), made, version])
    if allowed:
        GATE.admit(state, bearer(), "Jobs/Apply", request)
    else:
        with pytest.raises(Forbidden, match="to privilege job takes operator"):
            GATE.admit(state, bearer(), "Jobs/Apply", request)


@pytest.mark.parametrize("left", [{"desired": DesiredState.STOP}, {"removed": True}])
def test_what_was_stopped_is_not_begun_again_by_a_deployer(left: dict[str, Any]) -> None:
    granted = spec_of(having(privileged=True))
    made, version = job(granted)
    state = State.of([AUTHORITY, user(role=Role.DEPLOYER), msgspec.structs.replace(made, **left), version])
    with pytest.raises(Forbidden, match="to privilege job takes operator"):
        GATE.admit(state, bearer(), "Jobs/Apply", ApplyRequest(namespace="shop", specs=(granted,)))


@pytest.mark.parametrize(("role", "goes_back"), [(Role.DEPLOYER, False), (Role.OPERATOR, True)])
@pytest.mark.parametrize("number", [0, 1])
def test_whoever_goes_back_to_a_privileged_version_has_its_rights(role: Role, goes_back: bool, number: int) -> None:
    before = JobVersion(job_id="job-db", version=1, spec=spec_of(having(privileged=True)))
    made, version = job(spec_of(Container(image="a")), version=2)
    state = State.of([AUTHORITY, user(role=role), msgspec.structs.replace(made, good_version=1), before, version])
    request = RollbackRequest(namespace="shop", job="db", version=number)
    if goes_back:
        GATE.admit(state, bearer(), "Jobs/Rollback", request)
    else:
        with pytest.raises(Forbidden, match="to privilege job takes operator"):
            GATE.admit(state, bearer(), "Jobs/Rollback", request)


# --- the agent's last word


def test_links_and_directories_that_lead_elsewhere(tmp_path: Path) -> None:
    given = tmp_path / "given"
    for name in ("given", "agent", "run", "secrets"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "engine.sock").touch()
    for name, leads in (("etc", "/etc"), ("agent", tmp_path / "agent"), ("run", tmp_path / "run")):
        (given / name).symlink_to(leads)
    guarded = Guarded(
        directories=(str(tmp_path / "agent"), str(tmp_path / "secrets")),
        sockets=sockets_of(f"unix://{tmp_path}/run/engine.sock"),
    )
    narrow = NodePolicy(bind=(BindRule(path=str(given)),))
    wide = NodePolicy(bind=(BindRule(path=str(tmp_path)),))

    def said(path: Path, policy: NodePolicy) -> str:
        with pytest.raises(Invalid) as error:
            check_policy(Container(image="a", mounts=(bind(str(path)),)), policy, guarded)
        return str(error.value)

    assert "leads to /etc" in said(given / "etc", narrow)
    assert "where the agent keeps its own" in said(tmp_path / "agent", wide)
    assert "where the agent keeps its own" in said(given / "agent", wide)
    assert "where the agent keeps its own" in said(tmp_path / "secrets" / "t1", wide)
    assert "where the agent keeps its own" in said(tmp_path, wide), "it has the directory in it"
    assert f"the engine's socket ({tmp_path}/run/engine.sock)" in said(given / "run", wide)
    check_policy(Container(image="a", mounts=(bind(str(given)),)), narrow, guarded)


def test_a_device_that_is_a_link_is_what_it_leads_to() -> None:
    guarded = Guarded(directories=())
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # below /dev, and anybody's to write
        away = HostDevice(source=f"{folder}/away", target="/dev/x")
        Path(away.source).symlink_to("/etc/hostname")
        with pytest.raises(Invalid, match=f"the device {away.source} .which leads to /etc/hostname"):
            check_policy(having(devices=(away,)), NodePolicy(devices=(folder,)), guarded)
    null = HostDevice(source="/dev/null", target="/dev/x")
    check_policy(having(devices=(null,)), NodePolicy(devices=("/dev/null",)), guarded)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


def asking(user: str = "", *volumes: str) -> Container:
    mounts = tuple(Mount(kind=MountKind.VOLUME, source=name, target="/data") for name in volumes)
    return Container(user=user, mounts=mounts)


@as_root
def test_whom_process_tasks_run_as() -> None:
    users = Users(default="nobody", others=("daemon",))

    def user_of(asked: str) -> User:
        found = users.of(asking(asked), "t1", "shop")
        assert found is not None
        return found

    assert user_of("").uid == 65534
    assert user_of("nobody") == user_of("") == user_of("65534")
    assert user_of("daemon").uid == 1
    for asked in ("root", "0", "nobody:root", "bin", "12345"):
        with pytest.raises(Invalid, match="lets processes run as nobody, daemon only"):
            user_of(asked)
    assert Users().of(asking(), "t1", "shop") is None, "as the agent itself"


@as_root
def test_each_task_is_a_user_of_its_own_and_those_with_volumes_one_of_their_namespace() -> None:
    users = Users(default=OWN_USER, others=("daemon",), secret=b"of this node")
    found = [users.of(asking(), task, "shop") for task in ("t1", "t2", "t1")]
    assert found[0] == found[2] != found[1]
    keeping = [users.of(asking("", "shop_data"), task, where) for task, where in (("t1", "shop"), ("t2", "shop"))]
    assert keeping[0] == keeping[1] not in found
    assert users.of(asking("", "bank_data"), "t1", "bank") not in (*keeping, *found)
    for one in (*found, *keeping):
        assert one is not None
        assert FIRST <= one.uid == one.gid < FIRST + COUNT
        assert one.groups == (one.gid,)
    elsewhere = Users(default=OWN_USER, secret=b"of another node")
    assert elsewhere.of(asking(), "t1", "shop") != found[0], "nobody who chooses names can aim at a number"
    assert users.of(asking("daemon"), "t1", "shop") == Users(default="daemon").of(asking(), "t1", "shop")
    with pytest.raises(Invalid, match="lets processes run as daemon only"):
        users.of(asking("root"), "t1", "shop")
    with pytest.raises(Invalid, match="lets processes run as users of their own only"):
        elsewhere.of(asking(f"{FIRST}"), "t1", "shop")


@pytest.mark.parametrize(
    ("uids", "gids", "has"),
    [
        ("0 0 4294967295", "0 0 4294967295", True),
        ("0 100000 65536", "0 100000 65536", False),
        ("0 0 4294967295", "0 100000 65536", False),
        ("0 100000 65536\n1900000000 7 200000000", "0 0 4294967295", True),
    ],
)
def test_a_machine_that_is_a_container_may_have_no_such_users(uids: str, gids: str, *, has: bool) -> None:
    assert has_own_numbers({"uid_map": uids, "gid_map": gids}.__getitem__) is has


# --- what the engine is told


def host_of(container: Container) -> dict[str, object]:
    host = configuration(DockerRig().request(container), "/srv/engine.sock")["HostConfig"]
    assert isinstance(host, dict)
    return dict(host)


def test_containers_have_less_than_the_engine_would_give_them() -> None:
    host = host_of(Container(image="a"))
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["CapDrop"] == ["NET_RAW"]
    assert host.keys().isdisjoint({"Privileged", "CapAdd", "Devices", "NetworkMode", "PidMode", "IpcMode", "Mounts"})


def test_what_is_allowed_is_given() -> None:
    host = host_of(
        having(
            privileged=True,
            cap_add=("NET_ADMIN",),
            devices=(FUSE,),
            host_network=True,
            host_pid=True,
            host_ipc=True,
            engine_socket=True,
            unconfined=("seccomp", "apparmor", "label"),
            new_privileges=True,
        )
    )
    assert host["Privileged"] is True
    assert host["SecurityOpt"] == ["seccomp=unconfined", "apparmor=unconfined", "label=disable"]
    assert host["Devices"] == [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"}]
    assert (host["NetworkMode"], host["PidMode"], host["IpcMode"]) == ("host",) * 3
    mounts = host["Mounts"]
    assert isinstance(mounts, list)
    assert [(mount["Source"], mount["Target"]) for mount in mounts] == [("/srv/engine.sock", SOCKET)]


@pytest.mark.parametrize(
    ("container", "dropped"),
    [
        (having(cap_add=("NET_RAW",)), None),
        (having(cap_add=("ALL",)), None),
        (having(cap_add=("NET_ADMIN",)), ["NET_RAW"]),
        (Container(image="a", engine=EngineOptions(cap_drop=("ALL",))), ["ALL"]),
        (Container(image="a", engine=EngineOptions(cap_drop=("MKNOD",))), ["MKNOD", "NET_RAW"]),
        (Container(image="a", engine=EngineOptions(cap_drop=("NET_RAW",))), ["NET_RAW"]),
    ],
)
def test_packets_by_hand_only_where_they_are_asked_for(container: Container, dropped: list[str] | None) -> None:
    assert host_of(container).get("CapDrop") == dropped


# --- what a job may say


@pytest.mark.parametrize(
    ("container", "path"),
    [
        (having(cap_add=("net_raw\n",)), "cap_add"),
        (having(unconfined=("everything",)), "unconfined"),
        (having(devices=(HostDevice(source="/dev/../etc/shadow", target="/dev/x"),)), "devices[0].source"),
        (having(devices=(HostDevice(source="/dev", target="/dev/x"),)), "devices[0].source"),
        (having(devices=(HostDevice(source="/dev/fuse", target="/etc/x"),)), "devices[0].target"),
        (having(devices=(HostDevice(source="/dev/fuse", target="/dev/x", permissions=""),)), "devices[0].permissions"),
        (having(host_network=True), "host_network"),
    ],
)
def test_what_no_job_may_say(container: Container, path: str) -> None:
    spec = JobSpec(namespace="shop", name="db", task=TaskSpec(container=container, ports=(Port(container_port=80),)))
    assert [fault.path for fault in faults(spec)] == [f"task.container.privileges.{path}"]


def test_a_plain_process_has_no_privileges() -> None:
    container = Container(command=("sleep", "1"), privileges=Privileges(privileged=True))
    (fault,) = faults(spec_of(container))
    assert fault.path == "task.container.privileges"
    assert "needs an image" in fault.text


# --- the file


WRITTEN = """
bind:
  - /srv/data
  - {path: /srv/certs, read_only: true}
processes: {user: tasks, users: [www-data]}
capabilities: [NET_RAW]
devices: [/dev/fuse]
unconfined: [seccomp]
host_network: true
"""


def test_a_policy_as_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(WRITTEN)
    assert read_policy(str(file)) == NodePolicy(
        bind=(BindRule(path="/srv/data"), BindRule(path="/srv/certs", read_only=True)),
        processes=True,
        process_user="tasks",
        process_users=("www-data",),
        capabilities=("NET_RAW",),
        devices=("/dev/fuse",),
        unconfined=("seccomp",),
        host_network=True,
    )
    assert policy_of("", "f") == policy_of("# nothing\n", "f") == NodePolicy()
    assert policy_of("processes: true", "f") == NodePolicy(processes=True, process_user="own")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("priviledged: true", "policy.priviledged: is no key of a policy; did you mean privileged?"),
        ("zzz: 1", "policy.zzz: is no key of a policy; allowed are bind, processes"),
        ("privileged: yes please", "policy.privileged: Expected `bool`, got `str`"),
        ("privileged: 1", "policy.privileged: Expected `bool`, got `int`"),
        ("bind: /srv", "policy.bind: Expected `array`, got `str`"),
        ("bind: [{path: /srv, readonly: true}]", "unknown field `readonly` - at `$[0]`"),
        ("bind: [srv]", "policy.bind: 'srv' is no absolute path"),
        ("bind: [/]", "policy.bind: / is the whole machine"),
        ("bind: [/srv/../etc]", "is no plain path"),
        ("devices: [/etc/shadow]", "'/etc/shadow' is not below /dev"),
        ("capabilities: [net raw]", "'net raw' is no capability"),
        ("unconfined: [all]", "'all' given; allowed are seccomp, apparmor, label"),
        ("processes: {user: 'a b'}", "'a b' is not a user"),
        ("[1, 2]", "has no keys"),
        ("a: [", "line 1 is not YAML"),
        ("bind: [/srv]\nbind: [/etc]", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_policy_that_is_wrong(text: str, said: str) -> None:
    with pytest.raises(Invalid) as error:
        policy_of(text, "policy.yaml")
    assert said in str(error.value)
    assert "policy.yaml" in str(error.value)


def test_every_fault_of_a_policy_is_told_at_once() -> None:
    with pytest.raises(Invalid) as error:
        policy_of("bind: 5\nprivileged: maybe\nfoo: 1", "p")
    assert [fault.path for fault in error.value.faults] == ["policy.foo", "policy.privileged", "policy.bind"]


def test_a_policy_that_is_no_policy(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"#" * 70_000)
    for path, said in ((large, "not a policy"), (tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(Invalid, match=said):
            read_policy(str(path))


def test_naming_the_process_runtime_allows_it_unless_a_file_says_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("privileged: true")
    assert node_policy("") == (NodePolicy(), ("docker",))
    assert node_policy("", runtimes=("process",), process_user="me") == (
        NodePolicy(processes=True, process_user="me"),
        ("process",),
    )
    with pytest.raises(Invalid, match="does not allow it: write `processes: true` there"):
        node_policy(str(file), runtimes=("docker", "process"))
    file.write_text("processes: true")
    assert node_policy(str(file))[1] == ("docker", "process")
    assert node_policy(str(file), bind=["/srv"])[0].bind == (BindRule(path="/srv"),)
    settings = AgentSettings(controllers=("127.0.0.1:1",), data_dir="d", runtimes=("process",), insecure=True)
    with pytest.raises(Invalid, match="process is a runtime of nodes whose policy allows processes"):
        settings.check()
    msgspec.structs.replace(settings, policy=NodePolicy(processes=True)).check()
