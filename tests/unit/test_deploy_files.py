"""What is deployed from: files that say nothing in the clear, and only what the commands know."""

from __future__ import annotations

import re
import runpy
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from cryptography import x509
from cryptography.x509.oid import ExtensionOID
from ruamel.yaml import YAML

from agent.policy_file import node_policy
from cli.app import app
from common.model.privileges import NodePolicy

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
COMPOSE: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "docker-compose.yml")
SERVICES: dict[str, Any] = COMPOSE["services"]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
CLIENTS = {"PODIUM_CONTROLLER", "PODIUM_TOKEN", "PODIUM_TOKEN_FILE"}
"""What `client.settings` reads."""
IMAGES = {"PODIUM_HEALTH"}


def flags(name: str) -> set[str]:
    return {flag for parameter in COMMANDS[name].params for flag in (*parameter.opts, *parameter.secondary_opts)}


def variables(name: str) -> set[str]:
    found = {parameter.envvar for parameter in COMMANDS[name].params if parameter.envvar}
    return {str(one) for one in found} | CLIENTS


def deployed() -> Iterator[Path]:
    yield ROOT / "docker-compose.yml"
    yield from (path for path in (ROOT / "deploy").rglob("*") if path.suffix in (".yml", ".yaml", ".service", ".env"))


@pytest.mark.parametrize("path", list(deployed()), ids=lambda path: path.name)
def test_nothing_is_deployed_in_the_clear(path: Path) -> None:
    said = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    assert [line for line in said if re.search("insecure", line, re.IGNORECASE)] == []


def programs() -> list[tuple[str, dict[str, Any]]]:
    """The services that run the `podium` command."""
    return [(name, one) for name, one in SERVICES.items() if one.get("command", [""])[0] in ("controller", "agent")]


def test_the_compose_file_runs_controllers_and_nodes_and_knows_its_options() -> None:
    assert len(programs()) == 6
    for name, service in programs():
        command, *given = service["command"]
        unknown = {option.partition("=")[0] for option in given} - flags(command)
        assert not unknown, name
        assert set(service.get("environment", {})) <= variables(command) | IMAGES, name


def test_who_is_to_join_finds_a_token_that_somebody_leaves_there() -> None:
    waited_for = {
        (service["command"][0], service["environment"].get("PODIUM_JOIN_FILE", "")) for _, service in programs()
    }
    assert waited_for == {
        ("agent", "/shared/agents/token"),
        ("controller", "/shared/controllers/token"),
        ("controller", ""),
    }
    script = SERVICES["tokens"]["command"][0]
    for role, path, uses in (("agent", "/shared/agents/token", 3), ("controller", "/shared/controllers/token", 2)):
        assert f"podium token create --role {role} --uses {uses} --out {path}" in script
    options = {word for word in script.split() if word.startswith("--")}
    group = COMMANDS["token"].commands["create"]
    assert options <= {flag for parameter in group.params for flag in parameter.opts}


def test_the_store_is_spoken_to_over_tls_by_who_shows_a_certificate() -> None:
    for name, service in programs():
        if service["command"][0] == "controller":
            store = next(word for word in service["command"] if word.startswith("--store="))
            assert store.startswith("--store=etcds://"), name
            assert "etcd-certificates:/shared/etcd:ro" in service["volumes"], name
    for number in (1, 2, 3):
        settings = SERVICES[f"etcd-{number}"]["environment"]
        assert settings["ETCD_CLIENT_CERT_AUTH"] == settings["ETCD_PEER_CLIENT_CERT_AUTH"] == "true"
        assert settings["ETCD_CERT_FILE"] == f"/shared/etcd/etcd-{number}.pem"


def test_certificates_of_etcd_are_made_once_and_lead_to_their_authority(tmp_path: Path) -> None:
    made = runpy.run_path(str(ROOT / "deploy" / "etcd" / "certificates.py"))
    made["main"](tmp_path, ["etcd-1"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    made["main"](tmp_path, ["etcd-1"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == {"ca.pem", "etcd-1.pem", "etcd-1.key", "controller.pem", "controller.key"}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    authority = x509.load_pem_x509_certificate(before["ca.pem"])
    for name in ("etcd-1", "controller"):
        certificate = x509.load_pem_x509_certificate(before[f"{name}.pem"])
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
        assert isinstance(names, x509.SubjectAlternativeName)
        assert names.get_values_for_type(x509.DNSName) == [name]
        ssl.create_default_context().load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")


def test_nodes_give_tasks_what_the_policy_of_the_examples_says() -> None:
    assert "./deploy/policy.yaml:/etc/podium/policy.yaml:ro" in SERVICES["node-1"]["volumes"]
    allowed, _ = node_policy(str(ROOT / "deploy" / "policy.yaml"), bind=(), process_user="", runtimes=())
    assert allowed == NodePolicy()


@pytest.mark.parametrize("name", ["controller", "agent"])
def test_units_and_their_samples_say_only_what_the_command_knows(name: str) -> None:
    unit = (UNITS / f"podium-{name}.service").read_text().replace("\\\n", " ")
    start = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    assert {word for word in start.split() if word.startswith("--")} <= flags(name)
    passed_on = {word.strip("${}") for word in start.split() if word.startswith("$")}
    sample = (UNITS / f"{name}.env").read_text()
    said = set(re.findall(r"^#?(PODIUM_\w+)=", sample, re.MULTILINE))
    assert said <= variables(name) | passed_on | {"PODIUM_INSECURE"}
    assert "PODIUM_JOIN_FILE" in said
