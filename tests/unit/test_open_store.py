"""Which store a URL means, and what is said about one that means none."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from common.errors import Invalid
from common.tls import TlsFiles
from controller.store.interface import LeaderRecord
from controller.store.open import open_store

ANN = LeaderRecord(controller_id="ann", address="10.0.0.1:7077")


@pytest.mark.parametrize("url", ["memory:", "memory://"])
async def test_memory_leads_without_end(url: str) -> None:
    store = open_store(url)
    assert store.kind == "memory"
    assert (await store.campaign(ANN)).lease_s == math.inf
    await store.close()


@pytest.mark.parametrize("slashes", ["//", "///"])
async def test_sqlite_takes_an_absolute_path_and_makes_its_folder(tmp_path: Path, slashes: str) -> None:
    path = tmp_path / "new folder" / "state#1.db"
    store = open_store(f"sqlite:{slashes}{str(path).replace(' ', '%20').replace('#', '%23')}")
    assert store.kind == "sqlite"
    assert (await store.campaign(ANN)).lease_s == math.inf
    await store.close()
    assert path.stat().st_size > 0


@pytest.mark.parametrize(
    "url",
    [
        "etcd://h1:2379,h2:2379",
        "etcd://h1",
        "etcd://[::1]:2379,127.0.0.1?prefix=/other",
        "etcd://h1/?prefix=/podium/v2/",
    ],
)
async def test_etcd_takes_servers_and_a_prefix(url: str) -> None:
    store = open_store(url, lease_s=5)
    assert store.kind == "etcd"
    await store.close()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "is no store; allowed: memory:, sqlite:///path"),
        ("redis://h:1", "is no store; allowed: memory:, sqlite:///path"),
        ("etcd://[::1", "is no store"),
        ("sqlite://state.db", "names a host; a file's path is absolute"),
        ("sqlite:///", "names no file"),
        ("sqlite:///var/lib/", "names no file"),
        ("sqlite:///a.db?mode=ro", "has options; sqlite takes none"),
        ("etcd://", "names no server"),
        ("etcd://h1:2379,", "'' is no server; allowed: host, host:port or [ipv6]:port"),
        ("etcd://h1:0", "'h1:0' is no server"),
        ("etcd://h1:65536", "'h1:65536' is no server"),
        ("etcd://root:secret@h1:2379", "is no server"),
        ("etcd://h1:2379/podium", "a key prefix is given as ?prefix="),
        ("etcd://h1?prefix=", "must be 1 to 128 bytes"),
        (f"etcd://h1?prefix=/{'x' * 128}", "must be 1 to 128 bytes"),
        ("etcd://h1?timeout=3", "option 'timeout' is unknown; allowed: prefix"),
        ("etcd://h1?ca=ca.pem", "TLS is chosen by etcds://"),
        ("etcds://h1?ca=ca.pem", "missing: cert, key"),
        ("etcds://h1?ca=/none/ca&cert=/none/cert&key=/none/key", "cannot read /none/ca: No such file"),
    ],
)
def test_what_is_no_store_is_refused_with_what_would_be_one(url: str, complaint: str) -> None:
    with pytest.raises(Invalid) as refusal:
        open_store(url)
    assert complaint in str(refusal.value)


@pytest.mark.parametrize("url", ["etcd://h1", "etcds://h1"])
def test_tls_files_configured_elsewhere_are_used(url: str) -> None:
    files = TlsFiles(ca_file="/none/ca", cert_file="/none/cert", key_file="/none/key")
    with pytest.raises(Invalid, match="cannot read /none/ca"):
        open_store(url, tls=files)
    with pytest.raises(Invalid, match="missing: cert, key"):
        open_store("etcds://h1?ca=/mine/ca", tls=files)


def test_everything_wrong_with_a_url_is_said_at_once() -> None:
    with pytest.raises(Invalid) as refusal:
        open_store("etcds://h1:0,h 2/path?ca=x&colour=red")
    assert len(refusal.value.faults) == 5
