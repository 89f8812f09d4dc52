"""Compose files as people have them load with exactly the warnings that are expected, and mean what they should."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.runtime.docker_request import configuration
from client.compose import Project
from common.model.job import Constraint, ConstraintOperator, EngineOptions, Ulimit
from tests.compose_files import Workspace
from tests.runtime_rigs import DockerRig

WEB_DB_CACHE = """
services:
  web:
    image: example/web:2.3
    ports: ["8000:8000"]
    environment: {DATABASE_URL: postgres://app@db/app, REDIS_URL: redis://cache:6379/0}
    depends_on:
      db: {condition: service_healthy}
      cache: {condition: service_started}
    cap_drop: [ALL]
    read_only: true
    tmpfs: /tmp
    restart: unless-stopped
    logging: {driver: json-file, options: {max-size: 10m}}
    networks: [front, back]
  db:
    image: postgres:16
    shm_size: 256mb
    environment: {POSTGRES_DB: app}
    volumes: ["pgdata:/var/lib/postgresql/data"]
    healthcheck: {test: ["CMD-SHELL", "pg_isready -U app"], interval: 5s, retries: 10}
    networks: [back]
  cache:
    image: redis:7-alpine
    command: redis-server --maxmemory 64mb
    sysctls: {net.core.somaxconn: 1024}
    ulimits: {nofile: {soft: 20000, hard: 40000}, nproc: 512}
    networks: [back]
volumes:
  pgdata:
networks:
  front:
  back:
"""
MONITORING = """
services:
  prometheus:
    image: prom/prometheus:v2.53.0
    command: ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.retention.time=15d"]
    volumes:
      - /srv/monitoring/prometheus.yml:/etc/prometheus/prometheus.yml:ro
      - metrics:/prometheus
    ports: ["9090:9090"]
    extra_hosts: ["host.docker.internal:host-gateway"]
  grafana:
    image: grafana/grafana:11.1.0
    container_name: grafana
    user: "472"
    group_add: ["0"]
    ports: ["3000:3000"]
    volumes: ["grafana:/var/lib/grafana"]
    depends_on: [prometheus]
  exporter:
    image: prom/node-exporter:v1.8.1
    pids_limit: 64
    oom_score_adj: 500
    deploy: {mode: global}
volumes: {metrics: {}, grafana: {driver: local}}
"""
BLOG = """
version: "3.8"
services:
  nginx:
    image: nginx:1.27
    ports: ["80:80"]
    volumes: ["html:/var/www/html:ro", "/srv/blog/nginx.conf:/etc/nginx/conf.d/default.conf:ro"]
    depends_on: [wordpress]
  wordpress:
    image: wordpress:6-fpm
    volumes: ["html:/var/www/html"]
    environment: {WORDPRESS_DB_HOST: mysql}
    links: [mysql]
  cron:
    image: wordpress:6-fpm
    entrypoint: ["sh", "-c", "while :; do php wp-cron.php; sleep 300; done"]
    volumes: ["html:/var/www/html"]
  mysql:
    image: mysql:8.4
    platform: linux/amd64
    volumes: ["mysql:/var/lib/mysql"]
    stop_grace_period: 1m
volumes: {html: , mysql: }
"""
QUEUE = """
x-worker: &worker
  image: example/jobs:1.0
  env_file: [{path: ./jobs.env, required: false}]
  labels: {app: jobs}
  label_file: ./labels
  init: true
services:
  migrate: {<<: *worker, command: ./migrate, deploy: {mode: replicated-job}}
  worker:
    <<: *worker
    command: ./work
    tty: true
    stdin_open: true
    depends_on: {migrate: {condition: service_completed_successfully}}
    deploy: {replicas: 4, resources: {limits: {cpus: "0.5", memory: 256M, pids: 200}}}
  scheduler:
    <<: *worker
    command: ./schedule
    volumes: ["state:/state", "/scratch"]
    deploy: {replicas: 2}
volumes: {state: }
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def options(project: Project, name: str) -> EngineOptions:
    return next(spec.task.container.engine for spec in project.specs if spec.name == name)


def warned(project: Project) -> list[str]:
    return [fault.path for fault in project.warnings]


def test_web_database_and_cache(workspace: Workspace) -> None:
    project = workspace.load(WEB_DB_CACHE)
    assert warned(project) == [
        "services.web.logging",
        "services.web.networks",
        "services.db.networks",
        "services.cache.networks",
        "networks",
    ]
    assert options(project, "web").cap_drop == ("ALL",)
    assert options(project, "db").shm_bytes == 256 << 20
    cache = options(project, "cache")
    assert cache.sysctls == {"net.core.somaxconn": "1024"}
    assert cache.ulimits == (Ulimit(name="nofile", soft=20000, hard=40000), Ulimit(name="nproc", soft=512, hard=512))


def test_monitoring(workspace: Workspace) -> None:
    project = workspace.load(MONITORING)
    assert warned(project) == []
    assert options(project, "prometheus").extra_hosts == ("host.docker.internal:host-gateway",)
    assert options(project, "grafana").group_add == ("0",)
    exporter = options(project, "exporter")
    assert (exporter.pids_limit, exporter.oom_score_adj) == (64, 500)


def test_a_blog(workspace: Workspace) -> None:
    project = workspace.load(BLOG)
    assert warned(project) == ["version"]
    shared = {spec.name: spec.task.container.mounts[0].shared for spec in project.specs if spec.task.container.mounts}
    assert shared == {"nginx": True, "wordpress": True, "cron": True, "mysql": False}
    (mysql,) = (spec for spec in project.specs if spec.name == "mysql")
    assert mysql.task.placement.constraints == (
        Constraint(attribute="node.platform.os", operator=ConstraintOperator.EQUAL, value="linux"),
        Constraint(attribute="node.platform.arch", operator=ConstraintOperator.EQUAL, value="amd64"),
    )


def test_queue_workers(workspace: Workspace) -> None:
    workspace.write("labels", "app=other\nteam=blue\n")
    project = workspace.load(QUEUE)
    assert sorted(warned(project)) == ["services.scheduler.volumes[0]", "services.scheduler.volumes[1]"]
    worker = options(project, "worker")
    assert (worker.tty, worker.stdin_open, worker.pids_limit) == (True, True, 200)
    assert {tuple(sorted(spec.task.container.labels.items())) for spec in project.specs} == {
        (("app", "jobs"), ("team", "blue"))
    }


def test_what_the_engine_is_told(workspace: Workspace) -> None:
    container = workspace.load(WEB_DB_CACHE).specs[2].task.container
    body = configuration(DockerRig().request(container))
    host = body["HostConfig"]
    assert isinstance(host, dict)
    assert host["Sysctls"] == {"net.core.somaxconn": "1024"}
    assert host["Ulimits"] == [
        {"Name": "nofile", "Soft": 20000, "Hard": 40000},
        {"Name": "nproc", "Soft": 512, "Hard": 512},
    ]
    assert "GroupAdd" not in host, "what is not asked for is the engine's own"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cap_drop: [net raw]", "'net raw' is no capability"),
        ("ulimits: {nofiles: 5}", "'nofiles' is no limit: allowed are core"),
        ("ulimits: {nofile: {soft: 5, hard: 3}}", "soft 5 is above hard 3"),
        ("ulimits: {nofile: {soft: 5}}", "soft and hard are both expected"),
        ("sysctls: {vm.swappiness: 1}", "vm.swappiness is a setting of the whole node"),
        ("extra_hosts: [db]", "'' is no address for db"),
        ("oom_score_adj: -5", "less would end the node's own programs before this one"),
        ("group_add: ['a b']", "'a b' is no group"),
        ("platform: linux//x", "is no platform: write OS/ARCHITECTURE"),
        ("domainname: '-x-'", "is no name of a domain"),
        ("uts: host", "it gives a task rights over its node"),
        ("cap_add: [net raw]", "'NET RAW' is no capability"),
        ("network_mode: service:db", "allowed is host, where the node's policy allows it"),
        ("pid: container:db", "allowed is host"),
        ("devices: [/etc/shadow]", "'/etc/shadow' is not below /dev"),
        ("devices: ['/dev/fuse:/dev/fuse:rx']", "'rx' is given; allowed are r, w and m"),
        ("security_opt: ['seccomp:profile.json']", "is not supported: allowed are no-new-privileges"),
    ],
)
def test_what_is_refused_with_its_line(workspace: Workspace, line: str, words: str) -> None:
    (fault,) = workspace.faults(f"services:\n  web:\n    image: a\n    {line}\n")
    assert fault.startswith("compose.yaml:4: services.web.")
    assert words in fault


def test_a_plain_process_has_no_engine(workspace: Workspace) -> None:
    (fault,) = workspace.faults("services:\n  web:\n    command: sleep 1\n    cap_drop: [ALL]\n")
    assert "needs an image" in fault
