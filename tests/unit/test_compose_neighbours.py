"""By what names a service is found, and which others it links to."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.compose.project import Project
from common.model.job import JobSpec
from tests.compose_files import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def specs(project: Project) -> dict[str, JobSpec]:
    return {spec.name: spec for spec in project.specs}


def test_aliases_of_networks_and_the_containers_name_are_names_of_the_service(workspace: Workspace) -> None:
    spec = workspace.service(
        "container_name: My_App\nnetworks: {default: {aliases: [www, Shop]}, back: {aliases: [www]}}"
    )
    assert spec.aliases == ("www", "shop", "my_app")


def test_the_services_own_name_is_none_more(workspace: Workspace) -> None:
    assert workspace.service("container_name: web").aliases == ()


def test_networks_keep_nobody_apart_and_that_is_said(workspace: Workspace) -> None:
    text = "services:\n  web:\n    image: a\n    networks: {}\n"
    says = (
        "compose.yaml:4: services.web.networks: keeps no services apart: all of a project reach each other, and others"
    )
    assert workspace.warnings(text.replace("{}", "[front]"))[0].startswith(says)
    assert workspace.warnings(text.replace("{}", "{front: }"))[0].startswith(says)
    assert workspace.warnings(text.replace("{}", "[default]")) == []


def test_networks_of_several_files_come_together(workspace: Workspace) -> None:
    over = "services: {web: {networks: {b: {aliases: [x]}}}}"
    project = workspace.load("services: {web: {image: a, networks: [a]}}", over)
    assert specs(project)["web"].aliases == ("x",)


def test_an_address_that_was_asked_for_is_refused(workspace: Workspace) -> None:
    (fault,) = workspace.faults("services: {web: {image: a, networks: {n: {ipv4_address: 10.0.0.2}}}}")
    assert "services.web.networks.n.ipv4_address: is not supported" in fault


@pytest.mark.parametrize("alias", ["a.b", "-a", "a" * 64, "a b"])
def test_an_alias_that_can_be_no_name_is_refused_where_it_stands(workspace: Workspace, alias: str) -> None:
    text = f"services:\n  web:\n    image: a\n    networks:\n      default:\n        aliases: [{alias!r}]\n"
    (fault,) = workspace.faults(text)
    assert fault.startswith("compose.yaml:4: services.web.networks: ")
    assert "cannot be a name of a service" in fault


def test_a_containers_name_that_can_be_no_name_only_warns(workspace: Workspace) -> None:
    (warning,) = workspace.warnings("services:\n  web:\n    image: a\n    container_name: my.app\n")
    assert warning.startswith("compose.yaml:4: services.web.container_name: is no name that others can find it by: ")


def test_a_link_names_its_service_and_waits_for_it(workspace: Workspace) -> None:
    project = workspace.load(
        "services: {web: {image: a, links: [db, 'cache:redis']}, db: {image: a}, cache: {image: a}}"
    )
    assert [one.job for one in specs(project)["web"].depends_on] == ["db", "cache"]
    assert (specs(project)["db"].aliases, specs(project)["cache"].aliases) == ((), ("redis",))


def test_a_link_to_what_is_depended_on_anyway_adds_nothing(workspace: Workspace) -> None:
    project = workspace.load(
        "services: {web: {image: a, links: [db], depends_on: [db]}, db: {image: a}}",
    )
    assert len(specs(project)["web"].depends_on) == 1


def test_a_link_to_nobody_is_a_fault_with_the_nearest(workspace: Workspace) -> None:
    (fault,) = workspace.faults("services:\n  web: {image: a, links: [bdd]}\n  bd: {image: a}\n")
    assert fault.endswith("depends on 'bdd', but there is no such service (did you mean bd?)")


def test_a_name_that_another_service_has_leads_there(workspace: Workspace) -> None:
    (warning,) = workspace.warnings("services: {web: {image: a, container_name: db}, db: {image: a}}")
    assert warning.endswith("is not found by the name 'db': another service has it")


def test_what_a_resolver_is_told(workspace: Workspace) -> None:
    engine = workspace.service("dns_search: a.example\ndns_opt: ['ndots:2', use-vc]").task.container.engine
    assert (engine.dns_search, engine.dns_options) == (("a.example",), ("ndots:2", "use-vc"))
    assert workspace.service("dns_search: [a, b]").task.container.engine.dns_search == ("a", "b")


@pytest.mark.parametrize("wrong", ["dns_search: 'a b'", "dns_opt: ['ndots: 2']", "dns_opt: [Ndots]"])
def test_what_a_resolver_cannot_be_told(workspace: Workspace, wrong: str) -> None:
    (fault,) = workspace.faults(f"services:\n  web:\n    image: a\n    {wrong}\n")
    assert fault.startswith(f"compose.yaml:4: services.web.{wrong.partition(':')[0]}")


def test_a_service_that_others_await_and_cannot_reach_is_warned_of(workspace: Workspace) -> None:
    text = "services:\n  web: {image: a, depends_on: [db]}\n  db: {command: serve}\n"
    (warning,) = workspace.warnings(text)
    assert warning.startswith("compose.yaml:3: services.db: has no port, so others cannot reach it by its name")
    for reached in ("command: serve, expose: [80]", "command: serve, deploy: {mode: replicated-job}", "image: a"):
        assert workspace.warnings(text.replace("command: serve", reached)) == []
