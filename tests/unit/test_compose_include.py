"""Projects that include others: what becomes part of them, from which directory, and what may not meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.compose import Project
from common.model.job import JobSpec
from tests.compose_files import Workspace

DATABASE = """
name: its-own-name
services:
  db:
    image: postgres:${VERSION}
    env_file: ./db.env
    environment: [REGION]
    volumes: ["./init:/docker-entrypoint-initdb.d:ro", "data:/data"]
    networks: [back]
volumes: {data: }
networks: {back: }
"""
SHOP = """
include: [db/compose.yaml]
services:
  web: {image: shop:1, depends_on: [db], volumes: ["data:/exports:ro"], networks: [back]}
networks: {back: }
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    workspace.write("db/compose.yaml", DATABASE)
    workspace.write("db/.env", "VERSION=16\nREGION=eu\n")
    workspace.write("db/db.env", "POSTGRES_DB=${VERSION}-shop\n")
    return workspace


def by_name(project: Project) -> dict[str, JobSpec]:
    return {spec.name: spec for spec in project.specs}


def test_it_becomes_part_of_the_project(workspace: Workspace) -> None:
    project = workspace.load(SHOP)
    assert sorted(by_name(project)) == ["db", "web"]
    assert {spec.namespace for spec in project.specs} == {"test"}, "its own name is not the project's"
    assert [one.job for one in by_name(project)["web"].depends_on] == ["db"]


def test_its_paths_and_variables_are_those_of_its_directory(workspace: Workspace) -> None:
    container = by_name(workspace.load(SHOP))["db"].task.container
    assert container.image == "postgres:16"
    assert container.environment == {"POSTGRES_DB": "16-shop", "REGION": "eu"}
    assert container.mounts[0].source == str(workspace.directory / "db" / "init")


def test_variables_of_the_project_that_includes_come_first(workspace: Workspace) -> None:
    workspace.write(".env", "VERSION=17")
    container = by_name(workspace.load(SHOP, environment={"REGION": "us"}))["db"].task.container
    assert (container.image, container.environment["REGION"]) == ("postgres:17", "us")


def test_variables_of_an_included_project_are_its_own(workspace: Workspace) -> None:
    with_name = SHOP.replace("image: shop:1,", "image: shop:1, environment: [REGION],")
    assert by_name(workspace.load(with_name))["web"].task.container.environment == {}


def test_the_long_form_names_files_directory_and_variables(workspace: Workspace) -> None:
    workspace.write("db/over.yaml", "services: {db: {environment: {EXTRA: 1}}}")
    workspace.write("other.env", "VERSION=15")
    workspace.write("last.env", "VERSION=14")
    workspace.write("elsewhere/db.env", "FROM=elsewhere")
    project = workspace.load(
        """
        include:
          - path: [db/compose.yaml, db/over.yaml]
            project_directory: elsewhere
            env_file: [other.env, last.env]
        """
    )
    container = by_name(project)["db"].task.container
    assert container.image == "postgres:14"
    assert container.environment == {"FROM": "elsewhere", "EXTRA": "1"}


def test_no_variables_at_all(workspace: Workspace) -> None:
    (fault,) = workspace.faults("include: [{path: db/compose.yaml, env_file: /dev/null}]")
    assert fault.startswith("db/compose.yaml:4: services.db.image: image reference 'postgres:' is not valid")


def test_a_later_file_has_its_say_about_what_is_included(workspace: Workspace) -> None:
    project = workspace.load(SHOP, "services: {db: {image: 'postgres:12'}}")
    assert by_name(project)["db"].task.container.image == "postgres:12"


def test_included_projects_include_others(workspace: Workspace) -> None:
    workspace.write("db/more.yaml", "include: [deeper/compose.yaml]\nservices: {b: {image: b}}")
    workspace.write(
        "db/deeper/compose.yaml", "services: {c: {image: 'c:${VERSION}', extends: {file: d.yaml, service: d}}}"
    )
    workspace.write("db/deeper/d.yaml", "services: {d: {command: [x, '${VERSION}']}}")
    specs = by_name(workspace.load("include: ['db/more.yaml']\nservices: {a: {image: a}}"))
    assert sorted(specs) == ["a", "b", "c"]
    assert specs["c"].task.container.image == "c:16", "defaults of the project in between count"
    assert specs["c"].task.container.command == ("x", "16")


def test_the_same_file_by_two_ways_is_there_once(workspace: Workspace) -> None:
    workspace.write("left.yaml", "include: [db/compose.yaml]\nservices: {left: {image: a}}")
    workspace.write("right.yaml", "include: [db/compose.yaml]\nservices: {right: {image: a}}")
    assert sorted(by_name(workspace.load("include: [left.yaml, right.yaml]"))) == ["db", "left", "right"]


def test_what_stands_in_both_must_be_the_same(workspace: Workspace) -> None:
    (fault,) = workspace.faults("include: [db/compose.yaml]\nservices:\n  db: {image: shop:1}\n")
    assert fault == (
        "compose.yaml:3: services.db: is given otherwise in db/compose.yaml:3, which is part of the same project: "
        "rename one of them"
    )


def test_the_same_words_in_another_directory_are_not_the_same(workspace: Workspace) -> None:
    service = "services: {a: {image: a, volumes: ['./x:/x']}}"
    workspace.write("one/compose.yaml", service)
    workspace.write("two/compose.yaml", service)
    (fault,) = workspace.faults("include: [one/compose.yaml, two/compose.yaml]")
    assert fault.startswith("two/compose.yaml:1: services.a: is given otherwise in one/compose.yaml:1")


@pytest.mark.parametrize("first", ["compose.yaml", "ring.yaml"])
def test_a_circle_is_refused_where_it_closes(workspace: Workspace, first: str) -> None:
    workspace.write("ring.yaml", f"services: {{b: {{image: b}}}}\ninclude: [{first}]")
    (fault,) = workspace.faults("include:\n  - ring.yaml\nservices: {a: {image: a}}")
    assert fault.startswith("ring.yaml:2: include[0]: files include each other in a circle: ")
    assert fault.count("ring.yaml") >= 2


def test_a_long_row_is_refused(workspace: Workspace) -> None:
    for place in range(70):
        workspace.write(f"f{place}.yaml", f"include: [f{place + 1}.yaml]\nservices: {{s{place}: {{image: a}}}}")
    (fault,) = workspace.faults("include: [f0.yaml]")
    assert "more than 32 projects that include each other in a row" in fault


def test_a_wide_fan_is_bounded(workspace: Workspace) -> None:
    """Each file includes the next one twice: 2^20 readings, were there no bound."""
    for place in range(20):
        workspace.write(f"f{place}.yaml", f"include: [f{place + 1}.yaml, f{place + 1}.yaml]")
    workspace.write("f20.yaml", "services: {a: {image: a}}")
    assert any("more than the 64 files" in fault for fault in workspace.faults("include: [f0.yaml]"))


@pytest.mark.parametrize(
    ("include", "fault"),
    [
        ("[gone.yaml]", "compose.yaml:1: include[0]: gone.yaml is not there"),
        ("[db]", "db: is not a file"),
        ("[{path: []}]", "compose.yaml:1: include[0]: path is missing: the file to include"),
        ("[{file: a.yaml}]", "compose.yaml:1: include[0].file: is not a key of an include (did you mean env_file?)"),
        ("[{path: db/compose.yaml, env_file: gone.env}]", "gone.env: cannot be read: No such file or directory"),
        ("db/compose.yaml", "compose.yaml:1: include: the string 'db/compose.yaml' is given; a list is expected"),
        (
            "['oci://registry/app:1']",
            "compose.yaml:1: include[0]: only files of this machine are included: fetch it first, and give its path",
        ),
        (
            "['https://example.com/app.git']",
            "compose.yaml:1: include[0]: only files of this machine are included: fetch it first, and give its path",
        ),
    ],
)
def test_what_cannot_be_included(workspace: Workspace, include: str, fault: str) -> None:
    """What the rest of the project misses then is not held against it."""
    found = workspace.faults(f"include: {include}\nservices: {{web: {{image: a, depends_on: [db]}}}}")
    assert fault in found


def test_a_fault_in_an_included_file_names_its_line(workspace: Workspace) -> None:
    workspace.write("bad.yaml", "services:\n  bad:\n    image: a\n    imagee: b\n")
    assert workspace.faults("include: [bad.yaml]") == [
        "bad.yaml:4: services.bad.imagee: is not a key of a service (did you mean image?)"
    ]
