"""examples/hello on a cluster under test: three small web servers as plain processes behind one port."""

from __future__ import annotations

import asyncio
import textwrap
from contextlib import suppress
from pathlib import Path

from common.model.api import TaskView
from tests.cluster.load import get
from tests.cluster.processes import PATIENCE_S, Cluster, healthy, live
from tests.ports import free_port

COMPOSE = Path(__file__).resolve().parents[2] / "examples" / "hello" / "compose.yaml"
_BEGIN = "        import os, signal, sys\n"
_WAIT = "while not os.path.exists({gate!r}): time.sleep(0.02)\n"


class Hello:
    def __init__(self, made: Cluster) -> None:
        self.cluster = made
        self.port = free_port()
        self.gate = made.directory / "gate"
        """While it is not there, no replica that starts gets as far as to answer."""

    async def up(self) -> None:
        file, waits = self.cluster.directory / "hello.yaml", f"import os, time\n{_WAIT}".format(gate=str(self.gate))
        text = COMPOSE.read_text().replace("${HELLO_PORT:-8080}", str(self.port))
        file.write_text(text.replace(_BEGIN, textwrap.indent(waits, " " * 8) + _BEGIN))
        self.gate.touch()
        await self.cluster.run("up", "-f", str(file))

    async def tasks(self, count: int = 3) -> list[TaskView]:
        """The tasks by slot, once `count` of them are healthy and there are no others."""
        (detail,) = await self.cluster.until("hello", lambda found: len(found) == 1 and healthy(found[0], count))
        return live(detail)

    async def pids(self, count: int = 3) -> dict[str, int]:
        """Their process ids by task id."""
        return {view.task.id: int(view.task.status.runtime_id) for view in await self.tasks(count)}

    async def answers(self, address: str = "127.0.0.1", count: int = 3) -> set[str]:
        """Who answers at a node's address, once all have; they take turns, with other requests between ours."""
        seen: set[str] = set()
        async with asyncio.timeout(PATIENCE_S):
            while len(seen) < count:
                seen.add(await get(address, self.port))
        return seen

    async def until_all_answer(self, address: str) -> None:
        """As `answers`, at a node that has just come back: its relay starts beside its agent."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(ConnectionRefusedError):
                    await self.answers(address)
                    return
                await asyncio.sleep(0.05)

    @property
    def targets(self) -> list[tuple[str, int]]:
        return [(address, self.port) for address in self.cluster.addresses.values()]
