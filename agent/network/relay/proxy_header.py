"""What a connection to a task begins with so that the program learns who is at its other end. PURE.

The PROXY protocol, versions 1 (text) and 2 (binary), as in HAProxy's `proxy-protocol.txt`.
"""

from __future__ import annotations

import ipaddress
import struct

from common.model.job import ProxyProtocol

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_VERSION_2_PROXY = 0x21
_TCP4, _TCP6 = 0x11, 0x21

Address = tuple[str, int]


def proxy_header(protocol: ProxyProtocol, client: Address, own: Address) -> bytes:
    """`client` is where the connection comes from, `own` where it arrived; empty when nothing is asked for."""
    if protocol is ProxyProtocol.NONE:
        return b""
    source, target = (ipaddress.ip_address(address.partition("%")[0]) for address, _ in (client, own))
    if protocol is ProxyProtocol.V1:
        return f"PROXY TCP{source.version} {source} {target} {client[1]} {own[1]}\r\n".encode()
    body = source.packed + target.packed + struct.pack("!HH", client[1], own[1])
    family = _TCP4 if source.version == 4 else _TCP6
    return _SIGNATURE + struct.pack("!BBH", _VERSION_2_PROXY, family, len(body)) + body
