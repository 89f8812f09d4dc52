"""Running HAProxy's program, without HAProxy."""

from __future__ import annotations

import pytest

from agent.network.haproxy.program import _run
from common.errors import Unavailable


async def test_what_a_program_leaves_behind_keeps_nobody_waiting() -> None:
    """HAProxy detaches itself; on a machine in trouble what it began holds the output for long."""
    assert await _run("sh", "-c", "echo said; sleep 21 & exit 3") == (3, "said\n")


async def test_one_that_hangs_is_killed() -> None:
    with pytest.raises(Unavailable, match=r"sleep did not end within 0\.2 s"):
        await _run("sleep", "60", limit_s=0.2)
