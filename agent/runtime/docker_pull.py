"""Pulling one image through an engine, told in few lines for people. Decides neither whether nor when."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from agent.runtime.docker_answers import PullLine
from agent.runtime.docker_engine import Engine
from agent.runtime.interface import Progress
from common.errors import NotFound, Unavailable
from common.references import Reference


async def pull(engine: Engine, reference: Reference, progress: Progress) -> None:
    """Pull it. `NotFound` when the registry has no such image, `Unavailable` when no answer can be had now."""
    layers = LayerCount(str(reference))
    limit_s = engine.settings.pull_timeout_s
    try:
        async with asyncio.timeout(limit_s), aclosing(engine.pull_lines(reference)) as lines:
            async for line in lines:
                if text := layers.advance(line):
                    progress(text)
    except TimeoutError:
        raise Unavailable(f"pulling {reference} took longer than {limit_s:g} s; trying again continues it") from None
    except NotFound as error:
        raise NotFound(f"{reference} is nowhere to be pulled from: {error}") from None
    except Unavailable as error:  # the registry's name, network or certificate as often as the engine itself
        raise Unavailable(f"cannot pull {reference} now: {error}") from None


class LayerCount:
    """Turns the engine's many lines about a pull into few: one for each layer that appears or is done."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._done: dict[str, bool] = {}

    def advance(self, line: PullLine) -> str:
        """What to show; empty when the count is the same. The engine's first line has the tag for an id: no layer."""
        if not line.id or line.status.startswith("Pulling from"):
            return ""
        layer_done = line.status in {"Pull complete", "Already exists"}
        if self._done.get(line.id) == layer_done:
            return ""
        self._done[line.id] = layer_done
        return f"pulling {self._image}: {sum(self._done.values())} of {len(self._done)} layers"
