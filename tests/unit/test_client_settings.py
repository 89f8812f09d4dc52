"""Where the client's settings come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.contexts import config_path
from client.settings import ClientSettings, load
from common.errors import Invalid

CONTEXTS = """\
current: here
contexts:
  here: {controllers: ["127.0.0.1:9"], namespace: shop}
  there: {controllers: ["10.0.0.1:7077", "10.0.0.2:7077"], insecure: true}
"""


@pytest.fixture
def config(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "config.yaml"
    path.write_text(CONTEXTS)
    return {"PODIUM_CONFIG": str(path)}


def test_without_anything_the_defaults(tmp_path: Path) -> None:
    assert load({"HOME": str(tmp_path)}) == ClientSettings()


def test_flags_win_over_environment_and_environment_over_context(config: dict[str, str]) -> None:
    assert load(config).controllers == ("127.0.0.1:9",)
    environ = config | {"PODIUM_CONTROLLER": "127.0.0.1:1, 127.0.0.1:2", "PODIUM_NAMESPACE": "env"}
    assert load(environ).controllers == ("127.0.0.1:1", "127.0.0.1:2")
    assert load(environ).namespace == "env"
    assert load(environ, controller="127.0.0.1:3", namespace="flag").controllers == ("127.0.0.1:3",)
    assert load(environ, namespace="flag").namespace == "flag"


def test_a_context_by_name(config: dict[str, str]) -> None:
    chosen = load(config, context="there")
    assert chosen.controllers == ("10.0.0.1:7077", "10.0.0.2:7077")
    assert chosen.insecure
    assert load(config | {"PODIUM_CONTEXT": "there"}) == chosen


def test_an_unknown_context_names_the_known_ones(config: dict[str, str]) -> None:
    with pytest.raises(Invalid, match=r"'prod' is not in .*config\.yaml \(there: here, there\)"):
        load(config, context="prod")


@pytest.mark.parametrize("address", ["10.0.0.1", "http://a:1", ":7077", "a:0", "a:70000", "a:b"])
def test_addresses_are_host_and_port(address: str) -> None:
    with pytest.raises(Invalid, match="HOST:PORT"):
        load({}, controller=address)


def test_another_machine_needs_tls_or_insecure() -> None:
    with pytest.raises(Invalid, match="--insecure"):
        load({}, controller="10.0.0.1:7077")
    assert load({"PODIUM_INSECURE": "1"}, controller="10.0.0.1:7077").insecure
    with pytest.raises(Invalid, match="--insecure"):
        load({"PODIUM_INSECURE": "1"}, controller="10.0.0.1:7077", insecure=False)


def test_insecure_must_be_yes_or_no() -> None:
    with pytest.raises(Invalid, match="PODIUM_INSECURE: 'maybe' is neither"):
        load({"PODIUM_INSECURE": "maybe"})


def test_tls_files_come_together() -> None:
    names = {"PODIUM_TLS_CA": "ca.pem", "PODIUM_TLS_CERT": "cert.pem", "PODIUM_TLS_KEY": "key.pem"}
    found = load(names, controller="10.0.0.1:7077")
    assert found.tls is not None
    assert found.tls.ca_file == "ca.pem"
    with pytest.raises(Invalid, match="tls_key: missing"):
        load({"PODIUM_TLS_CA": "ca.pem", "PODIUM_TLS_CERT": "cert.pem"})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("contexts: [", r"config\.yaml:1"),
        ("contexts: {a: {controlers: []}}", "controlers"),
        ("contexts: {a: {controllers: [nowhere]}}\ncurrent: a", r"contexts\.a\.controllers: 'nowhere'"),
        ("a: 1\na: 2", r"config\.yaml:2"),
    ],
)
def test_a_bad_contexts_file_is_named_with_the_place(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(Invalid, match=fault):
        load({"PODIUM_CONFIG": str(path)})


def test_where_the_contexts_file_is() -> None:
    assert config_path({"HOME": "/h"}) == Path("/h/.config/podium/config.yaml")
    assert config_path({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}) == Path("/x/podium/config.yaml")
    assert config_path({"PODIUM_CONFIG": "/c.yaml", "XDG_CONFIG_HOME": "/x"}) == Path("/c.yaml")
