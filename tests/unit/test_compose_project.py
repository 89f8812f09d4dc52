"""What concerns a whole project: its name, the ports its services share, and whom they wait for."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from client.compose import default_files, load, render
from common.errors import Fault
from common.model.job import Dependency, DependencyCondition
from common.settings import LIMITS
from tests.compose_files import Workspace

SERVICES = "services: {web: {image: a}}"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "My Shop_2")


# --- name


@pytest.mark.parametrize(
    ("project_name", "environment", "text", "expected"),
    [
        ("given", {"COMPOSE_PROJECT_NAME": "shell"}, f"name: written\n{SERVICES}", "given"),
        (None, {"COMPOSE_PROJECT_NAME": "shell"}, f"name: written\n{SERVICES}", "shell"),
        (None, {}, f"name: written\n{SERVICES}", "written"),
        (None, {"STAGE": "prod"}, f"name: shop-$STAGE\n{SERVICES}", "shop-prod"),
        (None, {}, SERVICES, "my-shop-2"),
    ],
)
def test_where_the_name_comes_from(
    workspace: Workspace, project_name: str | None, environment: dict[str, str], text: str, expected: str
) -> None:
    project = workspace.load(text, project_name=project_name, environment=environment)
    assert project.name == expected
    assert [spec.namespace for spec in project.specs] == [expected]


def test_the_last_file_with_a_name_wins(workspace: Workspace) -> None:
    assert workspace.load(f"name: one\n{SERVICES}", "name: two", project_name=None).name == "two"


def test_the_name_can_be_used_as_a_variable(workspace: Workspace) -> None:
    spec = workspace.load("name: shop\nservices: {web: {image: '$COMPOSE_PROJECT_NAME'}}", project_name=None).specs[0]
    assert spec.task.container.image == "shop"


def test_a_bad_name_is_a_fault_at_its_line_once(workspace: Workspace) -> None:
    (fault,) = workspace.faults(f"{SERVICES}\nname: My_Shop", project_name=None)
    assert fault.startswith("compose.yaml:2: name: 'My_Shop' is not a name")
    (fault,) = workspace.faults(SERVICES, project_name="My_Shop")
    assert fault.startswith("name: 'My_Shop' is not a name")


# --- ports


def test_two_services_cannot_publish_one_port(workspace: Workspace) -> None:
    text = 'services:\n  web:\n    image: a\n    ports: ["8080:80"]\n  api:\n    image: b\n    ports: ["8080:90"]\n'
    (fault,) = workspace.faults(text)
    place, _, reason = fault.partition(": port ")
    assert place == "compose.yaml:7: services.api.ports[0]"
    assert reason == "8080/tcp is published already by services.web.ports[0] in line 4: choose another"


def test_a_collision_between_files_names_the_other_file(workspace: Workspace) -> None:
    one = 'services: {web: {image: a, ports: ["8080:80"]}}'
    two = 'services: {api: {image: a, ports: ["8080:80"]}}'
    (fault,) = workspace.faults(one, two)
    assert fault.startswith("over1.yaml:1: services.api.ports[0]: port 8080/tcp is published already by")
    assert "compose.yaml:1: choose another" in fault


def test_protocols_and_unpublished_ports_do_not_collide(workspace: Workspace) -> None:
    workspace.load(
        """
        services:
          web: {image: a, ports: ["53:53/tcp", 80]}
          dns: {image: b, ports: ["53:53/udp", 80]}
        """
    )


# --- dependencies


def test_dependencies_in_both_forms(workspace: Workspace) -> None:
    project = workspace.load(
        """
        services:
          migrate: {image: a, deploy: {mode: replicated-job}}
          db: {image: a, healthcheck: {test: x}}
          api: {image: a, depends_on: [db]}
          web:
            image: a
            depends_on:
              migrate: {condition: service_completed_successfully}
              db: {condition: service_healthy, required: true}
              cache: {condition: service_started, required: false}
        """
    )
    depends_on = {spec.name: spec.depends_on for spec in project.specs}
    assert depends_on["api"] == (Dependency(job="db"),)
    assert depends_on["web"] == (
        Dependency(job="migrate", condition=DependencyCondition.SERVICE_COMPLETED_SUCCESSFULLY),
        Dependency(job="db", condition=DependencyCondition.SERVICE_HEALTHY),
    )


def test_restart_of_a_dependency_is_a_warning(workspace: Workspace) -> None:
    text = "services: {db: {image: a, expose: [1]}, web: {image: a, depends_on: {db: {restart: true}}}}"
    (warning,) = workspace.warnings(text)
    assert "services.web.depends_on.db.restart: is ignored: a job is not restarted" in warning


@pytest.mark.parametrize(
    ("web", "expected"),
    [
        ("depends_on: [dbb]", "depends_on[0]: depends on 'dbb', but there is no such service (did you mean db?)"),
        ("depends_on: [web]", "depends_on[0]: a job cannot depend on itself"),
        ("depends_on: [db, db]", "depends_on[0]: db is listed twice"),
        ("depends_on: db", "depends_on: the string 'db' is given; a list or a mapping of services"),
        (
            "depends_on: {db: {condition: healthy}}",
            "depends_on.db.condition: 'healthy' is given; allowed is service_started",
        ),
        (
            "depends_on: {db: {conditon: x}}",
            "depends_on.db.conditon: is not a key of a dependency (did you mean condition?)",
        ),
        (
            "depends_on: {db: {condition: service_healthy}}",
            "depends_on.db: waits for db to be healthy, which has no healthcheck",
        ),
        (
            "depends_on: {db: {condition: service_completed_successfully}}",
            "depends_on.db: waits for db to complete, which is restarted whenever it ends: give db deploy.mode",
        ),
    ],
)
def test_bad_dependencies(workspace: Workspace, web: str, expected: str) -> None:
    (fault,) = workspace.faults("services:\n  db: {image: a}\n  web:\n    image: a\n    " + web)
    assert fault.startswith(f"compose.yaml:5: services.web.{expected}")


def test_a_service_that_ends_by_itself_can_be_waited_for(workspace: Workspace) -> None:
    for restart in ('"no"', "on-failure"):
        workspace.load(
            "services:\n"
            f"  once: {{image: a, restart: {restart}}}\n"
            "  web: {image: a, depends_on: {once: {condition: service_completed_successfully}}}\n"
        )


def test_circles_are_refused_with_their_steps(workspace: Workspace) -> None:
    (fault,) = workspace.faults(
        """
        services:
          a: {image: a, depends_on: [b]}
          b: {image: a, depends_on: [c]}
          c: {image: a, depends_on: [a]}
        """
    )
    steps = fault.rpartition(": ")[2].split(" -> ")
    assert steps[0] == steps[-1]
    assert sorted(steps[1:]) == ["a", "b", "c"]
    assert "services wait for each other in a circle" in fault
    following = dict(zip("abc", "bca", strict=True))
    assert all(following[one] == other for one, other in itertools.pairwise(steps))


def test_long_chains_of_dependencies_are_fine(workspace: Workspace) -> None:
    lines = ["services:", "  s0: {image: a}"]
    lines += [f"  s{place}: {{image: a, depends_on: [s{place - 1}]}}" for place in range(1, LIMITS.jobs_per_request)]
    assert len(workspace.load("\n".join(lines)).specs) == LIMITS.jobs_per_request


def test_the_number_of_services_is_bounded(workspace: Workspace) -> None:
    lines = ["services:", *(f"  s{place}: {{image: a}}" for place in range(LIMITS.jobs_per_request + 1))]
    assert workspace.faults("\n".join(lines)) == [
        "compose.yaml:1: services: has 1001 services; at most 1000 are allowed"
    ]


# --- files and output


def test_default_files(workspace: Workspace) -> None:
    assert default_files(workspace.directory) == ()
    old = workspace.write("docker-compose.yml", SERVICES)
    assert default_files(workspace.directory) == (old,)
    new = workspace.write("compose.yaml", SERVICES)
    override = workspace.write("compose.override.yaml", SERVICES)
    assert default_files(workspace.directory) == (new, override)


def test_warnings_are_in_the_order_of_the_file(workspace: Workspace) -> None:
    warnings = workspace.warnings('version: "3.8"\nservices:\n  web: {image: a, attach: true}\nnetworks: {}\n')
    assert [warning.split(" ")[0] for warning in warnings] == ["compose.yaml:1:", "compose.yaml:3:", "compose.yaml:4:"]


def test_faults_are_rendered_one_in_a_line() -> None:
    faults = (
        Fault(file="compose.yaml", line=12, path="services.web.deploy.replicas", text="-1 is out of range"),
        Fault(path="name", text="is missing"),
    )
    assert render(faults) == "compose.yaml:12: services.web.deploy.replicas: -1 is out of range\nname: is missing"


def test_loading_twice_gives_the_same(workspace: Workspace) -> None:
    file = workspace.write("compose.yaml", "services: {web: {image: a, attach: 1}, api: {image: b, depends_on: [web]}}")
    assert load([file], project_name=None, environment={}) == load([file], project_name=None, environment={})
