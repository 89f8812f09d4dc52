"""The first bytes that a program is sent ahead of a connection when it asked for its client's address."""

from __future__ import annotations

import pytest

from agent.network.relay.proxy_header import proxy_header
from common.model.job import ProxyProtocol

CLIENT, OWN = ("192.0.2.7", 50_000), ("10.0.0.1", 8080)


def test_nothing_is_sent_ahead_unless_it_is_asked_for() -> None:
    assert proxy_header(ProxyProtocol.NONE, CLIENT, OWN) == b""


@pytest.mark.parametrize(
    ("client", "own", "line"),
    [
        (CLIENT, OWN, b"PROXY TCP4 192.0.2.7 10.0.0.1 50000 8080\r\n"),
        (("2001:db8::7", 1), ("fe80::1%eth0", 80), b"PROXY TCP6 2001:db8::7 fe80::1 1 80\r\n"),
    ],
)
def test_the_first_version_is_a_line_of_text(client: tuple[str, int], own: tuple[str, int], line: bytes) -> None:
    assert proxy_header(ProxyProtocol.V1, client, own) == line


def test_the_second_version_is_as_its_specification_has_it() -> None:
    signature = bytes.fromhex("0d0a0d0a000d0a515549540a")
    expected = signature + bytes.fromhex("21 11 000c c0000207 0a000001 c350 1f90")
    assert proxy_header(ProxyProtocol.V2, CLIENT, OWN) == expected
    six = proxy_header(ProxyProtocol.V2, ("2001:db8::7", 1), ("::1", 80))
    assert six[12:16] == bytes.fromhex("21 21 0024")
    assert len(six) == 16 + 36
