"""What only the relay has: how it starts, is given up, and begins without its memory."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from agent.network.relay_plane import RelayPlane
from agent.network.shared import SharedDataPlane
from tests.cluster.processes import processes_naming
from tests.data_planes import HOST, Backend, ask, service
from tests.ports import free_port
from tests.process_table import lives


async def test_a_file_of_the_same_name_where_the_agent_was_started_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agent.py").write_text("raise SystemExit('not the relay')")
    monkeypatch.chdir(tmp_path)
    plane = RelayPlane(tmp_path / "relay", HOST, random.Random(1))
    await plane.start()
    assert lives(plane.pid)
    await plane.close(stop=True)


@pytest.mark.parametrize("sign", ["relay", "relay/relay.log", "relay/relay.pid", "relay/relay.sock"])
async def test_a_start_that_was_given_up_leaves_no_relay(tmp_path: Path, sign: str) -> None:
    """Given up as soon as the file `sign` shows how far it has come."""
    shared = SharedDataPlane(RelayPlane(tmp_path / "relay", HOST, random.Random(1)))
    starting = asyncio.ensure_future(shared.start())
    async with asyncio.timeout(10):
        while not (tmp_path / sign).exists():  # noqa: ASYNC110  another process makes it
            await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    await shared.close_all(stop=True)
    assert processes_naming(tmp_path) == []


async def test_a_relay_that_an_agent_before_left_is_ended_without_having_been_started(tmp_path: Path) -> None:
    first = RelayPlane(tmp_path, HOST, random.Random(1))
    await first.start()
    await first.apply(1, ())
    await first.close(stop=False)
    assert lives(first.pid)
    await SharedDataPlane(RelayPlane(tmp_path, HOST, random.Random(2))).close_all(stop=True)
    assert not lives(first.pid)


async def test_a_damaged_memory_is_no_reason_not_to_serve(tmp_path: Path) -> None:
    (tmp_path / "relay.json").write_bytes(b"{")
    plane = RelayPlane(tmp_path, HOST, random.Random(1))
    await plane.start()
    port = free_port()
    backend = await Backend("one").start()
    await plane.apply(1, (service(port, backend),))
    assert await ask(port) == b"one hello\n"
    backend.stop()
    await plane.close(stop=True)
