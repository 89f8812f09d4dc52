"""How HAProxy is told to let connections wait, and what it tells of those that do."""

from __future__ import annotations

import pytest

from agent.network.haproxy.config import Limits, render
from agent.network.haproxy.site import Site, proxy_name
from agent.network.haproxy.steering import Waiting, read_waiting
from agent.network.interface import listeners_of
from tests.data_planes import HOST, service


@pytest.mark.parametrize(
    ("wake_wait_s", "wait_ms", "delay_s", "retries"), [(0.0, 5_000, 10, 0), (60.0, 60_000, 65, 15), (1.5, 5_000, 10, 5)]
)
def test_connections_wait_for_as_long_as_their_job_says(
    wake_wait_s: float, wait_ms: int, delay_s: int, retries: int
) -> None:
    """And a woken task that runs before it listens is tried for longer than others: each try at it takes a second."""
    one = service(8080, wake_wait_s=wake_wait_s)
    text = render(Site(services=(one,), listeners=listeners_of(HOST, (one,))), Limits(connections=100, threads=1))
    assert f"    tcp-request content lua.park {proxy_name(one)} {wait_ms} if" in text
    assert f"    tcp-request inspect-delay {delay_s}s" in text
    own = text.partition(f"backend {proxy_name(one)}\n")[2]
    assert ("retries" in own) is bool(retries)
    assert not retries or f"    retries {retries}\n" in own


def test_who_waits_is_read_by_proxy_and_what_is_no_such_line_is_passed_over() -> None:
    told = "8080_tcp_12345678 3 17\nother 0 0\n\nUnknown command: 'podium parked', but maybe one of the following:\n"
    assert read_waiting(told) == {"8080_tcp_12345678": Waiting(3, 17), "other": Waiting(0, 0)}
