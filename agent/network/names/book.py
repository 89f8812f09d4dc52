"""Which address each job has on this node: given once, written down, and the same from then on.

Programs are told addresses in their environment, so one must stay for as long as anybody may know it. It begins from a
hash of the job's name: should the file be lost, nearly all jobs get the address again that they had.
"""

from __future__ import annotations

import ipaddress
import logging
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from agent.core.names import SLOT_SHARE, Names
from common.model.endpoint import Service

log = logging.getLogger(__name__)

_RESERVED = 2
"""The network's own address and the resolver's."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """The book as it lies on disk."""

    network: str
    addresses: dict[str, str] = {}


class AddressBook:
    """See the module. Without `path` it is kept in memory only. `let_go` undoes what was set up for the network."""

    def __init__(
        self,
        page: Page,
        path: Path | None = None,
        *,
        least_port: int = 0,
        forwarders: tuple[str, ...] = (),
        let_go: Callable[[bool], None] = lambda _stop: None,
    ) -> None:
        self._names = Names(
            network=page.network, addresses=dict(page.addresses), least_port=least_port, forwarders=forwarders
        )
        self._path = path
        self._let_go = let_go
        self._taken = set(page.addresses.values())

    @property
    def names(self) -> Names:
        """As of now."""
        return self._names

    def names_of(self, services: Iterable[Service]) -> Names:
        """With an address for each of these; one that has none yet gets one. Without, when none is left."""
        missing = dict.fromkeys(
            service.job_name for service in services if service.job_name not in self.names.addresses
        )
        found = {name: address for name in missing if (address := self._free(name))}
        if found:
            self._names = msgspec.structs.replace(self._names, addresses={**self._names.addresses, **found})
            self._write()
        for name in missing.keys() - found.keys():
            log.warning("job %s has no name on this node: all of %s are given away", name, self._names.network)
        return self._names

    def keep(self, services: Iterable[Service]) -> None:
        """Forget jobs that are none of these: before any task is told of an address."""
        known = {service.job_name for service in services}
        kept = {name: address for name, address in self._names.addresses.items() if name in known}
        if kept != self._names.addresses:
            self._names = msgspec.structs.replace(self._names, addresses=kept)
            self._taken = set(kept.values())
            self._write()

    def close(self, *, stop: bool) -> None:
        """Let go of the network; with `stop`, nothing uses it any more."""
        self._let_go(stop)

    def _free(self, name: str) -> str:
        """An address that nobody has, the same one for the same name where that is free; empty when none is left."""
        network = ipaddress.IPv4Network(self._names.network)
        size = network.num_addresses - network.num_addresses // SLOT_SHARE - _RESERVED
        first = zlib.crc32(name.encode()) % size
        for step in range(size):
            address = str(network[_RESERVED + (first + step) % size])
            if address not in self._taken:
                self._taken.add(address)
                return address
        return ""

    def _write(self) -> None:
        """In one step. A full disk costs at worst another address after a restart, so it stops nothing."""
        if self._path is None:
            return
        page = Page(network=self._names.network, addresses=self._names.addresses)
        try:
            with tempfile.NamedTemporaryFile(dir=self._path.parent, prefix=self._path.name, delete=False) as file:
                file.write(msgspec.json.encode(page))
            Path(file.name).replace(self._path)
        except OSError as error:
            log.warning("the addresses of jobs could not be written down: %s", error)
