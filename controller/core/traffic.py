"""What stands between a job and its traffic: nodes that route no HTTP, ports and certificates that cannot be had.

Puts together what nodes say of their proxies. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from common.model.job import JobSpec
from common.model.node import ROUTES_HTTP, NodeCondition
from controller.state import State

NODES_SHOWN = 3


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that keeps traffic from a job; without a node it is the whole cluster's."""

    text: str
    node: str = ""


def troubles(state: State, spec: JobSpec, conditions: Mapping[str, NodeCondition]) -> Iterator[Trouble]:
    """Of what the job wants published, the cluster's first, then by node."""
    yield from (Trouble(text=text) for text in routing_notes(state, [spec]))
    names = frozenset(spec.task.public_names)
    if not names:
        return
    for node in sorted(state.nodes.values(), key=lambda node: node.name):
        condition = conditions.get(node.id)
        for problem in condition.traffic if condition is not None else ():
            if problem.service in names:
                yield Trouble(node=node.name, text=problem.text)


def routing_notes(state: State, specs: Iterable[JobSpec]) -> tuple[str, ...]:
    """Who asks for routes that no node can serve, for whoever submits them."""
    if any(node.description.proxy in ROUTES_HTTP for node in state.nodes.values()):
        return ()
    routed = [spec for spec in specs if any(port.http for port in spec.task.ports)]
    return tuple(
        f"no node has a proxy that routes HTTP, so nobody serves {_routes(spec)}: install HAProxy on the nodes, and "
        "start their agents with --proxy auto or haproxy"
        for spec in routed
    )


def in_short(found: Iterable[Trouble]) -> str:
    """For one line about the job; empty when there is nothing."""
    texts = [f"node {trouble.node}: {trouble.text}" if trouble.node else trouble.text for trouble in found]
    rest = f"; and {len(texts) - NODES_SHOWN} more" if len(texts) > NODES_SHOWN else ""
    return "; ".join(texts[:NODES_SHOWN]) + rest


def _routes(spec: JobSpec) -> str:
    return ", ".join(str(route) for port in spec.task.ports for route in port.http)
