"""What each honoured key of a service becomes, and what is said of values that it cannot have."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.model.job import (
    Constraint,
    ConstraintOperator,
    Container,
    FailureAction,
    HealthCheck,
    JobMode,
    JobSpec,
    Placement,
    Port,
    Protocol,
    PublishMode,
    PullPolicy,
    RestartCondition,
    RestartPolicy,
    TaskSpec,
    UpdateOrder,
    UpdatePolicy,
)
from common.model.resources import Resources
from tests.builders import GIB, MIB
from tests.compose_files import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_a_service_of_an_image_alone_has_the_defaults(workspace: Workspace) -> None:
    spec = workspace.spec("services: {web: {image: shop}}")
    assert spec == JobSpec(namespace="test", name="web", task=TaskSpec(container=Container(image="shop")))


def test_every_key_of_the_container(workspace: Workspace) -> None:
    spec = workspace.service(
        """
        command: serve --name "my shop" 'a b'
        entrypoint: [/init, --]
        working_dir: /srv
        user: "1000:1000"
        labels: {tier: front, empty: }
        hostname: web.shop
        init: true
        read_only: true
        tmpfs: /run:size=64m
        stop_signal: SIGQUIT
        stop_grace_period: 1m30s
        pull_policy: always
        """
    )
    assert spec.task.container == Container(
        image="shop:1.4",
        command=("serve", "--name", "my shop", "a b"),
        entrypoint=("/init", "--"),
        working_dir="/srv",
        user="1000:1000",
        labels={"tier": "front", "empty": ""},
        hostname="web.shop",
        init=True,
        read_only=True,
        tmpfs=("/run:size=64m",),
        stop_signal="SIGQUIT",
        stop_grace_s=90.0,
        pull_policy=PullPolicy.ALWAYS,
    )


def test_a_service_without_image_and_build_is_a_process(workspace: Workspace) -> None:
    spec = workspace.spec("services: {hello: {command: [python3, -m, http.server, '$${PORT}']}}")
    assert spec.task.container == Container(command=("python3", "-m", "http.server", "${PORT}"))


def test_numbers_in_a_command_are_taken_as_written(workspace: Workspace) -> None:
    assert workspace.service("command: [sleep, 1.50]").task.container.command == ("sleep", "1.50")


def test_build_beside_an_image_is_a_warning_and_alone_a_fault(workspace: Workspace) -> None:
    (warning,) = workspace.warnings("services:\n  web:\n    image: a\n    build: .\n")
    assert warning.startswith("compose.yaml:4: services.web.build: is ignored: Podium does not build;")
    assert workspace.faults("services: {web: {build: .}}") == [
        "compose.yaml:1: services.web.build: Podium does not build images: build it, and name it with image"
    ]


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ('["8080:80"]', [Port(container_port=80, published_port=8080)]),
        ("[80]", [Port(container_port=80)]),
        ('["5353:53/udp"]', [Port(container_port=53, published_port=5353, protocol=Protocol.UDP)]),
        (
            '["8000-8001:80-81"]',
            [Port(container_port=80, published_port=8000), Port(container_port=81, published_port=8001)],
        ),
        ('["80-81"]', [Port(container_port=80), Port(container_port=81)]),
        (
            "[{target: 80, published: '8080', protocol: tcp, mode: host}]",
            [Port(container_port=80, published_port=8080, mode=PublishMode.HOST)],
        ),
        ("[{target: 80}]", [Port(container_port=80)]),
    ],
)
def test_ports(workspace: Workspace, ports: str, expected: list[Port]) -> None:
    assert list(workspace.service(f"ports: {ports}").task.ports) == expected


def test_a_port_that_is_not_published_is_a_warning(workspace: Workspace) -> None:
    (warning,) = workspace.warnings("services: {web: {image: a, ports: [80]}}")
    assert warning.endswith("services.web.ports[0]: port 80 is not reachable from outside: publish it, e.g. as 8080:80")


def test_exposed_ports_are_unpublished_and_count_once(workspace: Workspace) -> None:
    spec = workspace.service("ports: ['8080:80']\nexpose: [80, '90-91', '53/udp', 90]")
    assert [(port.container_port, port.published_port) for port in spec.task.ports] == [
        (80, 8080),
        (90, 0),
        (91, 0),
        (53, 0),
    ]
    assert workspace.load("services: {web: {image: a, expose: [80]}}").warnings == ()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("ports: [abc]", "ports[0]: 'abc' is not a port: write TARGET, PUBLISHED:TARGET or ranges"),
        ("ports: ['0:80']", "ports[0]: '0:80' is out of range: ports are 1 to 65535"),
        ("ports: ['8080:65536']", "ports[0]: '8080:65536' is out of range"),
        ("ports: ['8002-8000:80']", "ports[0]: '8002-8000:80' is out of range"),
        ("ports: ['8000-8002:80']", "ports[0]: '8000-8002:80' pairs 3 published ports with 1 of the container"),
        ("ports: ['1-500:1-500']", "ports[0]: '1-500:1-500' is a range of 500 ports; at most 128"),
        ("ports: ['80:80/sctp']", "ports[0]: protocol 'sctp' is not supported: allowed is tcp or udp"),
        ("ports: ['10.0.0.1:8080:80']", "ports[0]: '10.0.0.1:8080:80' names a host address"),
        ("ports: ['[fd00::1]:8080:80']", "ports[0]: '[fd00::1]:8080:80' names a host address"),
        ("ports: ['80:80', '80:81']", "ports[1]: 80/tcp is published already by ports[0] of this job"),
        ("ports: [{published: 80}]", "ports[0]: target is missing"),
        ("ports: [{target: 80, mode: bridge}]", "ports[0].mode: 'bridge' is given; allowed is ingress or host"),
        ("ports: [{target: 80, mode: host}]", "ports[0]: mode host needs a published port"),
        ("ports: [{target: 80, published: 8000-8010}]", "ports[0].published: the string '8000-8010' is given; a whole"),
        ("ports: [{target: 80, host_ip: 10.0.0.1}]", "ports[0].host_ip: is not supported by this version"),
        (
            "ports: [{target: 80, published: 80, mode: host, host_ip: 127.0.0.1}]",
            "ports[0]: needs a published port in mode ingress: the other nodes must reach the task",
        ),
        ("ports: 80", "ports: the integer '80' is given; a list is expected"),
        ("ports: [1.5]", "ports[0]: '1.5' is not a port"),
        ("expose: ['8080:80']", "expose[0]: '8080:80' publishes a port"),
    ],
)
def test_bad_ports(workspace: Workspace, keys: str, expected: str) -> None:
    faults = workspace.service_faults(keys)
    assert len(faults) == 1
    assert faults[0].startswith(f"compose.yaml:4: services.web.{expected}")


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("{test: curl localhost}", HealthCheck(test=("CMD-SHELL", "curl localhost"))),
        ("{test: [CMD, curl, localhost]}", HealthCheck(test=("CMD", "curl", "localhost"))),
        ("{test: [CMD-SHELL, exit 0]}", HealthCheck(test=("CMD-SHELL", "exit 0"))),
        ("{test: [NONE]}", None),
        ("{test: NONE}", HealthCheck(test=("CMD-SHELL", "NONE"))),
        ("{disable: true}", None),
        ("{test: x, disable: true}", None),
        (
            "{test: x, interval: 2s, timeout: 500ms, retries: 5, start_period: 1m, start_interval: 1s}",
            HealthCheck(
                test=("CMD-SHELL", "x"),
                interval_s=2.0,
                timeout_s=0.5,
                retries=5,
                start_period_s=60.0,
                start_interval_s=1.0,
            ),
        ),
    ],
)
def test_health_checks(workspace: Workspace, check: str, expected: HealthCheck | None) -> None:
    assert workspace.service(f"healthcheck: {check}").task.health_check == expected


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("{interval: 2s}", "healthcheck: test is missing"),
        ("{test: [curl]}", "healthcheck.test: begins with 'curl': the first element must be CMD or CMD-SHELL"),
        ("{test: []}", "healthcheck.test: begins with ''"),
        ("{test: [CMD]}", "healthcheck.test: CMD is followed by no command"),
        ("{test: [CMD-SHELL, a, b]}", "healthcheck.test: CMD-SHELL takes one line, 2 elements are given"),
        ("{test: x, interval: 0s}", "healthcheck.interval: 0.0 seconds is out of range: allowed is 0.001 to 604800"),
        ("{test: x, timeout: 5}", "healthcheck.timeout: '5' is not a duration: write numbers with units"),
        ("{test: x, retries: 0}", "healthcheck.retries: 0 is out of range: allowed is 1 to"),
        ("{test: x, intervall: 5s}", "healthcheck.intervall: is not a key of healthcheck (did you mean interval?)"),
        ("{test: x, disable: yes}", "healthcheck.disable: the string 'yes' is given; true or false is expected"),
    ],
)
def test_bad_health_checks(workspace: Workspace, check: str, expected: str) -> None:
    faults = workspace.service_faults(f"healthcheck: {check}")
    assert len(faults) == 1
    assert faults[0].startswith(f"compose.yaml:4: services.web.{expected}")


def test_deploy(workspace: Workspace) -> None:
    spec = workspace.service(
        """
        deploy:
          mode: replicated
          replicas: 4
          labels: [tier=front]
          resources:
            limits: {cpus: 1.5, memory: 1g}
            reservations: {cpus: "0.25", memory: 256M}
          placement:
            constraints: [node.labels.zone == eu, node.hostname!=n1]
            preferences: [{spread: node.labels.rack}, {spread: node.hostname}]
            max_replicas_per_node: 2
          restart_policy: {condition: on-failure, delay: 5s, max_attempts: 3, window: 2m}
          update_config:
            {order: stop-first, parallelism: 2, delay: 1s, monitor: 10s, max_failure_ratio: 0.5, failure_action: pause}
        """
    )
    assert (spec.mode, spec.replicas, spec.labels) == (JobMode.SERVICE, 4, {"tier": "front"})
    assert spec.task.limits == Resources(cpu_millis=1500, memory_bytes=GIB)
    assert spec.task.reservations == Resources(cpu_millis=250, memory_bytes=256 * MIB)
    assert spec.task.placement == Placement(
        constraints=(
            Constraint(attribute="node.labels.zone", operator=ConstraintOperator.EQUAL, value="eu"),
            Constraint(attribute="node.name", operator=ConstraintOperator.NOT_EQUAL, value="n1"),
        ),
        spread=("node.labels.rack", "node.name"),
        max_replicas_per_node=2,
    )
    assert spec.task.restart == RestartPolicy(
        condition=RestartCondition.ON_FAILURE, delay_s=5.0, max_attempts=3, window_s=120.0
    )
    assert spec.update == UpdatePolicy(
        order=UpdateOrder.STOP_FIRST,
        parallelism=2,
        delay_s=1.0,
        monitor_s=10.0,
        max_failure_ratio=0.5,
        failure_action=FailureAction.PAUSE,
    )


def test_a_replicated_job_is_a_batch_that_restarts_on_failure(workspace: Workspace) -> None:
    spec = workspace.service("deploy: {mode: replicated-job, replicas: 5}")
    assert (spec.mode, spec.replicas) == (JobMode.BATCH, 5)
    assert spec.task.restart.condition is RestartCondition.ON_FAILURE


def test_the_older_keys_mean_the_same(workspace: Workspace) -> None:
    spec = workspace.service("scale: 3\ncpus: 0.5\nmem_limit: 64m\nmem_reservation: 32m")
    assert spec.replicas == 3
    assert spec.task.limits == Resources(cpu_millis=500, memory_bytes=64 * MIB)
    assert spec.task.reservations == Resources(memory_bytes=32 * MIB)


def test_the_older_keys_must_agree_with_deploy(workspace: Workspace) -> None:
    assert workspace.service("scale: 3\ndeploy: {replicas: 3}").replicas == 3
    assert workspace.service_faults("scale: 3\ndeploy: {replicas: 2}") == [
        "compose.yaml:4: services.web.scale: differs from services.web.deploy.replicas in line 5: give only one of them"
    ]


@pytest.mark.parametrize(
    ("restart", "expected"),
    [
        ('"no"', RestartPolicy(condition=RestartCondition.NONE)),
        ("no", RestartPolicy(condition=RestartCondition.NONE)),
        ("always", RestartPolicy(condition=RestartCondition.ANY)),
        ("unless-stopped", RestartPolicy(condition=RestartCondition.ANY)),
        ("on-failure", RestartPolicy(condition=RestartCondition.ON_FAILURE)),
        ("on-failure:7", RestartPolicy(condition=RestartCondition.ON_FAILURE, max_attempts=7)),
    ],
)
def test_restart(workspace: Workspace, restart: str, expected: RestartPolicy) -> None:
    assert workspace.service(f"restart: {restart}").task.restart == expected


def test_the_restart_policy_of_deploy_comes_before_restart(workspace: Workspace) -> None:
    spec = workspace.service("restart: always\ndeploy: {restart_policy: {condition: none}}")
    assert spec.task.restart.condition is RestartCondition.NONE


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("deploy: {mode: global, replicas: 2}", "deploy.replicas: cannot be given: with this deploy.mode there is a"),
        (
            "deploy: {mode: global, placement: {max_replicas_per_node: 1}}",
            "deploy.placement.max_replicas_per_node: says",
        ),
        (
            "deploy: {mode: replicate}",
            "deploy.mode: 'replicate' is given; allowed is replicated, replicated-job, global or",
        ),
        ("deploy: {replicas: -1}", "deploy.replicas: -1 is out of range: allowed is 0 to 100000"),
        ("deploy: {replicas: 1.5}", "deploy.replicas: the number '1.5' is given; a whole number"),
        ("deploy: {replicas: 99999999999999999999}", "deploy.replicas: the integer '99999999999999999999' is given"),
        ("cpus: -1", "cpus: '-1' is not a number of CPUs"),
        ("cpus: .nan", "cpus: '.nan' is not a number of CPUs"),
        ("cpus: .inf", "cpus: '.inf' is not a number of CPUs"),
        ("cpus: 0.0001", "cpus: '0.0001' is finer than 0.001 CPUs"),
        ("cpus: 20000", "cpus: 20000000 is out of range"),
        ("mem_limit: -64m", "mem_limit: '-64m' is not a size"),
        ("mem_limit: 16384p", "mem_limit: '16384p' is too large"),
        ("mem_limit: 5m", "mem_limit: 5242880 bytes is below the least that a container can have, 6 MiB"),
        ("mem_reservation: 65m\nmem_limit: 64m", "mem_reservation: 68157440 bytes reserved are more than the limit"),
        (
            "deploy: {resources: {limits: {cpus: 1}, reservations: {cpus: 2}}}",
            "deploy.resources.reservations.cpus: 2000",
        ),
        ("restart: on-failure:x", "restart: 'on-failure:x' is given; allowed is \"no\", always"),
        ("restart: false", "restart: 'false' is given; allowed is"),
        (
            "deploy: {mode: replicated-job, restart_policy: {condition: any}}",
            "deploy.restart_policy.condition: a batch",
        ),
        (
            "deploy: {restart_policy: {condition: always}}",
            "deploy.restart_policy.condition: 'always' is given; allowed",
        ),
        ("deploy: {restart_policy: {window: 0s}}", "deploy.restart_policy.window: 0.0 seconds is out of range"),
        ("deploy: {update_config: {max_failure_ratio: 1.5}}", "deploy.update_config.max_failure_ratio: '1.5' is given"),
        ("deploy: {update_config: {order: first}}", "deploy.update_config.order: 'first' is given; allowed is start-"),
        ("deploy: {placement: {constraints: [zone == eu]}}", "deploy.placement.constraints[0]: 'zone' is not an attr"),
        ("deploy: {placement: {constraints: [node.role == x]}}", "deploy.placement.constraints[0]: node.role: every"),
        ("deploy: {placement: {preferences: [{spread: x}]}}", "deploy.placement.preferences[0].spread: 'x' is not an"),
        ("deploy: {placement: {preferences: [{binpack: x}]}}", "deploy.placement.preferences[0].binpack: is not a key"),
        (
            "deploy: {resources: {limits: {memory: [1]}}}",
            "deploy.resources.limits.memory: a list is given; a size such",
        ),
        ("stop_grace_period: 10", "stop_grace_period: '10' is not a duration: write numbers with units"),
        ("stop_grace_period: 200h", "stop_grace_period: 720000.0 seconds is out of range"),
        ("stop_signal: SIGFOO", "stop_signal: 'SIGFOO' is not a signal"),
        ("pull_policy: daily", "pull_policy: 'daily' is given; allowed is missing, if_not_present, always or never"),
        ("command: sh -c 'x", 'command: "sh -c \'x" cannot be split into arguments: no closing quotation'),
        ("command: []", "command: is empty: leave it out to use the image's own"),
        ("entrypoint: ''", "entrypoint: is empty: leave it out to use the image's own"),
        ("command: [~]", "command[0]: nothing is given; a text is expected"),
        ("command: {a: b}", "command: a mapping is given; a command as a list or a text is expected"),
        ("working_dir: srv", "working_dir: 'srv' is not an absolute path"),
        ("user: 'a b'", "user: 'a b' is not a user"),
        ("hostname: -web", "hostname: '-web' is not a host name"),
        ("tmpfs: [run]", "tmpfs[0]: 'run' is not a mount"),
        ("labels: {podium.task: x}", "labels.podium.task: labels under podium. belong to Podium"),
        ("labels: ['podium.task=x']", "labels[0]: labels under podium. belong to Podium"),
        ("init: maybe", "init: the string 'maybe' is given; true or false is expected"),
        ("init: 1", "init: the integer '1' is given; true or false is expected"),
        ("read_only: 1", "read_only: the integer '1' is given; true or false is expected"),
        ("tty: 1", "tty: the integer '1' is given; true or false is expected"),
        ("stdin_open: 1", "stdin_open: the integer '1' is given; true or false is expected"),
    ],
)
def test_bad_values_name_path_and_line(workspace: Workspace, keys: str, expected: str) -> None:
    faults = workspace.service_faults(keys)
    assert len(faults) == 1, faults
    assert faults[0].startswith(f"compose.yaml:4: services.web.{expected}")


@pytest.mark.parametrize("keys", ["hostname: a", "init: true", "read_only: true", "tmpfs: /run", "pull_policy: always"])
def test_a_process_is_refused_what_only_a_container_has(workspace: Workspace, keys: str) -> None:
    (fault,) = workspace.faults(f"services:\n  web:\n    command: [a]\n    {keys}\n")
    name = keys.partition(":")[0]
    assert fault.startswith(f"compose.yaml:4: services.web.{name}: needs an image")


def test_a_service_needs_an_image_or_a_command(workspace: Workspace) -> None:
    advice = "name an image, or a command to run as a plain process"
    assert workspace.faults("services:\n  web: {user: me}\n") == [
        f"compose.yaml:2: services.web: neither an image nor a command is given: {advice}"
    ]


def test_a_bad_command_is_not_reported_as_a_missing_image_too(workspace: Workspace) -> None:
    assert len(workspace.faults("services: {web: {command: []}}")) == 1


def test_bad_image_references_are_refused_by_the_grammar(workspace: Workspace) -> None:
    (fault,) = workspace.faults("services: {web: {image: 'a/../../containers/victim?force=1#'}}")
    assert fault.startswith("compose.yaml:1: services.web.image: image reference")


def test_names_are_labels(workspace: Workspace) -> None:
    assert workspace.faults("services:\n  my_db: {image: a}\n")[0].startswith(
        "compose.yaml:2: services.my_db: 'my_db' is not a name: use 1 to 63 of a-z, 0-9 and '-'"
    )


def test_a_spec_is_bounded(workspace: Workspace) -> None:
    (fault,) = workspace.service_faults(f"command: [{'x' * 300_000}]")
    assert fault.startswith("compose.yaml:2: services.web: the spec is ")
    assert "at most 262144 are allowed" in fault


def test_a_priority_is_read_and_its_default_is_fifty(workspace: Workspace) -> None:
    assert workspace.service("x-podium: {priority: 60}").priority == 60
    assert workspace.service("x-podium: {}").priority == 50


@pytest.mark.parametrize(
    ("given", "said"),
    [("101", "101 is out of range: allowed is 0 to 100"), ("high", "a whole number from 0 to 100 is expected")],
)
def test_a_priority_outside_its_range_is_refused(workspace: Workspace, given: str, said: str) -> None:
    (fault,) = workspace.service_faults("x-podium: {priority: " + given + "}")
    assert fault.startswith("compose.yaml:4: services.web.x-podium.priority: ")
    assert said in fault


def test_unknown_podium_keys_are_faults_with_the_nearest(workspace: Workspace) -> None:
    assert workspace.service_faults("x-podium: {autoscal: 1}") == [
        "compose.yaml:4: services.web.x-podium.autoscal: is not a key of x-podium (did you mean autoscale?)"
    ]


def test_podium_keys_elsewhere_are_refused_and_other_extensions_pass(workspace: Workspace) -> None:
    workspace.load("x-a: 1\nservices: {web: {image: a, x-b: [c], deploy: {x-c: 1}, healthcheck: {test: a, x-d: 1}}}")
    assert "stands directly under a service" in workspace.service_faults("deploy: {x-podium: {priority: 1}}")[0]
    assert "stands directly under a service" in workspace.faults("x-podium: {}\nservices: {a: {image: a}}")[0]
