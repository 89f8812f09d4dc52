"""examples/hello on a cluster under test: three small web servers as plain processes behind one port."""

from __future__ import annotations

import asyncio
from pathlib import Path

from common.model.api import TaskView
from tests.cluster.load import get
from tests.cluster.processes import PATIENCE_S, Cluster, healthy, live
from tests.ports import free_port

COMPOSE = Path(__file__).resolve().parents[2] / "examples" / "hello" / "compose.yaml"


class Hello:
    def __init__(self, made: Cluster) -> None:
        self.cluster = made
        self.port = free_port()

    async def up(self) -> None:
        file = self.cluster.directory / "hello.yaml"
        file.write_text(COMPOSE.read_text().replace("${HELLO_PORT:-8080}", str(self.port)))
        await self.cluster.run("up", "-f", str(file))

    async def tasks(self, count: int = 3) -> list[TaskView]:
        """The tasks by slot, once `count` of them are healthy and there are no others."""
        (detail,) = await self.cluster.until("hello", lambda found: len(found) == 1 and healthy(found[0], count))
        return live(detail)

    async def pids(self, count: int = 3) -> dict[str, int]:
        """Their process ids by task id."""
        return {view.task.id: int(view.task.status.runtime_id) for view in await self.tasks(count)}

    async def answers(self, address: str = "127.0.0.1") -> set[str]:
        """Who answers at a node's address: one request per replica and one to spare."""
        return {await get(address, self.port) for _ in range(4)}

    async def until_all_answer(self, address: str, count: int = 3) -> None:
        """Until `count` replicas answer at a node that has just come back.

        Its relay starts beside its agent, and begins with what it knew last.
        """
        seen: set[str] = set()
        async with asyncio.timeout(PATIENCE_S):
            while len(seen) < count:
                try:
                    seen.add(await get(address, self.port))
                except OSError:
                    await asyncio.sleep(0.05)

    @property
    def targets(self) -> list[tuple[str, int]]:
        return [(address, self.port) for address in self.cluster.addresses.values()]
