"""The examples are what they promise: they load without a warning, and hello's program answers."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
from pathlib import Path

from agent.core.environment import expand
from client.compose import Project, load
from common.model.job import DependencyCondition, JobMode, PullPolicy
from tests.ports import free_port

ROOT = Path(__file__).parents[2]


def example(name: str, **environment: str) -> Project:
    project = load([ROOT / "examples" / name / "compose.yaml"], project_name=None, environment=environment)
    assert project.warnings == ()
    return project


def test_hello_is_three_healthy_processes_behind_one_port() -> None:
    project = example("hello")
    (spec,) = project.specs
    assert (project.name, spec.full_name, spec.mode, spec.replicas) == ("hello", "hello/hello", JobMode.SERVICE, 3)
    assert spec.task.container.image == ""
    assert [port.published_port for port in spec.task.ports] == [8080]
    assert spec.task.health_check is not None
    (other,) = example("hello", HELLO_PORT="18080").specs
    assert [port.published_port for port in other.task.ports] == [18080]


def test_hellos_program_answers_with_slot_and_node_and_is_found_healthy() -> None:
    (spec,) = example("hello").specs
    port = free_port()
    check = spec.task.health_check
    assert check is not None
    environment = {
        "PORT": str(port),
        "PODIUM_NODE_ADDRESS": "127.0.0.1",
        "PODIUM_SLOT": "2",
        "PODIUM_NODE": "n7",
    }
    command, probe = (
        [expand(text, environment) for text in texts] for texts in (spec.task.container.command, check.test)
    )
    assert command[0] == probe[1] == "python3"
    with subprocess.Popen(
        [sys.executable, *command[1:]], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == f"listening on 127.0.0.1:{port}\n"
            assert subprocess.run([sys.executable, *probe[2:]], timeout=20, check=False).returncode == 0
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"hello from replica 2 on n7\n"
            connection.close()
        finally:
            server.terminate()
    assert server.returncode == 0
    assert subprocess.run([sys.executable, *probe[2:]], timeout=20, stderr=subprocess.DEVNULL, check=False).returncode


def test_shop_is_a_job_an_api_and_a_web_tier_that_wait_for_each_other() -> None:
    specs = {spec.name: spec for spec in example("shop").specs}
    assert list(specs) == ["migrate", "api", "web"]
    assert specs["migrate"].mode is JobMode.BATCH
    waits = {name: [(d.job, d.condition) for d in spec.depends_on] for name, spec in specs.items()}
    assert waits["api"] == [("migrate", DependencyCondition.SERVICE_COMPLETED_SUCCESSFULLY)]
    assert waits["web"] == [("api", DependencyCondition.SERVICE_HEALTHY)]
    assert specs["web"].task.container.environment["API"] == "http://api/"
    assert specs["api"].task.ports == (), "its image says where it listens"
    assert "\nEXPOSE 80\n" in (ROOT / "examples" / "shop" / "api" / "Dockerfile").read_text(encoding="utf-8")
    assert {spec.task.container.pull_policy for spec in specs.values()} == {PullPolicy.NEVER}


def test_the_images_of_shop_are_those_its_script_builds() -> None:
    script = (ROOT / "examples" / "shop" / "build.sh").read_text(encoding="utf-8")
    named = re.search(r"for image in (.*); do\n\s+docker", script)
    assert named is not None
    built = {f"podium-shop-{image}:1" for image in named[1].split()}
    assert {spec.task.container.image for spec in example("shop").specs} == built


def test_the_example_of_the_documentation_loads(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "compose.md").read_text(encoding="utf-8")
    found = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert found is not None
    file = tmp_path / "compose.yaml"
    file.write_text(found[1], encoding="utf-8")
    project = load([file], project_name=None, environment={})
    assert project.warnings == ()
    assert [spec.name for spec in project.specs] == ["migrate", "web", "hello"]
