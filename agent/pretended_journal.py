"""A journal for nodes that only pretend: the same promises as long as its object lives, and nothing on any disk."""

from __future__ import annotations

from agent.core.task_memory import TaskMemory
from agent.journal import Journal, KnownServices
from common.model.epoch import Epoch
from common.model.task import Attempt
from common.settings import LIMITS


class PretendedJournal(Journal):
    """See the module. Keeps the values themselves: a database for each of 5,000 nodes costs 300 MB and half of a
    task's start."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._highest = Epoch()
        self._heard_of: tuple[str, ...] = ()
        self._address = ""
        self._services: KnownServices | None = None
        self._tasks: dict[str, TaskMemory] = {}
        self._attempts: dict[str, tuple[Attempt, ...]] = {}

    def close(self) -> None:
        """Nothing to let go of."""

    @property
    def node_id(self) -> str:
        return self._node_id

    @property
    def highest_epoch(self) -> Epoch:
        return self._highest

    def remember_epoch(self, epoch: Epoch) -> None:
        self._highest = epoch

    @property
    def controllers(self) -> tuple[str, ...]:
        return self._heard_of

    def remember_controllers(self, addresses: tuple[str, ...]) -> None:
        self._heard_of = addresses

    @property
    def address(self) -> str:
        return self._address

    def remember_address(self, address: str) -> None:
        self._address = address

    @property
    def services(self) -> KnownServices | None:
        return self._services

    def remember_services(self, known: KnownServices) -> None:
        self._services = known

    def tasks(self) -> tuple[TaskMemory, ...]:
        return tuple(memory for _, memory in sorted(self._tasks.items()))

    def attempts(self) -> dict[str, tuple[Attempt, ...]]:
        return dict(self._attempts)

    def save(self, memory: TaskMemory, ended: tuple[Attempt, ...] = ()) -> None:
        self._tasks[memory.task_id] = memory
        for record in ended:
            kept = (*self._attempts.get(record.task_id, ()), record)
            self._attempts[record.task_id] = kept[-LIMITS.attempts_kept :]

    def forget(self, task_id: str) -> None:
        self._tasks.pop(task_id, None)
        self._attempts.pop(task_id, None)

    def drop_attempts(self, task_id: str, numbers: tuple[int, ...]) -> None:
        left = tuple(record for record in self._attempts.get(task_id, ()) if record.number not in numbers)
        if left:
            self._attempts[task_id] = left
        else:
            self._attempts.pop(task_id, None)
