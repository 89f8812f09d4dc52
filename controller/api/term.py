"""What the engineer's API needs of the leader's term, and who answers when nobody here leads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from common.errors import NotLeader
from common.model.ids import Rng
from common.model.node import NodeCondition
from common.model.verdict import Verdict
from controller.api.repeats import Repeats
from controller.core.assets import Sealer
from controller.core.attention import Attention
from controller.core.slots import Conditions
from controller.dispatcher.execs import ExecRouter
from controller.dispatcher.logs import LogRouter
from controller.dispatcher.volumes import VolumeRouter
from controller.events import EventLog
from controller.ledger import Ledger
from controller.measurements import Measurements
from controller.presence import Presence
from controller.scheduler.node_table import NodeTable
from controller.settings import Timers
from controller.state import State


@dataclass(frozen=True, kw_only=True)
class ApiTerm:
    """The parts of one term, as the API uses them. `clock` is Unix time."""

    ledger: Ledger
    presence: Presence
    events: EventLog
    logs: LogRouter
    execs: ExecRouter
    measurements: Measurements
    volumes: VolumeRouter
    vault: Sealer | None = None
    """None: the cluster has no key, and keeps no secrets."""
    table: NodeTable
    """Only to be read or copied."""
    verdicts: Mapping[str, Verdict]
    """Why tasks have no node, by task id."""
    clock: Callable[[], float]
    rng: Rng
    address: str
    """Where this controller serves."""
    store: str
    """Kind of the store, without credentials."""
    timers: Timers
    version: str
    controllers: Callable[[], Awaitable[tuple[str, ...]]]
    """Addresses of the controllers that run, this one first. Raises `Unavailable`."""
    store_health: Callable[[], Awaitable[str]]
    """What the store's answer is like. Raises `Unavailable`."""
    release_brake: Callable[[], tuple[str, tuple[str, ...]]]
    """Why the brake held, and the ids of the nodes given up by its release."""
    attention: Callable[[], Attention] = Attention
    """What the passes over the jobs left to look at; only to be read."""
    scaling: Callable[[str], tuple[str, ...]] = lambda _job_id: ()
    """What the last look at a job's load found, by job id, for people."""
    asks: bool = False
    """Whether there is a Prometheus that jobs may be scaled by."""
    repeats: Repeats = field(default_factory=Repeats)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the term is over."""

    @property
    def state(self) -> State:
        return self.ledger.state

    def snapshot(self) -> tuple[State, Conditions, NodeTable]:
        """What is now, for work during which it changes."""
        return self.state.fork(), dict(self.conditions), self.table.copy()

    @property
    def conditions(self) -> Mapping[str, NodeCondition]:
        return self.presence.conditions


class ApiFront:
    """Holds the term while there is one. `leader` is the address of whoever leads, as far as the store says."""

    def __init__(self, leader: Callable[[], str]) -> None:
        self._leader = leader
        self._term: ApiTerm | None = None

    @property
    def term(self) -> ApiTerm:
        """The term of this controller. Raises `NotLeader` when it has none."""
        if self._term is None:
            raise self.not_leader()
        return self._term

    def not_leader(self) -> NotLeader:
        return NotLeader(self._leader())

    @contextmanager
    def lead(self, term: ApiTerm) -> Iterator[None]:
        """Answer engineers out of `term` while the context lasts."""
        self._term = term
        try:
            yield
        finally:
            self._term = None
            term.over.set()
