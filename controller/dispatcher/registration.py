"""What a node says of itself when it registers: whether it is taken in, and what of it goes into the ledger. Pure."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

import msgspec

from common.devices import device_faults
from common.errors import Fault
from common.model.ids import ID_CHARACTERS
from common.model.node import Node, NodeDescription
from common.model.session import Register
from common.mounts import mount_path_fault
from common.names import machine_fault, node_name_fault
from common.rules import label_map, one
from common.settings import LIMITS
from controller.core.confine import NAME_CHARACTERS, description_fault
from controller.core.strays import strays_of
from controller.dispatcher.statuses import status_changes
from controller.state import Group, State, Write

_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{4 * ID_CHARACTERS - 1}}}")
_COPIED = (
    "If this machine's disk is a copy of that one's, delete the agent's data directory here: it becomes a node of its "
    "own then."
)


def faults(register: Register) -> tuple[Fault, ...]:
    """Everything that keeps a node from being taken in."""
    found = [Fault(path=f"node.{path}", text=text) for path, text in _faults(register.node)]
    if len(register.inventory) > LIMITS.inventory_tasks:
        text = f"has {len(register.inventory)} tasks; at most {LIMITS.inventory_tasks} are allowed"
        found.append(Fault(path="inventory", text=text))
    return tuple(found)


def _faults(description: NodeDescription) -> Iterator[tuple[str, str]]:
    if fault := description_fault(description):
        yield "description", fault
        return
    if not _ID.fullmatch(description.id):
        yield "id", f"{description.id[:80]!r} is not an identifier of a node"
    yield from one("name", node_name_fault(description.name))
    if not description.address:
        yield "address", "is missing: say under which address the node's ports are reached (--advertise)"
    else:
        yield from one("address", machine_fault(description.address))
    if description.capacity.cpu_millis < 0 or description.capacity.memory_bytes < 0:
        yield "capacity", "is negative"
    yield from (("devices", text) for text in device_faults(description.devices))
    yield from label_map("labels", description.labels)
    yield from label_map("attributes", description.attributes)
    if len(description.runtimes) > LIMITS.runtimes_per_node:
        yield "runtimes", f"are {len(description.runtimes)}; at most {LIMITS.runtimes_per_node} are allowed"
    for rule in description.policy.bind:
        yield from one("policy", mount_path_fault(rule.path))
    for name in ("agent_version", "proxy"):
        if len(value := getattr(description, name)) > NAME_CHARACTERS or not value.isprintable():
            yield name, f"{value[:80]!r} is no name of a version or a proxy"


def namesake(state: State, description: NodeDescription, connected: Container[str]) -> Node | None:
    """Another node of the same name that is connected: people could not tell the two apart."""
    others = (node for node in state.nodes_named(description.name) if node.id != description.id)
    return next((node for node in others if node.id in connected), None)


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who speaks for a node: from where, and which process of its agent."""

    peer: str
    instance: str


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """The last registration of a node that was taken in during this term."""

    instance: str
    registration: int


def replayed(register: Register, last: Taken | None) -> str:
    """Why this is no new registration but one that was heard before; empty when it is new.

    Each process counts its own. What a network or a thief repeats would bring an old inventory, and end the session
    that came after it.
    """
    if last is None or not register.registration or register.instance != last.instance:
        return ""
    if register.registration > last.registration:
        return ""
    count = f"{register.registration} of this process"
    return f"registration {count} was taken in before; it has since come to {last.registration}"


def held_elsewhere(
    register: Register, known: Node | None, *, holder: Holder | None, silent_s: float, limit_s: float
) -> str:
    """Why the node is, or a moment ago was, another process than this one; empty when nobody else answers for it.

    `known` is the node as it was before, `holder` who is connected as it, `silent_s` how long it was not heard, at most
    since this term began. Two live machines with one disk take turns otherwise: whenever the right one is restarted, or
    a new leader begins, the copy would register first and start the node's tasks a second time. A process that dials
    again takes its own session over at once, however that one fares.
    """
    if silent_s >= limit_s:
        return ""
    if holder is not None and register.instance and holder.instance not in ("", register.instance):
        return (
            f"another agent from {holder.peer} is connected as this very node (id {register.node.id}) and answers. "
            f"{_COPIED} If that agent has just been stopped, this one is taken in as soon as that is silent"
        )
    if holder is None and known is not None and known.description.address != register.node.address:
        return (
            f"this very node (id {known.id}) was at {known.description.address} a moment ago, and this agent is at "
            f"{register.node.address}. {_COPIED} If the node has moved, it is taken in when nobody came from there"
        )
    return ""


def registration_changes(state: State, register: Register, now_s: float) -> tuple[Group, ...]:
    """The node's record where it is new, describes itself differently or has other strays, and what its inventory says
    of its tasks; of those that are missing from it nothing yet (see `missing_from`)."""
    description = register.node
    reports = ((description.id, report) for report in register.inventory)
    return (
        _node_changes(state, register, now_s),
        *status_changes(state, reports, now_s, address=description.address),
    )


def _node_changes(state: State, register: Register, now_s: float) -> Group:
    description = register.node
    before = state.nodes.get(description.id)
    older = register.highest_epoch.generation < state.generation
    strays = strays_of(state, before, register.inventory, older_generation=older, now_s=now_s)
    known = before or Node(id=description.id, description=description, joined_at_s=now_s)
    after = msgspec.structs.replace(known, description=description, strays=strays)
    return () if after == before else (Write(after),)
