"""What a spec must satisfy when no file stands behind it, and the text forms of rules and amounts."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import msgspec
import pytest

from common.constraints import by_version, constraint_fault, parse_attribute, parse_constraint, rank
from common.errors import Invalid
from common.model.device import DeviceRequest
from common.model.job import (
    Constraint,
    ConstraintOperator,
    Container,
    Dependency,
    HealthCheck,
    JobMode,
    JobSpec,
    Placement,
    Port,
    PublishMode,
    RestartCondition,
    RestartPolicy,
    TaskSpec,
    UpdatePolicy,
)
from common.model.resources import Resources
from common.names import name_fault
from common.settings import LIMITS
from common.units import parse_bytes, parse_cpu_millis, parse_devices, parse_duration_s, parse_share_millis
from common.validation import faults

GOOD = JobSpec(namespace="shop", name="web", task=TaskSpec(container=Container(image="shop:1.4")))


def with_task(**changes: Any) -> JobSpec:
    return msgspec.structs.replace(GOOD, task=msgspec.structs.replace(GOOD.task, **changes))


def with_devices(*devices: DeviceRequest) -> JobSpec:
    return with_task(devices=devices)


def with_container(**changes: Any) -> JobSpec:
    return with_task(container=msgspec.structs.replace(GOOD.task.container, **changes))


def checked(**changes: Any) -> JobSpec:
    return with_task(health_check=msgspec.structs.replace(HealthCheck(test=("CMD", "x")), **changes))


def replaced(**changes: Any) -> JobSpec:
    return msgspec.structs.replace(GOOD, **changes)


def test_a_good_spec_has_no_faults() -> None:
    assert faults(GOOD) == ()


@pytest.mark.parametrize(
    ("spec", "path", "text"),
    [
        (with_devices(DeviceRequest(kind="GPU")), "task.devices[0].kind", "'GPU' is not a name"),
        (with_devices(DeviceRequest(kind="gpu-share")), "task.devices[0].kind", "gpu-share ends in -share"),
        (with_devices(DeviceRequest(kind="gpu", count=0)), "task.devices[0].count", "0 is out of range: allowed is 1"),
        (with_devices(DeviceRequest(kind="gpu", count=129)), "task.devices[0].count", "allowed is 1 to 128"),
        (with_devices(DeviceRequest(kind="gpu", share_millis=0)), "task.devices[0].share_millis", "0 is out of range"),
        (with_devices(DeviceRequest(kind="gpu", share_millis=1001)), "task.devices[0].share_millis", "1 to 1000"),
        (
            with_devices(DeviceRequest(kind="gpu", count=2, share_millis=500)),
            "task.devices[0].share_millis",
            "a share is of one device, 2 are asked for",
        ),
        (with_devices(DeviceRequest(kind="gpu", models=("A10", ""))), "task.devices[0].models[1]", "'' is not a model"),
        (
            with_devices(DeviceRequest(kind="gpu"), DeviceRequest(kind="fpga"), DeviceRequest(kind="gpu")),
            "task.devices[2]",
            "gpu is asked for already by devices[0]",
        ),
        (with_container(environment={"PODIUM_DEVICE_GPU": "0"}), "task.container.environment.PODIUM_DEVICE_GPU", "set"),
        (replaced(namespace="Shop"), "namespace", "'Shop' is not a name"),
        (replaced(name="a" * 64), "name", "is not a name"),
        (replaced(name="web\n"), "name", "is not a name"),
        (replaced(replicas=-1), "replicas", "-1 is out of range: allowed is 0 to 100000"),
        (replaced(replicas=LIMITS.replicas + 1), "replicas", "100001 is out of range"),
        (replaced(labels={"": "a"}), "labels", "'' is not a name of a label"),
        (replaced(labels={f"k{n}": "" for n in range(257)}), "labels", "has 257 entries; at most 256 are allowed"),
        (replaced(depends_on=(Dependency(job="web"),)), "depends_on.web", "a job cannot depend on itself"),
        (replaced(depends_on=(Dependency(job="a"), Dependency(job="a"))), "depends_on.a", "a is listed twice"),
        (replaced(depends_on=(Dependency(job="A"),)), "depends_on", "'A' is not a name"),
        (replaced(update=UpdatePolicy(delay_s=math.nan)), "update.delay_s", "nan seconds is out of range"),
        (replaced(update=UpdatePolicy(monitor_s=math.inf)), "update.monitor_s", "inf seconds is out of range"),
        (replaced(update=UpdatePolicy(max_failure_ratio=math.nan)), "update.max_failure_ratio", "nan is not a ratio"),
        (replaced(update=UpdatePolicy(parallelism=-1)), "update.parallelism", "-1 is out of range"),
        (with_container(image="a b"), "task.container.image", "image reference 'a b' is not valid"),
        (with_container(image=""), "task.container.image", "neither an image nor a command is given"),
        (with_container(command=("",)), "task.container.command[0]", "is empty: the first element names the program"),
        (with_container(command=("a", "\0")), "task.container.command[1]", "'\\x00' contains a NUL"),
        (with_container(command=("a",) * 1001), "task.container.command", "has 1001 entries; at most 1000"),
        (with_container(environment={"A=B": ""}), "task.container.environment.A=B", "is not a name of a variable"),
        (with_container(environment={"A": "\ud800"}), "task.container.environment.A", "half a surrogate pair"),
        (with_container(environment={"PODIUM_PORT_80": "1"}), "task.container.environment.PODIUM_PORT_80", "is set by"),
        (
            with_container(environment={"A": "x" * LIMITS.environment_bytes}),
            "task.container.environment",
            "at most 131072 are allowed",
        ),
        (with_container(labels={"podium.task": "x"}), "task.container.labels.podium.task", "belong to Podium"),
        (with_container(working_dir="srv"), "task.container.working_dir", "is not an absolute path"),
        (with_container(user="root; rm"), "task.container.user", "is not a user"),
        (with_container(hostname="a_b"), "task.container.hostname", "is not a host name"),
        (with_container(tmpfs=("run",)), "task.container.tmpfs[0]", "is not a mount"),
        (with_container(stop_signal="0"), "task.container.stop_signal", "is not a signal"),
        (with_container(stop_signal="65"), "task.container.stop_signal", "is not a signal"),
        (with_container(stop_grace_s=-1.0), "task.container.stop_grace_s", "-1.0 seconds is out of range"),
        (with_task(ports=(Port(container_port=0),)), "task.ports[0].container_port", "0 is out of range: allowed is 1"),
        (
            with_task(ports=(Port(container_port=1, published_port=65536),)),
            "task.ports[0].published_port",
            "65536 is out of range",
        ),
        (
            with_task(ports=(Port(container_port=1, mode=PublishMode.HOST),)),
            "task.ports[0].published_port",
            "mode host needs a published port",
        ),
        (
            with_task(ports=(Port(container_port=1, published_port=80), Port(container_port=2, published_port=80))),
            "task.ports[1]",
            "80/tcp is published already by ports[0]",
        ),
        (with_task(ports=(Port(container_port=1),) * 129), "task.ports", "has 129 entries; at most 128 are allowed"),
        (with_task(limits=Resources(cpu_millis=-1)), "task.limits.cpu_millis", "-1 is out of range"),
        (with_task(limits=Resources(memory_bytes=1 << 62)), "task.limits.memory_bytes", "is out of range"),
        (with_task(limits=Resources(memory_bytes=4096)), "task.limits.memory_bytes", "6 MiB"),
        (
            with_task(limits=Resources(cpu_millis=1), reservations=Resources(cpu_millis=2)),
            "task.reservations.cpu_millis",
            "2 reserved is more than the limit of 1",
        ),
        (
            with_task(placement=Placement(spread=("rack",))),
            "task.placement.spread[0]",
            "'rack' is not an attribute of a node",
        ),
        (
            with_task(
                placement=Placement(
                    constraints=(Constraint(attribute="node.id", operator=ConstraintOperator.EQUAL, value=" "),)
                )
            ),
            "task.placement.constraints[0]",
            "is not a value to compare with",
        ),
        (with_task(placement=Placement(max_replicas_per_node=-1)), "task.placement.max_replicas_per_node", "-1 is out"),
        (checked(test=()), "task.health_check.test", "the first element must be CMD or CMD-SHELL"),
        (checked(test=("CMD", "")), "task.health_check.test", "CMD is followed by no command"),
        (checked(interval_s=0.0), "task.health_check.interval_s", "0.0 seconds is out of range: allowed is 0.001"),
        (checked(retries=0), "task.health_check.retries", "0 is out of range"),
        (with_task(restart=RestartPolicy(max_attempts=-1)), "task.restart.max_attempts", "-1 is out of range"),
        (with_task(restart=RestartPolicy(window_s=0.0)), "task.restart.window_s", "0.0 seconds is out of range"),
        (replaced(mode=JobMode.BATCH), "task.restart.condition", "a batch job with restart condition any would never"),
    ],
)
def test_each_fault_names_its_field(spec: JobSpec, path: str, text: str) -> None:
    found = faults(spec)
    assert len(found) == 1, found
    assert found[0].path == path
    assert text in found[0].text


def test_a_batch_job_may_restart_on_failure() -> None:
    restart = RestartPolicy(condition=RestartCondition.ON_FAILURE)
    assert faults(msgspec.structs.replace(with_task(restart=restart), mode=JobMode.BATCH)) == ()


def test_a_process_may_have_little_memory_but_nothing_of_a_container() -> None:
    process = Container(command=("serve",))
    assert faults(with_task(container=process, limits=Resources(memory_bytes=4096))) == ()
    (fault,) = faults(with_task(container=msgspec.structs.replace(process, read_only=True)))
    assert fault.path == "task.container.read_only"
    assert "needs an image" in fault.text


def test_the_port_of_a_process_is_the_agents_to_choose() -> None:
    process = Container(command=("serve",), environment={"PORT": "80"})
    assert faults(with_task(container=process)) == ()
    (fault,) = faults(with_task(container=process, ports=(Port(container_port=80),)))
    assert fault.path == "task.container.environment.PORT"


def test_a_spec_is_bounded_as_a_whole() -> None:
    (fault,) = faults(with_container(command=("x" * 200_000, "y" * 200_000)))
    assert fault.path == ""
    assert f"at most {LIMITS.spec_bytes} are allowed" in fault.text


def test_all_faults_come_together() -> None:
    assert len(faults(replaced(namespace="", name="", replicas=-1))) == 3


@pytest.mark.parametrize("name", ["a", "a-b", "0", "a" * 63])
def test_names_that_are_labels(name: str) -> None:
    assert name_fault(name) == ""


@pytest.mark.parametrize("name", ["", "-a", "a-", "a_b", "A", "a.b", "é", "a" * 64, "a\n"])
def test_names_that_are_none(name: str) -> None:
    assert "is not a name" in name_fault(name)


# --- constraints


@pytest.mark.parametrize(
    ("text", "attribute", "operator", "value"),
    [
        ("node.labels.zone == eu", "node.labels.zone", "==", "eu"),
        ("node.labels.zone==eu", "node.labels.zone", "==", "eu"),
        ("  node.id != abc  ", "node.id", "!=", "abc"),
        ("node.hostname == n1", "node.name", "==", "n1"),
        ("node.platform.arch == x86_64", "node.platform.arch", "==", "x86_64"),
        ("node.labels.com.example/rack == row 1, left", "node.labels.com.example/rack", "==", "row 1, left"),
    ],
)
def test_constraints_are_parsed(text: str, attribute: str, operator: str, value: str) -> None:
    parsed = parse_constraint(text)
    assert (parsed.attribute, parsed.operator.value, parsed.value) == (attribute, operator, value)
    assert parse_constraint(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "node.id",
        "node.id = a",
        "node.id === a",
        "node.id ==",
        "== a",
        "node.id => 1",
        "node.labels. == a",
        "node.labels.a in",
        "node.labels.a in eu, us",
        "node.labels.a in (eu, us",
        "node.labels.a not (eu)",
        "node.attributes. == a",
        "node.labels.-a == b",
        "zone == eu",
        "node.id == a\nb",
    ],
)
def test_what_is_no_constraint_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(Invalid, match=r"node\.labels\.KEY|printable"):
        parse_constraint(text)


@pytest.mark.parametrize(
    ("text", "operator", "values"),
    [
        ("node.labels.zone in (eu, us)", "in", ("eu", "us")),
        ("node.labels.zone in(eu)", "in", ("eu",)),
        ("node.labels.zone  not  in  ( eu,us west )", "not in", ("eu", "us west")),
    ],
)
def test_constraints_with_several_values_are_parsed(text: str, operator: str, values: tuple[str, ...]) -> None:
    parsed = parse_constraint(text)
    assert (parsed.operator.value, parsed.value, parsed.values) == (operator, "", values)
    assert parse_constraint(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "as_version"),
    [
        ("node.labels.size >= 9.25", False),
        ("node.labels.size<-3", False),
        ("node.labels.driver > v9", True),
        ("node.labels.driver <= 9.2.0", True),
        ("node.attributes.kernel >= 5.10", True),
        ("node.attributes.docker.version < 24", True),
    ],
)
def test_orderings_compare_numbers_or_versions(text: str, as_version: bool) -> None:
    parsed = parse_constraint(text)
    assert by_version(parsed) is as_version
    assert parse_constraint(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("node.labels.size >= large", "a number such as 2.5 or a version such as v1.20; 'large' is given"),
        ("node.labels.size >= nan", "a number such as 2.5 or a version such as v1.20; 'nan' is given"),
        ("node.labels.size >= 1e9", "'1e9' is given"),
        ("node.attributes.kernel >= 5.x", ">= compares with a version such as v1.20; '5.x' is given"),
        ("node.labels.driver > v9-rc1", "'v9-rc1' is given"),
        ("node.labels.zone in (eu,)", "'' is not a value to compare with"),
        (f"node.labels.zone in ({','.join('a' * 65)})", "in takes 1 to 64 values; 65 are given"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_what_can(text: str, reason: str) -> None:
    with pytest.raises(Invalid, match=re.escape(reason)):
        parse_constraint(text)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (Constraint(attribute="node.id", operator=ConstraintOperator.IN, value="a"), "in parentheses"),
        (Constraint(attribute="node.id", operator=ConstraintOperator.IN), "takes 1 to 64 values; 0 are given"),
        (Constraint(attribute="node.id", operator=ConstraintOperator.NOT_IN, values=("a,b",)), "part the values"),
        (Constraint(attribute="node.id", operator=ConstraintOperator.EQUAL, value="a", values=("b",)), "one value"),
    ],
)
def test_constraints_of_other_programs_are_held_to_the_same_form(wrong: Constraint, reason: str) -> None:
    assert reason in constraint_fault(wrong)


def test_versions_and_numbers_are_in_different_orders() -> None:
    in_order = ["0.9", "5.9", "5.9.1", "5.10.0-28-amd64", "5.10.1+dfsg", "v20"]
    ranks = [rank(text, as_version=True) for text in in_order]
    assert all(before < after for before, after in itertools.pairwise(ranks))  # type: ignore[operator]
    assert rank("5.10", as_version=True) == rank("5.10.0-28-amd64", as_version=True)
    assert rank("5.10", as_version=False) == 5.1
    for text in ["", "v", ".5", "1..2", "1.", "rolling", "1.2.3.4.5.6.7.8.9"]:
        assert rank(text, as_version=True) is None


@pytest.mark.parametrize(
    ("text", "reason"), [("node.role == manager", "no role"), ("engine.labels.a == b", "--labels")]
)
def test_constraints_of_swarm_that_mean_nothing_here_say_so(text: str, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        parse_constraint(text)


def test_attributes_to_spread_over() -> None:
    assert parse_attribute("node.hostname") == "node.name"
    assert parse_attribute(" node.labels.rack ") == "node.labels.rack"
    with pytest.raises(Invalid, match="is not an attribute of a node"):
        parse_attribute("rack")


# --- amounts


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("10s", 10.0),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("50us", 0.00005),
        ("1h5m30s20ms", 3930.02),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "10", "s", "-1s", "1s1m", "1e3s", "nan", "inf", "1 s", "1S", "٣s", "1d", "9" * 30 + "s"]
)
def test_bad_durations(text: str) -> None:
    with pytest.raises(Invalid, match="is not a duration"):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("100", 100),
        ("1b", 1),
        ("64k", 65536),
        ("64KB", 65536),
        ("1.5g", 3 << 29),
        ("256M", 1 << 28),
        ("8191p", 8191 << 50),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1x", "1mib", "m", "1e9", "inf", "nan", "1 m", "8192p", "9" * 30])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(Invalid, match=r"is not a size|is too large"):
        parse_bytes(text)


@pytest.mark.parametrize(("text", "millis"), [("0", 0), ("0.5", 500), (".25", 250), ("2", 2000), ("1.500000", 1500)])
def test_cpus(text: str, millis: int) -> None:
    assert parse_cpu_millis(text) == millis


@pytest.mark.parametrize("text", ["", ".", "-1", "1.", "0.0005", "1e3", "nan", "inf", "500m", "٣"])
def test_bad_cpus(text: str) -> None:
    with pytest.raises(Invalid, match=r"is not a number of CPUs|is finer than"):
        parse_cpu_millis(text)


@pytest.mark.parametrize(
    ("text", "devices"),
    [("1", (1, 1000)), ("2", (2, 1000)), ("1.0", (1, 1000)), ("0.5", (1, 500)), (".001", (1, 1)), ("3.000", (3, 1000))],
)
def test_numbers_of_devices_are_whole_or_a_share_of_one(text: str, devices: tuple[int, int]) -> None:
    assert parse_devices(text) == devices


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0", "asks for no device"),
        ("0.000", "asks for no device"),
        ("-1", "is not a number of devices: write whole ones, e.g. 2, or a share of one, e.g. 0.5"),
        ("1.5", "is more than one device but no whole number"),
        ("0.0005", "is finer than 0.001 of a device"),
        ("", "is not a number of devices"),
        (".", "is not a number of devices"),
        ("all", "is not a number of devices"),
        ("1e3", "is not a number of devices"),
        (".nan", "is not a number of devices"),
        ("9" * 30, "is not a number of devices"),
    ],
)
def test_other_numbers_of_devices_say_why_not(text: str, said: str) -> None:
    with pytest.raises(Invalid, match=re.escape(said)):
        parse_devices(text)


def test_a_share_is_of_one_device() -> None:
    assert (parse_share_millis("0.25"), parse_share_millis("1")) == (250, 1000)
    for text in ("0", "1.001", "2"):
        with pytest.raises(Invalid, match="a share is of one device, more than 0 and at most 1"):
            parse_share_millis(text)
    with pytest.raises(Invalid, match="is not a share: write a part of one device"):
        parse_share_millis("half")
