"""Who may listen and dial in the clear, and what is said of files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from common.errors import Invalid
from common.tls import (
    TlsFiles,
    channel_credentials,
    check_dial,
    check_listener,
    http_context,
    is_loopback,
    server_credentials,
    tls_files,
)
from tests import certificates


@pytest.mark.parametrize(
    "address", ["127.0.0.1:7077", "127.0.0.2:0", "localhost:1", "[::1]:7077", "::1", "127.0.0.1", "unix:/run/x.sock"]
)
def test_loopback_needs_no_tls(address: str) -> None:
    assert is_loopback(address)
    check_listener("grpc_listen", address, None, insecure=False)
    check_dial("controller", address, None, insecure=False)


@pytest.mark.parametrize("address", ["0.0.0.0:7077", ":7077", "[::]:7077", "10.0.0.1:7077", "example.com:7077", "::"])
def test_anything_else_needs_tls_or_a_word(address: str) -> None:
    assert not is_loopback(address)
    with pytest.raises(Invalid, match=r"grpc_listen: .*--insecure"):
        check_listener("grpc_listen", address, None, insecure=False)
    with pytest.raises(Invalid, match=r"controller: .*--insecure"):
        check_dial("controller", address, None, insecure=False)
    files = TlsFiles(ca_file="a", cert_file="b", key_file="c")
    for tls, insecure in ((files, False), (None, True)):
        check_listener("grpc_listen", address, tls, insecure=insecure)
        check_dial("controller", address, tls, insecure=insecure)


def test_the_three_files_go_together() -> None:
    assert tls_files("", "", "") is None
    assert tls_files("a", "b", "c") == TlsFiles(ca_file="a", cert_file="b", key_file="c")
    with pytest.raises(Invalid) as raised:
        tls_files("a", "", "")
    assert [fault.path for fault in raised.value.faults] == ["tls_cert", "tls_key"]


def test_files_that_fit_become_credentials(tmp_path: Path) -> None:
    files = certificates.make(tmp_path)["ours"]
    assert server_credentials(files) is not None
    assert channel_credentials(files) is not None
    assert http_context(files).get_ca_certs() == []


def test_every_missing_file_is_named_at_once(tmp_path: Path) -> None:
    files = TlsFiles(ca_file=str(tmp_path / "ca"), cert_file=str(tmp_path / "cert"), key_file=str(tmp_path / "key"))
    with pytest.raises(Invalid) as raised:
        server_credentials(files)
    assert [fault.path for fault in raised.value.faults] == ["tls_ca", "tls_cert", "tls_key"]
    assert all("No such file" in fault.text for fault in raised.value.faults)


@pytest.mark.parametrize(
    ("setting", "path"), [("ca_file", "tls_ca"), ("cert_file", "tls_cert"), ("key_file", "tls_cert")]
)
def test_what_is_no_pem_is_named(tmp_path: Path, setting: str, path: str) -> None:
    files = certificates.make(tmp_path)["ours"]
    broken = tmp_path / "broken"
    broken.write_text("not a certificate")
    with pytest.raises(Invalid) as raised:
        channel_credentials(msgspec.structs.replace(files, **{setting: str(broken)}))
    assert [fault.path for fault in raised.value.faults] == [path]
    assert str(broken) in str(raised.value)


def test_a_key_of_another_certificate_is_noticed_before_any_handshake(tmp_path: Path) -> None:
    made = certificates.make(tmp_path)
    files = msgspec.structs.replace(made["ours"], key_file=made["stranger"].key_file)
    with pytest.raises(Invalid, match="are not a PEM certificate and its key"):
        server_credentials(files)


def test_a_file_far_too_large_is_not_read(tmp_path: Path) -> None:
    files = certificates.make(tmp_path)["ours"]
    with Path(files.ca_file).open("ab") as file:
        file.truncate(2 * 1024 * 1024)
    with pytest.raises(Invalid, match="not a PEM file"):
        server_credentials(files)
