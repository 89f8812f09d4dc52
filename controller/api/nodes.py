"""The `Nodes` service over values: what engineers read of nodes."""

from __future__ import annotations

from common.model.api import ListNodes, NodeList, NodeRef, NodeView
from controller.api.term import ApiFront
from controller.core.views import node_view
from controller.state import find_node


class NodesService:
    def __init__(self, front: ApiFront) -> None:
        self._front = front

    async def list_nodes(self, _request: ListNodes) -> NodeList:
        """Every node of the store, by name."""
        term = self._front.term
        nodes = sorted(term.state.nodes.values(), key=lambda node: (node.name, node.id))
        return NodeList(nodes=tuple(node_view(term.state, node, term.conditions.get(node.id)) for node in nodes))

    async def inspect(self, request: NodeRef) -> NodeView:
        """Raises `NotFound`, or `Conflict` when a prefix fits several."""
        term = self._front.term
        node = find_node(term.state, request.name)
        return node_view(term.state, node, term.conditions.get(node.id))
