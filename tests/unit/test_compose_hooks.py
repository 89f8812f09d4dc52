"""Hooks, swap and processors in a Compose file: what a service says of them, and what is refused with its place."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agent.runtime.docker_request import configuration
from common.model.job import Hook
from tests.compose_files import Workspace
from tests.runtime_rigs import DockerRig


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_hooks_in_the_order_of_the_files(workspace: Workspace) -> None:
    container = workspace.spec(
        """
        services:
          web:
            image: shop:1
            post_start:
              - command: ["./warm", "$${SIZE}"]
                user: root
                working_dir: /srv
                environment: [SIZE=small, FROM_SHELL, UNSET]
            pre_stop: [{command: ./calm --within 5s}]
        """,
        "services: {web: {post_start: [{command: ./more}]}}",
        environment={"FROM_SHELL": "yes"},
    ).task.container
    warm = Hook(
        command=("./warm", "${SIZE}"),
        user="root",
        working_dir="/srv",
        environment={"SIZE": "small", "FROM_SHELL": "yes"},
    )
    assert container.post_start == (warm, Hook(command=("./more",)))
    assert container.pre_stop == (Hook(command=("./calm", "--within", "5s")),)


def test_a_plain_process_has_hooks_too(workspace: Workspace) -> None:
    service = "services:\n  web:\n    command: sleep 1\n    post_start:\n    - {command: ./warm}\n"
    assert workspace.spec(service).task.container.post_start == (Hook(command=("./warm",)),)
    assert workspace.faults(service.replace("./warm", "./warm, user: root")) == [
        "compose.yaml:5: services.web.post_start[0].user: needs an image: beside a plain process, hooks run as its user"
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("post_start: [{user: root}]", "post_start[0]: is empty: what is to be run"),
        ("post_start: [{command: []}]", "post_start[0].command: is empty: leave it out to use the image's own"),
        ("post_start: {command: x}", "post_start: a mapping is given; a list is expected"),
        ("pre_stop: [{comand: x}]", "pre_stop[0].comand: is not a key of a hook (did you mean command?)"),
        ("pre_stop: [{command: x, user: a b}]", "pre_stop[0].user: 'a b' is not a user"),
        ("pre_stop: [{command: x, working_dir: a}]", "pre_stop[0].working_dir: 'a' is not an absolute path"),
        ("pre_stop: [{command: x, environment: {PODIUM_JOB: y}}]", "pre_stop[0].environment.PODIUM_JOB: is set by"),
        ("pre_stop: [{command: x, privileged: true}]", "pre_stop[0].privileged: is not supported by this version"),
        ("cpuset: a-b", "cpuset: 'a-b' is no set of processors"),
        ("cpuset: 3-1", "cpuset: 3-1 runs backwards"),
        ("memswap_limit: 1G", "memswap_limit: needs a limit of memory"),
        ("{mem_limit: 2G, memswap_limit: 1G}", "memswap_limit: is 1073741824 bytes, less than the 2147483648"),
        ("{mem_limit: 2G, memswap_limit: -2}", "memswap_limit: "),
    ],
)
def test_what_is_refused_with_its_place(workspace: Workspace, line: str, fault: str) -> None:
    keys = line[1:-1].replace(", ", "\n") if line.startswith("{") else line
    found = workspace.service_faults(keys)
    assert any(f"services.web.{fault}" in one for one in found), found


def test_swap_and_processors_as_the_engine_is_told(workspace: Workspace) -> None:
    def told(keys: str) -> tuple[object, object, object]:
        task = workspace.service(keys).task
        request = msgspec.structs.replace(DockerRig().request(task.container), limits=task.limits)
        host = configuration(request)["HostConfig"]
        assert isinstance(host, dict)
        return host.get("Memory"), host.get("MemorySwap"), host.get("CpusetCpus")

    assert told("mem_limit: 1G\nmemswap_limit: 3G\ncpuset: 0-1, 3") == (1 << 30, 3 << 30, "0-1,3")
    assert told("mem_limit: 1G\nmemswap_limit: -1") == (1 << 30, -1, None)
    assert told("mem_limit: 1G") == (1 << 30, 1 << 30, None), "no swap unless somebody asks for it"
