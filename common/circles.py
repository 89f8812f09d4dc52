"""Finds who waits for whom in a circle. Knows nothing of jobs: it is told names."""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Mapping

CIRCLES = 20
"""More are not told at once: each is mended by hand, and mending one often ends others."""


def circles(waits_for: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """Circles as the names one passes, the first one again at the end: `("a", "b", "a")`.

    Every circle has a step in common with one of these. The same names in the same order give the same answer.
    """
    graph = {name: list(dict.fromkeys(others)) for name, others in waits_for.items()}
    found: list[tuple[str, ...]] = []
    while len(found) < CIRCLES:
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            circle: list[str] = list(reversed(error.args[1]))  # from whoever waits to whom it waits for
            found.append(tuple(circle))
            graph[circle[0]].remove(circle[1])
        else:
            break
    return found
