"""What a node says of itself when it registers: whether it is taken in, and what of it goes into the ledger. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterator

import msgspec

from common.devices import device_faults
from common.errors import Fault
from common.model.ids import ID_CHARACTERS
from common.model.node import Node, NodeDescription
from common.model.session import Register
from common.names import name_fault
from common.settings import LIMITS
from controller.core.strays import strays_of
from controller.dispatcher.statuses import missing_from, status_changes
from controller.state import Group, State, Write

_ADDRESS_LIMIT_CHARACTERS = 255
_COPIED = (
    "If this machine's disk is a copy of that one's, delete the agent's data directory here: it becomes a node of its "
    "own then."
)


def faults(description: NodeDescription) -> tuple[Fault, ...]:
    """Everything that keeps a node from being taken in."""
    return tuple(Fault(path=f"node.{path}", text=text) for path, text in _faults(description))


def _faults(description: NodeDescription) -> Iterator[tuple[str, str]]:
    if not 0 < len(description.id) <= 4 * ID_CHARACTERS or not description.id.isascii() or "/" in description.id:
        yield "id", f"{description.id[:80]!r} is not an identifier of a node"
    for label in description.name.split("."):
        if name_fault(label):
            yield "name", name_fault(label)
            break
    if not 0 < len(description.address) <= _ADDRESS_LIMIT_CHARACTERS:
        yield "address", "is missing: say under which address the node's ports are reached (--advertise)"
    if description.capacity.cpu_millis < 0 or description.capacity.memory_bytes < 0:
        yield "capacity", "is negative"
    yield from (("devices", text) for text in device_faults(description.devices))
    for name in ("labels", "attributes", "runtimes"):
        size = len(getattr(description, name))
        if size > LIMITS.labels_per_object:
            yield name, f"are {size}; at most {LIMITS.labels_per_object} are allowed"


def namesake(state: State, description: NodeDescription, connected: Container[str]) -> Node | None:
    """Another node of the same name that is connected: people could not tell the two apart."""
    others = (node for node in state.nodes_named(description.name) if node.id != description.id)
    return next((node for node in others if node.id in connected), None)


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who speaks for a node: from where, and which process of its agent."""

    peer: str
    instance: str


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
    of its tasks."""
    description = register.node
    reports = [*register.inventory, *missing_from(state, description.id, register.inventory)]
    return (
        _node_changes(state, register, now_s),
        *status_changes(state, ((description.id, report) for report in reports), now_s),
    )


def _node_changes(state: State, register: Register, now_s: float) -> Group:
    description = register.node
    before = state.nodes.get(description.id)
    older = register.highest_epoch.generation < state.generation
    strays = strays_of(state, before, register.inventory, older_generation=older, now_s=now_s)
    known = before or Node(id=description.id, description=description, joined_at_s=now_s)
    after = msgspec.structs.replace(known, description=description, strays=strays)
    return () if after == before else (Write(after),)
