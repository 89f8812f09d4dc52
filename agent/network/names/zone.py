"""Which names there are on a node, and whom each means. PURE.

`web.shop.podium` is the job `web` of the namespace `shop`, and `3.web.shop.podium` the third of its slots. `web.shop`
is the same where there is such a job; every other name outside `podium` is somebody else's to know. `web` alone, and
`3.web`, mean a job when only one namespace has it: programs in containers ask for it with their namespace behind it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from agent.core.names import DOMAIN, Names, entrances
from common.model.endpoint import Service
from common.model.job import Protocol

_LONGEST_NUMBER = 9
"""Digits of a slot's number."""


class Entrance(msgspec.Struct, frozen=True, kw_only=True):
    """One port of a job."""

    port: int
    protocol: Protocol
    slots: tuple[int, ...]
    """Those that answer there, each once."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """One job that has a name."""

    namespace: str
    name: str
    address: str
    entrances: tuple[Entrance, ...]

    @property
    def job_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def slots(self) -> frozenset[int]:
        return frozenset(number for entrance in self.entrances for number in entrance.slots)


class Meant(msgspec.Struct, frozen=True, kw_only=True):
    """A name that is one of ours."""

    job: Known
    slot: int | None = None
    """None: whoever answers."""


class Empty(msgspec.Struct, frozen=True):
    """A name with others below it and nothing of its own: `podium`, a namespace."""


class Unknown(msgspec.Struct, frozen=True):
    """A name that would be ours, and is nobody's."""


class Foreign(msgspec.Struct, frozen=True):
    """A name that others know, or nobody."""


Finding: TypeAlias = Meant | Empty | Unknown | Foreign


class Zone:
    """The names that follow from one state of the services."""

    def __init__(self, services: Iterable[Service] = (), names: Names | None = None) -> None:
        self._jobs: dict[tuple[str, ...], Known] = {}
        self._alone: dict[str, list[Known]] = {}
        self._namespaces: set[str] = set()
        if names is None:
            return
        offered: dict[str, list[Entrance]] = {}
        first: dict[str, Service] = {}
        for _, port, service in entrances(tuple(services), names):
            slots = tuple(dict.fromkeys(endpoint.slot for endpoint in service.endpoints))
            offered.setdefault(service.job_name, []).append(Entrance(port=port, protocol=service.protocol, slots=slots))
            first.setdefault(service.job_name, service)
        for job_name, service in first.items():
            known = Known(
                namespace=service.namespace,
                name=service.job,
                address=names.addresses[job_name],
                entrances=tuple(offered[job_name]),
            )
            self._jobs[service.job, service.namespace] = known
        for service in first.values():  # a job's own name comes before another one's alias
            known = self._jobs[service.job, service.namespace]
            for alias in service.aliases:
                self._jobs.setdefault((alias.lower(), service.namespace), known)
        for (name, namespace), known in self._jobs.items():
            self._alone.setdefault(name, []).append(known)
            self._namespaces.add(namespace)

    def find(self, labels: tuple[str, ...]) -> Finding:
        """Whom a name means; its parts in lower case, the first one first."""
        if labels and labels[-1] == DOMAIN:
            return self._find_own(labels[:-1])
        number, rest = (None, labels) if labels in self._jobs else _slot(labels)
        known: Known | None = None
        match rest:
            case (name,):
                candidates = self._alone.get(name, [])
                known = candidates[0] if len(candidates) == 1 else None
            case (_, _):
                known = self._jobs.get(rest)
            case _:
                pass
        if known is None:
            return Foreign()
        return _meant(known, number)

    def _find_own(self, labels: tuple[str, ...]) -> Finding:
        match labels:
            case ():
                return Empty()
            case (namespace,):
                return Empty() if namespace in self._namespaces else Unknown()
            case _:
                number, rest = (None, labels) if len(labels) == 2 else _slot(labels)
                known = self._jobs.get(rest)
                return Unknown() if known is None else _meant(known, number)


def _meant(known: Known, number: int | None) -> Finding:
    """A slot counts as long as one of its tasks answers."""
    return Meant(job=known, slot=number) if number is None or number in known.slots else Unknown()


def _slot(labels: tuple[str, ...]) -> tuple[int | None, tuple[str, ...]]:
    """The number of a slot at the beginning of a name, and what is behind it."""
    if len(labels) > 1 and labels[0].isascii() and labels[0].isdecimal() and len(labels[0]) <= _LONGEST_NUMBER:
        return int(labels[0]), labels[1:]
    return None, labels
