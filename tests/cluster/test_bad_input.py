"""Bad input at the real edge: a controller process, asked by a client that does not check anything, and by the command.

Every refusal names the field, says what was given and what is allowed, lists all faults at once and changes nothing.
What each rule of a spec says is tested in tests/unit; here, that nothing gets past the API and the command.
"""

from __future__ import annotations

import math
import re
import sqlite3
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import grpc
import msgspec
import pytest
from google.protobuf.message import Message

from common import wire
from common.errors import Fault
from common.grpc_errors import FAULTS_KEY
from common.model.api import (
    ApplyRequest,
    EventsRequest,
    JobRef,
    JobsRequest,
    ListJobs,
    ListTasks,
    LogsRequest,
    NodeRef,
    ScaleRequest,
    ScaleTarget,
    TaskRef,
    WatchJobs,
    WhyRequest,
)
from common.model.job import (
    Constraint,
    ConstraintOperator,
    Container,
    Dependency,
    HealthCheck,
    JobSpec,
    Placement,
    Port,
    TaskSpec,
)
from common.settings import LIMITS
from protos.v1 import api_pb2_grpc, model_pb2
from tests.cluster.processes import PATIENCE_S, Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
TIMEOUT_S = 10.0
GOOD = JobSpec(
    namespace="shop",
    name="web",
    task=TaskSpec(
        container=Container(image="shop:1", command=("serve",), tmpfs=("/run",), environment={"A": "b"}),
        ports=(Port(container_port=80, published_port=8080),),
        placement=Placement(
            constraints=(Constraint(attribute="node.labels.a", operator=ConstraintOperator.EQUAL, value="b"),),
            spread=("node.labels.rack",),
        ),
        health_check=HealthCheck(test=("CMD", "up")),
    ),
    depends_on=(Dependency(job="db"),),
    labels={"a": "b"},
)
NO_NAMES = [
    *("", "web\n", "\n", "a\0b", "wеb", "web​", "Web", "-web", "web-", "a_b", "a.b", "a/b", "../etc", "a" * 64),
    *("..", "a b", "$(id)", "%2e%2e", "shop/../web", "'; DROP TABLE record;--", "web\r\nX: y"),
]
"""The fifth has a Cyrillic letter in it, the sixth a space of no width."""
NO_IMAGES = [
    "a/../../containers/x?force=1#",
    *("../x", "a/..", "a//b", "/a", "a/", "UPPER", "a b", "a\n", "a\0", "a:", "a:b:c", "a@sha256:1", "a:" + "t" * 129),
    *("a#b", "a?b", "a%2fb", "аpp", "x" * 256, "0" * 64, "http://a/b", "a\\b"),
]


class Api:
    """A client that sends whatever it is given, and what the store holds."""

    def __init__(self, made: Cluster) -> None:
        self.cluster = made
        self.store = made.directory / "controller.db"
        self._channel = grpc.insecure_channel(made.grpc, options=[("grpc.max_send_message_length", -1)])
        self.jobs = api_pb2_grpc.JobsStub(self._channel)
        self.nodes = api_pb2_grpc.NodesStub(self._channel)
        self.services = api_pb2_grpc.ClusterStub(self._channel)

    def raw(self, path: str, content: bytes, *, stream: bool = False) -> grpc.StatusCode:
        call = self._channel.stream_stream(path) if stream else self._channel.unary_stream(path)
        return self.outcome(call, iter([content]) if stream else content)[0]

    def apply(self, *specs: JobSpec, namespace: str = "shop", key: str = "") -> tuple[grpc.StatusCode, list[Fault]]:
        request = ApplyRequest(namespace=namespace, specs=specs, idempotency_key=key)
        return self.outcome(self.jobs.Apply, wire.encode(request))

    def outcome(
        self, call: Callable[..., object], request: Message | bytes | Iterator[bytes]
    ) -> tuple[grpc.StatusCode, list[Fault]]:
        """The status of a call's answer (of a stream, of its first), with the faults it names."""
        try:
            answer = call(request, timeout=TIMEOUT_S)
            if isinstance(answer, grpc.Call):
                next(iter(answer), None)  # type: ignore[call-overload]
                answer.cancel()
        except grpc.RpcError as error:
            trailing = {item.key: item.value for item in error.trailing_metadata() or ()}
            return error.code(), msgspec.json.decode(trailing.get(FAULTS_KEY, b"[]"), type=list[Fault])
        return grpc.StatusCode.OK, []

    def contents(self) -> tuple[object, ...]:
        """Everything in the store, its revision included."""
        with closing(sqlite3.connect(f"{self.store.as_uri()}?mode=ro", uri=True)) as database:
            records = database.execute("SELECT key, value FROM record ORDER BY key").fetchall()
            return (*records, *database.execute("SELECT * FROM bookkeeping").fetchall())

    def until_it_leads(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.outcome(self.jobs.List, wire.encode(ListJobs()))[0] is not grpc.StatusCode.OK:
            assert time.monotonic() < deadline, self.cluster.logs()
            time.sleep(0.05)

    def until_it_rests(self) -> None:
        """Until the controller has looked at the job: its rollout waits for another job then, and it writes no more."""
        deadline = time.monotonic() + PATIENCE_S
        while b'"phase":"waiting"' not in b"".join(value for _, value in self.contents()[:-1]):
            assert time.monotonic() < deadline, self.cluster.logs()
            time.sleep(0.05)

    def close(self) -> None:
        self._channel.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A controller of the module's own that holds one job with one task that fits nowhere."""
    directory = tmp_path_factory.mktemp("bad-input")
    made = Cluster(directory, f"sqlite://{directory}/controller.db", "process")
    made.controller.start()
    api = Api(made)
    try:
        api.until_it_leads()
        assert api.apply(GOOD) == (grpc.StatusCode.OK, [])
        api.until_it_rests()
        yield api
    finally:
        api.close()
        made.controller.kill()


@pytest.fixture
def api(running: Api) -> Iterator[Api]:
    """The controller; at the end of the test its store is what it was, and it never met a fault of its own."""
    while (before := running.contents()) != running.contents():
        time.sleep(0.05)
    yield running
    assert running.contents() == before
    assert "Traceback" not in running.cluster.controller.log()
    assert running.outcome(running.jobs.Inspect, wire.encode(JobRef(namespace="shop", name="web")))[0] is (
        grpc.StatusCode.OK
    )


def changed(**changes: object) -> JobSpec:
    return msgspec.structs.replace(GOOD, **changes)


def task(**changes: object) -> JobSpec:
    return changed(task=msgspec.structs.replace(GOOD.task, **changes))


def container(**changes: object) -> JobSpec:
    return task(container=msgspec.structs.replace(GOOD.task.container, **changes))


def paths(faults: list[Fault]) -> list[str]:
    return [fault.path for fault in faults]


# --- names and images


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_what_is_no_name_is_refused_wherever_a_name_stands(api: Api, name: str) -> None:
    for spec, path in (
        (changed(name=name), "services[0].name"),
        (changed(depends_on=(Dependency(job=name),)), "services.web.depends_on"),
    ):
        code, faults = api.apply(spec)
        assert (code, paths(faults)) == (INVALID, [path])
        assert "use 1 to 63 of a-z, 0-9 and '-'" in faults[0].text
    code, faults = api.apply(changed(namespace=name), namespace=name)
    assert (code, paths(faults)) == (INVALID, ["namespace", "services.web.namespace"])
    for call in (api.jobs.Restart, api.jobs.Stop, api.jobs.Remove):
        assert api.outcome(call, wire.encode(JobsRequest(namespace=name, jobs=("web",))))[0] is INVALID
        assert api.outcome(call, wire.encode(JobsRequest(namespace="shop", jobs=(name,))))[0] is NOT_FOUND
    scale = ScaleRequest(namespace=name, targets=(ScaleTarget(job="web", replicas=2),))
    assert api.outcome(api.jobs.Scale, wire.encode(scale))[0] is INVALID


@pytest.mark.parametrize("name", [name for name in NO_NAMES if name], ids=ascii)
def test_reading_what_has_no_name_finds_nothing_and_says_so(api: Api, name: str) -> None:
    for call, request in (
        (api.jobs.List, ListJobs(namespace=name)),
        (api.jobs.Tasks, ListTasks(namespace=name)),
        (api.jobs.Watch, WatchJobs(namespace=name)),
        (api.services.Events, EventsRequest(namespace=name)),
    ):
        code, faults = api.outcome(call, wire.encode(request))
        assert (code, paths(faults)) == (INVALID, ["namespace"])
    for call, request in (
        (api.jobs.Inspect, JobRef(namespace="shop", name=name)),
        (api.jobs.InspectTask, TaskRef(namespace="shop", name=name)),
        (api.jobs.Why, WhyRequest(namespace="shop", name=name)),
        (api.jobs.Logs, LogsRequest(namespace="shop", name=name)),
        (api.nodes.Inspect, NodeRef(name=name)),
    ):
        assert api.outcome(call, wire.encode(request))[0] is NOT_FOUND


@pytest.mark.parametrize("image", NO_IMAGES, ids=ascii)
def test_what_is_no_image_never_gets_as_far_as_an_engine(api: Api, image: str) -> None:
    code, faults = api.apply(container(image=image))
    assert (code, paths(faults)) == (INVALID, ["services.web.task.container.image"])
    assert "is not valid: " in faults[0].text


# --- sizes, counts, numbers


def test_a_spec_and_a_message_are_bounded(api: Api) -> None:
    half = "x" * (LIMITS.spec_bytes // 2)
    code, faults = api.apply(container(command=(half, half)))
    assert (code, paths(faults)) == (INVALID, ["services.web"])
    assert f"at most {LIMITS.spec_bytes} are allowed" in faults[0].text
    assert api.apply(container(command=("x" * LIMITS.message_bytes,)))[0] is INVALID
    largest = container(command=("x" * LIMITS.session_message_bytes,))
    assert api.apply(largest)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (changed(replicas=LIMITS.replicas + 1), "replicas"),
        (changed(replicas=-1), "replicas"),
        (task(ports=tuple(Port(container_port=port) for port in range(1, 130))), "task.ports"),
        (changed(labels={f"l{n}": "" for n in range(LIMITS.labels_per_object + 1)}), "labels"),
        (container(command=("a",) * 1001), "task.container.command"),
        (container(environment={"A": "x" * LIMITS.environment_bytes}), "task.container.environment"),
        (changed(depends_on=tuple(Dependency(job=f"j{n}") for n in range(1001))), "depends_on"),
    ],
)
def test_counts_are_capped(api: Api, spec: JobSpec, path: str) -> None:
    code, faults = api.apply(spec)
    assert (code, paths(faults)) == (INVALID, [f"services.web.{path}"])


def test_a_request_names_a_bounded_number_of_jobs(api: Api) -> None:
    count = LIMITS.jobs_per_request + 1
    small = JobSpec(namespace="shop", name="x", task=TaskSpec(container=Container(command=("x",))))
    code, faults = api.apply(*(msgspec.structs.replace(small, name=f"j{n}") for n in range(count)))
    assert (code, paths(faults)) == (INVALID, ["services"])
    names = tuple(f"j{n}" for n in range(count))
    assert api.outcome(api.jobs.Stop, wire.encode(JobsRequest(namespace="shop", jobs=names)))[0] is INVALID
    targets = tuple(ScaleTarget(job=name, replicas=1) for name in names)
    assert api.outcome(api.jobs.Scale, wire.encode(ScaleRequest(namespace="shop", targets=targets)))[0] is INVALID


@pytest.mark.parametrize("replicas", [-1, LIMITS.replicas + 1, 2**62, -(2**63)])
def test_nobody_scales_beyond_the_cap(api: Api, replicas: int) -> None:
    request = ScaleRequest(namespace="shop", targets=(ScaleTarget(job="web", replicas=replicas),))
    assert api.outcome(api.jobs.Scale, wire.encode(request))[0] is INVALID


NO_SECONDS = [math.nan, math.inf, -math.inf, -1.0, 1e308]
NO_AMOUNTS = [-1, 2**62, -(2**63), 2**63 - 1]


def put_seconds(request: Message, value: float) -> dict[str, float]:
    spec = request.specs[0]  # type: ignore[attr-defined]
    check, restart, update, own = spec.task.health_check, spec.task.restart, spec.update, spec.task.container
    for part, fields in (
        (check, ("interval_s", "timeout_s", "start_period_s", "start_interval_s")),
        (restart, ("delay_s", "window_s")),
        (update, ("delay_s", "monitor_s", "max_failure_ratio")),
        (own, ("stop_grace_s",)),
    ):
        for field in fields:
            setattr(part, field, value)
    names = (
        *(f"task.health_check.{field}" for field in ("interval_s", "timeout_s", "start_period_s", "start_interval_s")),
        *("task.restart.delay_s", "task.restart.window_s", "task.container.stop_grace_s"),
        *("update.delay_s", "update.monitor_s", "update.max_failure_ratio"),
    )
    return dict.fromkeys((f"services.web.{name}" for name in names), value)


@pytest.mark.parametrize("value", NO_SECONDS)
def test_times_that_are_none_are_all_named_at_once(api: Api, value: float) -> None:
    request = wire.encode(ApplyRequest(namespace="shop", specs=(GOOD,)))
    expected = put_seconds(request, value)
    code, faults = api.outcome(api.jobs.Apply, request)
    assert code is INVALID
    assert set(paths(faults)) == set(expected)


@pytest.mark.parametrize("value", NO_AMOUNTS)
def test_amounts_that_are_none_are_all_named_at_once(api: Api, value: int) -> None:
    request = wire.encode(ApplyRequest(namespace="shop", specs=(GOOD,)))
    own = request.specs[0].task  # type: ignore[attr-defined]
    for resources in (own.reservations, own.limits):
        resources.cpu_millis = resources.memory_bytes = value
    own.ports[0].container_port = own.ports[0].published_port = value
    own.placement.max_replicas_per_node = own.health_check.retries = own.restart.max_attempts = value
    code, faults = api.outcome(api.jobs.Apply, request)
    assert code is INVALID
    amounts = [f"{kind}.{what}" for kind in ("reservations", "limits") for what in ("cpu_millis", "memory_bytes")]
    others = ["ports[0].container_port", "ports[0].published_port", "placement.max_replicas_per_node"]
    wanted = [*amounts, *others, "health_check.retries", "restart.max_attempts"]
    assert set(paths(faults)) == {f"services.web.task.{path}" for path in wanted}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_moments_that_are_none(api: Api, value: float) -> None:
    for call, request in (
        (api.services.Events, EventsRequest(since_s=value)),
        (api.jobs.Logs, LogsRequest(namespace="shop", name="web", since_s=value)),
    ):
        code, faults = api.outcome(call, wire.encode(request))
        assert (code, paths(faults)) == (INVALID, ["since_s"])
    code, faults = api.outcome(api.jobs.Logs, wire.encode(LogsRequest(namespace="shop", name="web", tail=-2)))
    assert (code, paths(faults)) == (INVALID, ["tail"])


# --- messages


def test_bytes_that_are_no_message_are_refused_and_cost_nobody_else_anything(api: Api) -> None:
    for content in (b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x7f"):
        for path in ("Jobs/Apply", "Jobs/Watch", "Cluster/Events"):
            assert api.raw(f"/podium.v1.{path}", content) is INVALID
        assert api.raw("/podium.v1.Dispatcher/Session", content, stream=True) is INVALID
    assert api.raw("/podium.v1.Jobs/Apply", b"\x0a\x02\xff\xfe") is INVALID, "a name that is not UTF-8"
    assert api.raw("/podium.v1.Jobs/Conquer", b"") is grpc.StatusCode.UNIMPLEMENTED


def test_what_a_newer_client_might_say_is_not_guessed_at(api: Api) -> None:
    request = wire.encode(ApplyRequest(namespace="shop", specs=(GOOD,)))
    request.specs[0].mode = 99  # type: ignore[attr-defined]
    code, faults = api.outcome(api.jobs.Apply, request)
    assert code is INVALID
    assert "99" in faults[0].text
    without_task = model_pb2.JobSpec(namespace="shop", name="web")
    del request.specs[:]  # type: ignore[attr-defined]
    request.specs.append(without_task)  # type: ignore[attr-defined]
    code, faults = api.outcome(api.jobs.Apply, request)
    assert code is INVALID
    assert (faults[0].path, faults[0].text) == ("specs.task", "is missing: no JobSpec is without it")


def test_everything_wrong_is_listed_at_once_with_its_path(api: Api) -> None:
    first = msgspec.structs.replace(container(image="A", environment={"B=": "\0"}), name="NO", replicas=-1)
    second = changed(namespace="else", task=msgspec.structs.replace(GOOD.task, ports=(Port(container_port=0),)))
    code, faults = api.apply(first, second, key="x" * 200)
    assert code is INVALID
    assert set(paths(faults)) == {
        "idempotency_key",
        "services[0].name",
        "services[0].replicas",
        "services[0].task.container.image",
        "services[0].task.container.environment.B=",
        "services.web.namespace",
        "services.web.task.ports[0].container_port",
    }


def test_a_good_job_beside_a_bad_one_is_not_taken_either(api: Api) -> None:
    code, faults = api.apply(changed(name="good", depends_on=()), changed(name="bad", replicas=-1))
    assert (code, paths(faults)) == (INVALID, ["services.bad.replicas"])


# --- through the command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "a/../../containers/x?force=1#"), "task.container.image: image reference"),
        (("run", "app", "--name", "wеb"), "name: 'wеb' is not a name"),
        (("run", "app", "--name", "web\n"), "name: 'web\\n' is not a name"),
        (("run", "app", "--replicas", "100001"), "replicas: 100001 is out of range: allowed is 0 to 100000"),
        (("run", "app", "-p", "99999:1"), "publish: '99999:1': ports are 1 to 65535"),
        (("run", "app", "-e", "=x"), "env: '=x' is not KEY=VALUE"),
        (("-n", "Shop", "jobs"), "namespace: 'Shop' is not a name"),
        (("-n", "Shop", "run", "app"), "namespace: 'Shop' is not a name"),
        (("-n", "a/b", "scale", "web=2"), "'a/b' is not a name"),
        (("-n", "shop", "scale", "web=100001"), "'web=100001' is not JOB=N with N from 0 to 100000"),
        (("-n", "shop", "scale", "web=nan"), "'web=nan' is not JOB=N"),
        (("logs", "shop/web", "--since", "nan"), "since: 'nan' is not a moment"),
    ],
)
def test_the_command_refuses_in_a_line_with_exit_code_2(api: Api, arguments: tuple[str, ...], said: str) -> None:
    done = api.cluster.podium(*arguments, code=2)
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_faults_of_a_file_have_its_name_and_their_lines_and_nothing_of_it_is_deployed(api: Api) -> None:
    text = """\
        name: shop
        services:
          good: {image: "app:1"}
          Bad_Name: {image: "app:1"}
          climbs: {image: "a/../../containers/x?force=1#"}
          huge:
            image: "app:1"
            mem_limit: 99999999999999p
            stop_grace_period: -1s
            deploy:
              replicas: 100001
              resources: {limits: {cpus: ".nan"}}
          typo: {image: "app:1", comand: x}
          port: {image: "app:1", ports: ["70000:80"]}
        """
    file = api.cluster.directory / "bad.yaml"
    file.write_text(textwrap.dedent(text))
    for arguments in (("up", "-f", str(file)), ("plan", "-f", str(file)), ("validate", "-f", str(file))):
        done = api.cluster.podium(*arguments, code=2)
        faulty = [int(line.partition("bad.yaml:")[2].partition(":")[0]) for line in done.stderr.splitlines()]
        assert faulty == [4, 5, 8, 9, 11, 12, 13, 14], done.stderr
    assert "services.climbs.image: image reference" in done.stderr
    assert "services.typo.comand: " in done.stderr
    assert re.search(r"comand: .*did you mean .*command", done.stderr), done.stderr


def test_a_file_over_the_bound_of_a_spec_is_refused_before_it_is_sent(api: Api) -> None:
    file = api.cluster.directory / "large.yaml"
    file.write_text(f"name: shop\nservices:\n  big:\n    command: [{'x' * 150_000}, {'y' * 150_000}]\n")
    said = api.cluster.podium("up", "-f", str(file), code=2).stderr
    assert "large.yaml:3: services.big: the spec is" in said
    assert "at most 262144 are allowed" in said


def test_what_fits_the_command_but_not_the_message_is_refused_by_its_size(api: Api, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.yaml" for number in range(6)]
    for number, file in enumerate(files):
        services = "\n".join(f"  s{number}-{n}: {{command: [{'x' * 200_000}]}}" for n in range(4))
        file.write_text(f"name: shop\nservices:\n{services}\n")
    said = api.cluster.podium("up", *(part for file in files for part in ("-f", str(file))), code=2).stderr
    assert "4194304" in said
    files[0].write_text("#" * 2_000_000)
    assert "is larger than 1048576 bytes" in api.cluster.podium("up", "-f", str(files[0]), code=2).stderr
