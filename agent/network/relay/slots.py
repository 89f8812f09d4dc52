"""Addresses of single slots, given when somebody first asks for one. PURE.

A job of a thousand replicas has a thousand slots that hardly anybody asks for, so a slot is offered from then on. It is
served like a job of its own, `3.web`, that has the endpoints of this slot only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from agent.core.names import Names, entrances
from agent.network.feed import Feed
from agent.network.interface import Listener
from common.model.endpoint import Service

Slot = tuple[str, int]
"""Job, as `namespace/name`, and number."""


class SlotAddresses:
    """See the module. When all are given, the one goes that was not asked for for the longest time."""

    def __init__(self) -> None:
        self._network = ""
        self._addresses: OrderedDict[Slot, str] = OrderedDict()

    def known(self, slot: Slot) -> str:
        """Its address; empty when it has none yet."""
        address = self._addresses.get(slot, "")
        if address:
            self._addresses.move_to_end(slot)
        return address

    def give(self, slot: Slot, names: Names) -> str:
        first, last = names.slot_addresses()
        if first >= last:
            return ""
        if len(self._addresses) < last - first:
            taken = set(self._addresses.values())
            address = next(one for place in range(first, last) if (one := names.at(place)) not in taken)
        else:
            _, address = self._addresses.popitem(last=False)
        self._addresses[slot] = address
        return address

    def extend(self, feed: Feed) -> Feed:
        """The feed with what the slots add to it."""
        self._prune(feed)
        if feed.names is None or not self._addresses:
            return feed
        services: list[Service] = []
        listeners: list[Listener] = []
        offered = list(_entrances_by_job(feed))
        for (job, number), address in self._addresses.items():
            for port, service in (pair for name, *pair in offered if name == job):
                assert isinstance(service, Service)
                assert isinstance(port, int)
                one = slot_service(service, number)
                services.append(one)
                listeners.append(Listener(address=address, port=port, protocol=one.protocol, service=one.key))
        return msgspec.structs.replace(
            feed, services=(*feed.services, *services), listeners=(*feed.listeners, *listeners)
        )

    def _prune(self, feed: Feed) -> None:
        """Of jobs that are gone, and of another network."""
        network = feed.names.network if feed.names is not None else ""
        jobs = {service.job_name for service in feed.services} if network == self._network else set()
        self._network = network
        for slot in [slot for slot in self._addresses if slot[0] not in jobs]:
            del self._addresses[slot]


def slot_service(service: Service, number: int) -> Service:
    """What one slot of a service offers, as a service that is no other's."""
    return msgspec.structs.replace(
        service,
        job=f"{number}.{service.job}",
        published_port=0,
        endpoints=tuple(endpoint for endpoint in service.endpoints if endpoint.slot == number),
        aliases=(),
    )


def job_of(service: Service) -> str:
    """`namespace/name` of the job that a service, of all or of one slot, belongs to: names of jobs have no dots."""
    return f"{service.namespace}/{service.job.rpartition('.')[2]}"


def _entrances_by_job(feed: Feed) -> Iterator[tuple[str, int, Service]]:
    for _, port, service in entrances(feed.services, feed.names):
        yield service.job_name, port, service
