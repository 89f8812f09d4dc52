"""Several files, `extends` and `profiles`: what a service is when more than one place describes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.compose.extends import CHAIN
from common.model.job import Dependency, DependencyCondition, HealthCheck
from common.model.resources import Resources
from tests.compose_files import Workspace, service_file


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def over(text: str) -> str:
    """A second file about the same service, its keys from line 3."""
    return service_file(text).replace("    image: shop:1.4\n", "")


def test_values_are_replaced_mappings_merge_and_lists_are_appended(workspace: Workspace) -> None:
    spec = workspace.spec(
        service_file(
            """
            user: one
            ports: ["8080:80"]
            deploy: {replicas: 2, resources: {limits: {cpus: "1", memory: 64M}}}
            """
        ),
        over(
            """
            user: two
            ports: ["8080:80", "8443:443"]
            deploy: {resources: {limits: {cpus: "2"}}}
            """
        ),
    )
    assert spec.task.container.user == "two"
    assert [port.published_port for port in spec.task.ports] == [8080, 8443]
    assert spec.replicas == 2
    assert spec.task.limits == Resources(cpu_millis=2000, memory_bytes=64 * 1024 * 1024)


def test_commands_entrypoints_and_tests_are_replaced(workspace: Workspace) -> None:
    spec = workspace.spec(
        service_file("command: [a, b]\nentrypoint: [c]\nhealthcheck: {test: [CMD, d], retries: 7}"),
        over("command: e\nentrypoint: [f]\nhealthcheck: {test: [CMD, g]}"),
    )
    assert spec.task.container.command == ("e",)
    assert spec.task.container.entrypoint == ("f",)
    assert spec.task.health_check == HealthCheck(test=("CMD", "g"), retries=7)


def test_environments_and_labels_merge_by_name_in_either_form(workspace: Workspace) -> None:
    spec = workspace.spec(
        service_file("environment: [A=1, B=1]\nlabels: {x: '1', y: '1'}\ndeploy: {labels: [p=1]}"),
        over("environment: {B: 2, C: 2}\nlabels: [y=2]\ndeploy: {labels: {q: '2'}}"),
    )
    assert spec.task.container.environment == {"A": "1", "B": "2", "C": "2"}
    assert spec.task.container.labels == {"x": "1", "y": "2"}
    assert spec.labels == {"p": "1", "q": "2"}


def test_a_name_without_a_value_replaces_one_with_a_value(workspace: Workspace) -> None:
    texts = (service_file("environment: {A: written}"), over("environment: [A]"))
    assert workspace.spec(*texts, environment={"A": "shell"}).task.container.environment == {"A": "shell"}


def test_env_files_and_tmpfs_merge_whether_written_as_one_or_as_list(workspace: Workspace) -> None:
    workspace.write("one.env", "A=1\n")
    workspace.write("two.env", "B=2\n")
    spec = workspace.spec(
        service_file("env_file: one.env\ntmpfs: /run"), over("env_file: [two.env]\ntmpfs: [/run, /tmp]")
    )
    assert spec.task.container.environment == {"A": "1", "B": "2"}
    assert spec.task.container.tmpfs == ("/run", "/tmp")


def test_dependencies_merge_in_either_form(workspace: Workspace) -> None:
    others = "  a: {image: a, healthcheck: {test: x}}\n  b: {image: b}\n"
    project = workspace.load(
        service_file("depends_on: [a, b]") + others, over("depends_on: {a: {condition: service_healthy}}")
    )
    assert project.specs[0].depends_on == (
        Dependency(job="a", condition=DependencyCondition.SERVICE_HEALTHY),
        Dependency(job="b"),
    )


def test_what_says_nothing_changes_nothing(workspace: Workspace) -> None:
    spec = workspace.spec(service_file("user: me\nports: ['80:80']"), over("user:\nports: []\ndeploy: {}"))
    assert spec.task.container.user == "me"
    assert len(spec.task.ports) == 1


def test_reset_removes_and_override_replaces(workspace: Workspace) -> None:
    spec = workspace.spec(
        service_file("user: me\nports: ['80:80']\nenvironment: {A: 1, B: 1}"),
        over("user: !reset null\nports: !override ['81:80']\nenvironment: {A: !reset null}"),
    )
    assert spec.task.container.user == ""
    assert [port.published_port for port in spec.task.ports] == [81]
    assert spec.task.container.environment == {"B": "1"}


def test_a_reset_in_the_only_file_removes_too(workspace: Workspace) -> None:
    assert workspace.service("user: !reset me").task.container.user == ""


def test_services_of_later_files_are_added(workspace: Workspace) -> None:
    project = workspace.load("services: {a: {image: a}}", "services: {b: {image: b}}")
    assert [spec.name for spec in project.specs] == ["a", "b"]


def test_faults_of_merged_files_name_the_file_they_come_from(workspace: Workspace) -> None:
    faults = workspace.faults(service_file("usr: me"), over("deploy: {replicas: many}"))
    assert [fault.partition(" ")[0] for fault in faults] == ["compose.yaml:4:", "over1.yaml:3:"]


def test_what_cannot_merge_is_a_fault_with_both_places(workspace: Workspace) -> None:
    assert workspace.faults(service_file("deploy: {replicas: 2}"), over("deploy: [a]"))[0] == (
        f"over1.yaml:3: services.web.deploy: a list cannot be merged with a mapping of "
        f"{workspace.directory}/compose.yaml:4: write both alike"
    ).replace(f"{workspace.directory}/", "")


def test_ignored_keys_merge_however_they_are_written(workspace: Workspace) -> None:
    workspace.load(service_file("logging: [a]"), over("logging: {b: {}}"))


# --- extends


def test_a_service_extends_another_of_its_file(workspace: Workspace) -> None:
    project = workspace.load(
        """
        services:
          base: {image: shop, environment: {A: 1, B: 1}, command: [base]}
          web: {extends: base, environment: {B: 2}, command: [web]}
          api: {extends: {service: web}, user: me}
        """
    )
    api = project.specs[2].task.container
    assert (api.image, api.environment, api.command, api.user) == ("shop", {"A": "1", "B": "2"}, ("web",), "me")


def test_a_service_extends_one_of_another_file_whose_paths_stay_its_own(workspace: Workspace) -> None:
    workspace.write("common/base.env", "FROM=common\n")
    workspace.write("common/base.yaml", "services:\n  base: {image: 'shop:$TAG', env_file: base.env}\n")
    spec = workspace.spec(
        "services: {web: {extends: {file: common/base.yaml, service: base}, user: me}}", environment={"TAG": "2"}
    )
    assert spec.task.container.image == "shop:2"
    assert spec.task.container.environment == {"FROM": "common"}


def test_each_file_extends_before_files_are_merged(workspace: Workspace) -> None:
    project = workspace.load("services: {base: {image: one}, web: {extends: base}}", "services: {base: {image: two}}")
    assert [spec.task.container.image for spec in project.specs] == ["two", "one"]


def test_faults_of_an_extended_file_name_it(workspace: Workspace) -> None:
    workspace.write("base.yaml", "services:\n  base:\n    imagee: shop\n")
    faults = workspace.faults("services: {web: {extends: {file: base.yaml, service: base}, image: a}}")
    assert faults == ["base.yaml:3: services.web.imagee: is not a key of a service (did you mean image?)"]


@pytest.mark.parametrize(
    ("services", "expected"),
    [
        (
            "a: {extends: b}\n  b: {extends: a}",
            ["compose.yaml:3: services.b.extends: extends a, which extends this service"],
        ),
        ("a: {extends: a}", ["compose.yaml:2: services.a.extends: extends a, which extends this service in turn"]),
        (
            "web: {extends: wbe}",
            ["compose.yaml:2: services.web.extends: compose.yaml has no service 'wbe' (did you mean web?)"],
        ),
        (
            "a: {extends: {servce: b}}",
            [
                "compose.yaml:2: services.a.extends.servce: is not a key",
                "compose.yaml:2: services.a.extends: service is missing",
            ],
        ),
        ("a: {extends: [b]}", ["compose.yaml:2: services.a.extends: a list is given; a mapping is expected"]),
        (
            "a: {extends: {file: none.yaml, service: b}}",
            ["compose.yaml:2: services.a.extends: none.yaml cannot be used", "none.yaml: cannot be read: No such file"],
        ),
    ],
)
def test_what_cannot_be_extended(workspace: Workspace, services: str, expected: list[str]) -> None:
    faults = workspace.faults(f"services:\n  {services}\n")
    assert len(faults) == len(expected)
    for fault, start in zip(sorted(faults), sorted(expected), strict=True):
        assert fault.startswith(start)


def test_circles_through_files_are_refused(workspace: Workspace) -> None:
    workspace.write("other.yaml", "services: {b: {extends: {file: compose.yaml, service: a}}}")
    (fault,) = workspace.faults("services: {a: {extends: {file: other.yaml, service: b}}}")
    assert "extends a, which extends this service in turn" in fault or "extends b, which extends" in fault


@pytest.mark.parametrize("step", [1, -1])
def test_chains_are_bounded_whichever_way_they_are_written(workspace: Workspace, step: int) -> None:
    def chain(length: int) -> str:
        services = [f"  s{place}: {{extends: s{place - step}}}" for place in range(1, length + 1)]
        end = f"  s{0 if step == 1 else length + 1}: {{image: shop}}"
        return "\n".join(("services:", *services, end))

    assert len(workspace.load(chain(CHAIN)).specs) == CHAIN + 1
    assert "in a row" in workspace.faults(chain(CHAIN + 1))[0]


# --- profiles

PROFILES = """
services:
  web: {image: a}
  debug: {image: b, profiles: [debug, all]}
"""


@pytest.mark.parametrize(
    ("profiles", "environment", "expected"),
    [
        ([], {}, ["web"]),
        (["debug"], {}, ["web", "debug"]),
        (["*"], {}, ["web", "debug"]),
        (["other"], {}, ["web"]),
        ([], {"COMPOSE_PROFILES": "other,all"}, ["web", "debug"]),
    ],
)
def test_profiles_choose_services(
    workspace: Workspace, profiles: list[str], environment: dict[str, str], expected: list[str]
) -> None:
    project = workspace.load(PROFILES, profiles=profiles, environment=environment)
    assert [spec.name for spec in project.specs] == expected


def test_an_inactive_service_may_use_what_is_not_supported_but_not_what_is_unknown(workspace: Workspace) -> None:
    keys = "image: a, profiles: [later], volumes: ['a:/b'], deploy: {mode: global}"
    assert len(workspace.load("services: {web: {image: a}, db: {" + keys + "}}").specs) == 1
    faults = workspace.faults("services: {web: {image: a}, db: {" + keys + ", volums: 1}}")
    assert len(faults) == 1
    assert "did you mean volumes?" in faults[0]


def test_an_inactive_service_publishes_nothing_and_cannot_be_needed(workspace: Workspace) -> None:
    text = """
    services:
      web: {image: a, ports: ["8080:80"], depends_on: DEPENDS}
      db: {image: b, ports: ["8080:80"], profiles: [db]}
    """
    assert workspace.load(text.replace("DEPENDS", "{db: {required: false}}")).specs[0].depends_on == ()
    (fault,) = workspace.faults(text.replace("DEPENDS", "[db]"))
    assert fault.endswith(
        "services.web.depends_on[0]: depends on db, which is left out: none of its profiles is active"
    )
