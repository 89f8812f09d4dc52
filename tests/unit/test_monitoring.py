"""Alert rules and dashboard: every name in them is one that the programs expose, and every one of those is shown."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from agent.metrics import Metrics as AgentMetrics
from common.model.api import JobStatus
from common.model.node import NodeStatus
from controller.metrics import Census
from controller.metrics import Metrics as ControllerMetrics
from tests.etcd import EtcdServer
from tests.loops_rig import rig

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
BOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "podium.json").read_text())
OURS = re.compile(r"\b(?:podium|container)_\w+")
ETCDS = re.compile(r"\betcd_\w+")
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "info": ("_info",), "gauge": ("",)}
_TIMEOUT_S = 30


def rules() -> list[dict[str, Any]]:
    groups = YAML(typ="safe", pure=True).load(PROMETHEUS / "rules.yml")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[dict[str, Any]]:
    return (panel for panel in BOARD["panels"] if panel["type"] != "row")


def shown() -> list[str]:
    """The dashboard's expressions, with its variables filled in."""
    targets = [target for panel in panels() for target in panel["targets"]]
    return [target["expr"].replace("$__rate_interval", "1m") for target in targets]


def alerted() -> list[str]:
    return [rule["expr"] for rule in rules()]


async def exposed() -> dict[str, set[str]]:
    """Sample names by the metric they belong to, of a controller that leads and of an agent."""
    controller, agent = ControllerMetrics("1.0", lambda: 0.0), AgentMetrics("1.0")
    async with rig() as world:
        census = Census(
            world.state,
            world.presence,
            clock=lambda: world.now_s,
            sessions=lambda: 0,
            pending=lambda: 0,
            survives=lambda: True,
        )
        controller.term_begins(1, census)
        texts = [controller.exposition().decode(), agent.text().decode()]
    families = [family for text in texts for family in text_string_to_metric_families(text)]
    return {
        family.name: {family.name + suffix for suffix in SUFFIXES[family.type]}
        for family in families
        if not family.name.endswith("_created")
    }


async def test_every_name_is_one_that_the_programs_expose() -> None:
    known = set().union(*(await exposed()).values())
    used = {name for expression in (*alerted(), *shown()) for name in OURS.findall(expression)}
    assert used
    assert used - known == set()


async def test_every_metric_has_somebody_who_looks_at_it() -> None:
    used = {name for expression in (*alerted(), *shown()) for name in OURS.findall(expression)}
    assert {name for name, samples in (await exposed()).items() if not samples & used} == set()


@pytest.mark.etcd
def test_every_name_of_etcds_is_one_that_it_exposes(etcd_server: EtcdServer) -> None:
    with urllib.request.urlopen(f"http://{etcd_server.endpoint}/metrics", timeout=_TIMEOUT_S) as answer:
        known = set(re.findall(r"^[a-z_]+", answer.read().decode(), re.MULTILINE))
    used = {name for expression in (*alerted(), *shown()) for name in ETCDS.findall(expression)}
    assert used
    assert used - known == set()


@pytest.mark.parametrize(("metric", "members"), [("podium_nodes", NodeStatus), ("podium_jobs", JobStatus)])
def test_every_status_asked_for_exists(metric: str, members: type[NodeStatus] | type[JobStatus]) -> None:
    asked = re.findall(metric + r'\{status=~?"([^"]+)"\}', " ".join((*alerted(), *shown())))
    assert asked
    assert {status for given in asked for status in given.split("|")} <= {member.value for member in members}


def test_what_is_asked_of_a_job_of_prometheus_is_asked_of_one_that_it_scrapes() -> None:
    scraped = YAML(typ="safe", pure=True).load(PROMETHEUS / "prometheus.yml")["scrape_configs"]
    asked = set(re.findall(r'job="([^"]+)"', " ".join((*alerted(), *shown()))))
    assert asked <= {config["job_name"] for config in scraped}


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    told = (ROOT / "docs" / "operations.md").read_text()
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert {"summary", "description", "runbook"} <= rule["annotations"].keys()
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        page, _, section = rule["annotations"]["runbook"].partition("#")
        assert (ROOT / page).exists()
        assert f"\n## {section.replace('-', ' ')}\n" in told.lower()
    assert {name for name in names if f"`{name}`" not in told} == set()


def test_the_dashboard_is_one() -> None:
    """What Grafana needs of it to be loaded; ids and places collide silently there."""
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= BOARD.keys()
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in (
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ):
            assert taken.setdefault(cell, panel["title"]) == panel["title"]
    assert all(panel["targets"] and panel["title"] for panel in panels())


# --- with Prometheus' own tool


@pytest.fixture(scope="module")
def promtool() -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool is installed (Debian: apt install prometheus)")
    return program


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_understands_its_configuration_and_the_rules(promtool: str, tmp_path: Path) -> None:
    """With what a controller leaves beside the configuration, where this machine may write."""
    for name in ("ca.pem", "http.token"):
        (tmp_path / name).write_text("of a controller\n")
    for file in PROMETHEUS.iterdir():
        (tmp_path / file.name).write_text(file.read_text().replace("/controller/", f"{tmp_path}/"))
    run(promtool, "check", "config", str(tmp_path / "prometheus.yml"))


def test_the_rules_catch_what_they_are_for(promtool: str) -> None:
    run(promtool, "test", "rules", str(PROMETHEUS / "rules_test.yml"))


def test_prometheus_understands_every_expression_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    recorded = [{"record": f"shown:{place}", "expr": expression} for place, expression in enumerate(shown())]
    file = tmp_path / "shown.yml"
    file.write_text(json.dumps({"groups": [{"name": "shown", "rules": recorded}]}))  # JSON is YAML
    run(promtool, "check", "rules", str(file))
