"""Whole applications as people have them (tests/corpus): what each says when it is loaded, and what its plan then is.

The lines below are complete: a warning or a refusal more or less is a change for whoever has such a file.
"""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from client.compose import Project, load
from common.errors import Fault, Invalid
from common.model.api import ApplyRequest, Plan
from common.model.job import Hook, JobMode, JobSpec
from common.model.node import NodeStatus
from common.model.privileges import BindRule, NodePolicy
from controller.core.plan import plan
from controller.core.turns import at_once
from controller.scheduler.node_table import NodeTable
from controller.state import State
from tests import builders

CORPUS = Path(__file__).parents[1] / "corpus"
SHELL = {"ACME_EMAIL": "ops@example.com", "DOMAIN": "example.com", "ELASTIC_PASSWORD": "secret"}

WARNED = {
    "wordpress": [],
    "gitea": [
        "1 version",
        "2 networks",
        "18 services.server.networks",
        "36 services.db.networks",
    ],
    "proxy": [
        "25 services.traefik.logging",
        "26 services.traefik.networks",
        "33 services.whoami.logging",
        "34 services.whoami.networks",
        "39 services.whoami.deploy.endpoint_mode",
        "40 networks",
    ],
    "nextcloud": [],
    "django": [
        "2 services.migrate.build",
        "2 services.web.build",
        "2 services.worker.build",
        "2 services.beat.build",
        "26 services.web.develop",
        "51 services.db.volumes[0].volume.nocopy",
        "56 volumes.pgdata.labels",
    ],
    "kafka": ["23 services.ui.depends_on.broker.restart"],
    "search": ["12 services.elasticsearch.mem_swappiness"],
}
"""Loaded, with these warnings."""
REFUSED = {
    "monitoring": [
        "26 services.node-exporter.volumes[0]",
    ],
    "voting": ["4 services.vote.build", "17 services.worker.build"],
    "home": [
        "12 services.media.runtime",
        "13 services.media.gpus",
        "24 services.downloads.network_mode",
        "25 services.downloads.volumes_from",
    ],
}
"""Not loaded, and these are the places."""


def loaded(name: str) -> Project:
    return load([CORPUS / f"{name}.yaml"], project_name=name, environment=SHELL)


def by_name(name: str) -> dict[str, JobSpec]:
    return {spec.name: spec for spec in loaded(name).specs}


def lines(faults: tuple[Fault, ...]) -> list[str]:
    return [f"{fault.line} {fault.path}" for fault in faults]


def planned(project: Project) -> Plan:
    """On three nodes that give their directories away."""
    nodes = [builders.node(name, cpu=8) for name in ("n1", "n2", "n3")]
    policy = NodePolicy(bind=tuple(BindRule(path=path) for path in ("/etc", "/var", str(CORPUS))), engine_socket=True)
    nodes = [
        msgspec.structs.replace(node, description=msgspec.structs.replace(node.description, policy=policy))
        for node in nodes
    ]
    conditions = {node.id: builders.condition(node, NodeStatus.READY) for node in nodes}
    table = NodeTable()
    for node in nodes:
        table.set_node(node, conditions[node.id])
    request = ApplyRequest(namespace=project.name, specs=project.specs)
    return at_once(plan(State.of(nodes), conditions, table, request, 1_000.0, random.Random(1)))


def test_every_application_of_the_corpus_is_here() -> None:
    assert {path.stem for path in CORPUS.glob("*.yaml")} == {*WARNED, *REFUSED}


@pytest.mark.parametrize("name", WARNED)
def test_what_is_loaded_says_what_it_ignores(name: str) -> None:
    assert lines(loaded(name).warnings) == WARNED[name]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_every_place(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        loaded(name)
    assert lines(caught.value.faults) == REFUSED[name]


@pytest.mark.parametrize("name", [name for name in WARNED if name != "search"])
def test_what_is_loaded_finds_its_nodes(name: str) -> None:
    project = loaded(name)
    found = planned(project)
    assert found.unplaced == ()
    started = {step.subject for step in found.steps if step.action == "start"}
    assert started == {f"{name}/{spec.name}.{slot}" for spec in project.specs for slot in range(1, spec.replicas + 1)}


def test_data_that_must_be_there_is_not_begun_anew() -> None:
    found = planned(loaded("search"))
    assert [(waiting.job, waiting.slots) for waiting in found.unplaced] == [("search/elasticsearch", (1,))]
    assert "volume search_esdata, which is on no node, and external" in found.unplaced[0].verdict.verdict


def test_a_blog_waits_for_its_database() -> None:
    wordpress = by_name("wordpress")["wordpress"]
    assert [(one.job, one.condition.value) for one in wordpress.depends_on] == [("db", "service_healthy")]
    assert wordpress.task.container.environment["WORDPRESS_DB_PASSWORD"] == "examplepass"


def test_a_cloud_shares_its_files_and_runs_hooks() -> None:
    specs = by_name("nextcloud")
    assert [mount.shared for name in ("app", "cron", "db") for mount in specs[name].task.container.mounts] == [
        *(True, True),
        False,
    ]
    app = specs["app"].task.container
    assert app.environment["MYSQL_PASSWORD"] == "a b"
    assert app.pre_stop == (Hook(command=("php", "occ", "maintenance:mode", "--on"), user="www-data"),)
    assert app.engine.memory_swap_bytes == 1 << 30


def test_a_shop_migrates_first_and_leaves_its_debugger_out() -> None:
    specs = by_name("django")
    assert sorted(specs) == ["beat", "db", "migrate", "redis", "web", "worker"]
    assert specs["migrate"].mode is JobMode.BATCH
    assert specs["web"].task.container.command[2].endswith("--workers ${WORKERS:-2}"), "the shell's to fill in"
    assert specs["worker"].task.container.environment["DATABASE_URL"] == "postgres://shop:shop@db:5432/shop"
    assert specs["worker"].replicas == 2


def test_what_reads_logs_is_on_every_node() -> None:
    specs = by_name("search")
    assert specs["filebeat"].mode is JobMode.DAEMON
    assert specs["elasticsearch"].task.container.environment["ELASTIC_PASSWORD"] == "secret"


def test_a_proxy_has_the_ports_of_its_node() -> None:
    ports = by_name("proxy")["traefik"].task.ports
    assert [(port.published_port, port.mode.value) for port in ports] == [(80, "host"), (443, "host")]


def test_a_port_of_this_machine_alone_is_one_of_each_node_alone(tmp_path: Path) -> None:
    ports = by_name("kafka")["broker"].task.ports
    assert [(port.published_port, port.loopback) for port in ports] == [(9092, True)]
    file = tmp_path / "compose.yaml"
    file.write_text(
        "services: {db: {image: a, ports: ['[::1]:81:80', {target: 8, published: 82, host_ip: 127.0.0.1}, '83:83']}}"
    )
    (spec,) = load([file], project_name="test", environment={}).specs
    assert [port.loopback for port in spec.task.ports] == [True, True, False]


@pytest.mark.parametrize(
    "port", ["0.0.0.0:8080:80", "[::]:8080:80", "{target: 80, published: 8080, host_ip: 0.0.0.0}", "8080:80"]
)
def test_a_port_of_every_address_is_a_port(tmp_path: Path, port: str) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(f"services: {{web: {{image: a, ports: [{port if port[0] == '{' else repr(port)}]}}}}")
    (spec,) = load([file], project_name="test", environment={}).specs
    assert [(one.published_port, one.container_port) for one in spec.task.ports] == [(8080, 80)]
