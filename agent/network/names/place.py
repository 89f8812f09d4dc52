"""Finds the addresses that a node may give to jobs, and makes the machine its owner.

Loopback addresses need no rights and do for processes. Containers have a loopback of their own: for them a node that
is root routes addresses to itself that no machine has, of 198.18.0.0/15, which RFC 2544 keeps for laboratories. Agents
that share a machine get a block each.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from agent.core.names import Names
from agent.network.names.book import AddressBook, Page
from common.errors import Conflict

log = logging.getLogger(__name__)

AUTO, NONE = "auto", "none"
FOR_CONTAINERS = "198.18.0.0/15"
FOR_PROCESSES = "127.64.0.0/10"
BLOCK_PREFIX = 20
"""4,096 addresses for one node: 3,070 jobs and 1,023 single slots."""
BLOCKS_TRIED = 64
BOOK = "names.json"

_STATUS = Path("/proc/self/status")
_NET_BIND_SERVICE = 10
"""The bit of the kernel's capability."""
_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")

_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_REQUEST_ACKNOWLEDGED, _CREATE, _REPLACE = 0x5, 0x400, 0x100
_TABLE_LOCAL, _PROTOCOL_STATIC, _SCOPE_HOST, _TYPE_LOCAL = 255, 4, 254, 2
_ATTRIBUTE_DESTINATION, _ATTRIBUTE_INTERFACE = 1, 4
_HEADER, _ROUTE, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=8BI"), struct.Struct("=HH")
_ANSWER_TIMEOUT_S = 2.0


def open_book(
    wanted: str, data_dir: Path, address: str, *, containers: bool, forwarders: tuple[str, ...]
) -> AddressBook | None:
    """The node's book, with its addresses set up; None when it is to have none, or can have none.

    `wanted` is `auto`, `none` or a network; `containers`: whether the node runs some. Raises `Conflict` when the named
    network has no block left, or this user may not route it.
    """
    if wanted == NONE:
        return None
    path = data_dir / BOOK
    before = _read(path)
    for network in _networks(wanted, containers):
        try:
            page, let_go = _settle(network, before, address)
        except PermissionError as error:
            if wanted != AUTO:
                raise Conflict(f"addresses of {network} cannot be given to jobs: {error.strerror}; root can") from None
            log.warning("only processes find jobs by name here: an agent that is root could route %s", network)
            continue
        except OSError as error:
            if wanted != AUTO:
                raise Conflict(f"addresses of {network} cannot be given to jobs: {error}") from None
            log.warning("addresses of %s cannot be given to jobs: %s", network, error)
            continue
        return AddressBook(page, path, least_port=least_port(), forwarders=forwarders, let_go=let_go)
    return None


def _networks(wanted: str, containers: bool) -> tuple[ipaddress.IPv4Network, ...]:
    if wanted != AUTO:
        return (ipaddress.IPv4Network(wanted),)
    names = (FOR_CONTAINERS, FOR_PROCESSES) if containers else (FOR_PROCESSES,)
    return tuple(map(ipaddress.IPv4Network, names))


def _read(path: Path) -> Page | None:
    try:
        page = msgspec.json.decode(path.read_bytes(), type=Page)
        ipaddress.IPv4Network(page.network)
        return page
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        log.warning("%s cannot be read (%s): jobs may get other addresses on this node", path, error)
        return None


class _Claim:
    """A block that is ours while the process lives, as others on the machine see it."""

    def __init__(self, block: ipaddress.IPv4Network) -> None:
        self._block = block
        self._lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._lock.bind(f"\0podium-names/{block}")
            if not block.is_loopback:
                route(block, add=True)
        except BaseException:
            self._lock.close()
            raise

    def __call__(self, stop: bool) -> None:
        """Let go; with `stop`, the machine owns the block no more."""
        if stop and not self._block.is_loopback:
            try:
                route(self._block, add=False)
            except OSError as error:
                log.warning("the route of %s to this machine stays: %s", self._block, error)
        self._lock.close()


def _settle(network: ipaddress.IPv4Network, before: Page | None, address: str) -> tuple[Page, _Claim]:
    """The block that the node had, if that is of the network and free; else one that nobody uses."""
    if before is not None and ipaddress.IPv4Network(before.network).subnet_of(network):
        try:
            return before, _Claim(ipaddress.IPv4Network(before.network))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    for block in _blocks(network, address):
        try:
            claim = _Claim(block)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        if _unused(block):
            return Page(network=str(block)), claim
        claim(False)
    raise OSError(errno.EADDRINUSE, f"{BLOCKS_TRIED} blocks of it are used by other agents on this machine")


def _blocks(network: ipaddress.IPv4Network, address: str) -> Iterator[ipaddress.IPv4Network]:
    """From one on that other agents rather do not begin with."""
    prefix = max(BLOCK_PREFIX, network.prefixlen)
    number = 1 << (prefix - network.prefixlen)
    first = zlib.crc32(address.encode()) % number
    size = 1 << (32 - prefix)
    for step in range(min(BLOCKS_TRIED, number)):
        yield ipaddress.IPv4Network((int(network.network_address) + (first + step) % number * size, prefix))


def _unused(block: ipaddress.IPv4Network) -> bool:
    """Whether no resolver answers there: that of an agent that is away has its block still."""
    names = Names(network=str(block), least_port=least_port())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((names.resolver, names.resolver_port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def least_port(status: Path = _STATUS, unprivileged: Path = _UNPRIVILEGED) -> int:
    """The first port that we may listen on. Root may on all, unless it lacks that right, as in many containers."""
    try:
        rights = next(line for line in status.read_text().splitlines() if line.startswith("CapEff:"))
        if int(rights.split()[1], 16) >> _NET_BIND_SERVICE & 1:
            return 0
        return int(unprivileged.read_text())
    except (OSError, ValueError, StopIteration):
        return 1024


def route(block: ipaddress.IPv4Network, *, add: bool) -> None:
    """Make all of `block` addresses of this machine (`ip route replace local BLOCK dev lo`), or undo that.

    Raises `OSError` as the kernel refuses it. One message, spoken by hand: a library for it weighs 10 MB in memory.
    """
    flags = _REQUEST_ACKNOWLEDGED | (_CREATE | _REPLACE if add else 0)
    route = _ROUTE.pack(
        socket.AF_INET, block.prefixlen, 0, 0, _TABLE_LOCAL, _PROTOCOL_STATIC, _SCOPE_HOST, _TYPE_LOCAL, 0
    )
    loopback = struct.pack("=I", socket.if_nametoindex("lo"))
    attributes = ((_ATTRIBUTE_DESTINATION, block.network_address.packed), (_ATTRIBUTE_INTERFACE, loopback))
    body = route + b"".join(_ATTRIBUTE.pack(4 + len(value), kind) + value for kind, value in attributes)
    header = _HEADER.pack(_HEADER.size + len(body), _RTM_NEWROUTE if add else _RTM_DELROUTE, flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_ANSWER_TIMEOUT_S)
        kernel.send(header + body)
        answer = kernel.recv(4096)
    (code,) = struct.unpack_from("=i", answer, _HEADER.size)
    if code and not (not add and -code == errno.ESRCH):
        raise OSError(-code, os.strerror(-code))
