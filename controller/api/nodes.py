"""The `Nodes` service over values: what engineers read of nodes, and what operators do with them."""

from __future__ import annotations

from collections.abc import Iterable

from common.model.api import (
    DrainView,
    ListNodes,
    NodeChange,
    NodeChanges,
    NodeList,
    NodeRef,
    NodesRequest,
    NodeView,
    Plan,
    RemoveNodesRequest,
)
from common.model.node import Availability, Node
from common.model.trust import Kind
from common.model.usage import UsageRequest, UsageView
from common.model.volume import ListVolumes, RemoveVolumeRequest, VolumeList
from controller.api import requests
from controller.api.names import find_nodes
from controller.api.term import ApiFront, ApiTerm
from controller.api.usage import usage_view
from controller.api.volumes import volume_to_remove, volumes_kept
from controller.core.drain import Setting, drained, set_availability
from controller.core.plan import plan_drain
from controller.core.removal import removed
from controller.core.turns import Turns
from controller.core.views import node_detail, node_view
from controller.state import Group, State, find_node
from controller.turns import in_turns


class NodesService:
    """Every method raises `NotLeader` where nobody leads, and what it says besides."""

    def __init__(self, front: ApiFront) -> None:
        self._front = front

    # --- writes: in the store when they return; nodes are named as `find_nodes` says, and raise what it raises

    async def cordon(self, request: NodesRequest) -> NodeChanges:
        return await self._set(request, Availability.CORDONED)

    async def uncordon(self, request: NodesRequest) -> NodeChanges:
        return await self._set(request, Availability.ACTIVE)

    async def drain(self, request: NodesRequest) -> NodeChanges:
        """Order it. The tasks move by and by, under this leader or the next."""
        return await self._set(request, Availability.DRAINING)

    async def remove(self, request: RemoveNodesRequest) -> NodeChanges:
        """For good. Raises `Conflict` for a node that has tasks, unless they may be lost."""
        requests.check_nodes(request)
        term = self._front.term
        key = request.idempotency_key and f"remove nodes {request.idempotency_key}"
        gone: tuple[Node, ...] = ()

        def transaction(state: State) -> tuple[Group, ...]:
            nonlocal gone
            gone = find_nodes(state, request.nodes)
            return removed(state, gone, term.clock(), force=request.force)

        async def write() -> NodeChanges:
            members = {enrolment.id for enrolment in term.state.enrolments.values() if enrolment.kind is Kind.AGENT}
            await term.ledger.answer(transaction)
            return NodeChanges(changes=tuple(_removal(node, member=node.id in members) for node in gone))

        return await term.repeats.once(key, request, write)

    async def _set(self, request: NodesRequest, wanted: Availability) -> NodeChanges:
        requests.check_nodes(request)
        term = self._front.term
        key = request.idempotency_key and f"{wanted.value} nodes {request.idempotency_key}"
        setting = Setting(groups=(), changes=())

        def transaction(state: State) -> tuple[Group, ...]:
            nonlocal setting
            setting = set_availability(find_nodes(state, request.nodes), wanted)  # the last call is what was committed
            return setting.groups

        async def write() -> NodeChanges:
            await term.ledger.answer(transaction)
            return NodeChanges(changes=setting.changes)

        return await term.repeats.once(key, request, write)

    # --- reads

    async def volumes(self, request: ListVolumes) -> VolumeList:
        return VolumeList(volumes=tuple(volumes_kept(self._front.term.state, request.namespace)))

    async def remove_volume(self, request: RemoveVolumeRequest) -> VolumeList:
        """Raises `NotFound`, `Conflict` when a task has it, `Unavailable` when its node is away. Answers it."""
        term = self._front.term
        found = volume_to_remove(term.state, request)
        await term.volumes.remove(found.node_id, found.name)
        return VolumeList(volumes=(found,))

    async def usage(self, request: UsageRequest) -> UsageView:
        """What is known now. Asking sets agents measuring: the first answer may know nothing of tasks yet.

        Raises `NotFound` for a job that does not exist.
        """
        term = self._front.term
        term.measurements.want()
        return usage_view(term, request)

    async def list_nodes(self, _request: ListNodes) -> NodeList:
        """Every node of the store, by name."""
        term = self._front.term
        nodes = sorted(term.state.nodes.values(), key=lambda node: (node.name, node.id))
        return await in_turns(_listed(term, [node.id for node in nodes]))

    async def inspect(self, request: NodeRef) -> NodeView:
        """Raises `NotFound`, or `Conflict` when a prefix fits several."""
        term = self._front.term
        node = find_node(term.state, request.name)
        return node_detail(term.state, node, term.conditions.get(node.id))

    async def plan_drain(self, request: NodesRequest) -> Plan:
        """What `drain` would do."""
        requests.check_nodes(request)
        term = self._front.term
        nodes = find_nodes(term.state, request.nodes)
        return await in_turns(
            plan_drain(term.state, term.conditions, term.table, nodes, term.clock(), term.rng, term.attention())
        )

    async def drain_status(self, request: NodesRequest) -> DrainView:
        """What is still on these nodes, and what it waits for; they need not be draining."""
        requests.check_nodes(request)
        term = self._front.term
        nodes = find_nodes(term.state, request.nodes)
        return DrainView(nodes=tuple(drained(term.state, node, term.conditions, term.verdicts) for node in nodes))


def _removal(node: Node, *, member: bool) -> NodeChange:
    text = "its certificates count no more; what runs there goes on until somebody stops it there"
    if not member:
        text = "it had no certificate: an agent that still runs there comes back"
    return NodeChange(node=node.name, node_id=node.id, action="remove", text=text)


def _listed(term: ApiTerm, node_ids: Iterable[str]) -> Turns[NodeList]:
    """Each node as it is when its turn comes; those that are gone by then are left out."""
    views: list[NodeView] = []
    for node_id in node_ids:
        node = term.state.nodes.get(node_id)
        if node is not None:
            views.append(node_view(term.state, node, term.conditions.get(node_id)))
        yield
    return NodeList(nodes=tuple(views))
