"""Runs one health check inside a container. What its outcome means is decided in `agent.core.health`."""

from __future__ import annotations

import logging

from agent.core.instructions import Probe
from agent.core.stimuli import Probed
from agent.runtime.interface import Runtime
from common.errors import Invalid, PodiumError, Unavailable

logger = logging.getLogger(__name__)


async def probe(runtime: Runtime, instruction: Probe, argv: tuple[str, ...]) -> Probed:
    """Run the check once. `good` is None when nothing was learned: the engine is away or the container is not up."""
    attempt, check = instruction.attempt, instruction.check
    try:
        result = await runtime.exec(instruction.container_id, argv, check.timeout_s)
    except Unavailable as error:
        return await _no_answer(runtime, attempt, error)
    except Invalid as error:  # no such program in it: as bad as a failing one, and the engineer must see why
        return Probed(attempt=attempt, good=False, output=str(error))
    except PodiumError as error:
        logger.debug("health check of %s learned nothing: %s", instruction.container_id, error)
        return Probed(attempt=attempt, good=None)
    good = result.code == 0
    silent = "" if good else f"exit code {result.code}, no output"
    return Probed(attempt=attempt, good=good, output=result.output.strip() or silent)


async def _no_answer(runtime: Runtime, attempt: int, error: Unavailable) -> Probed:
    """The runtime says the same of a check that took too long and of an engine that is away: ask which it was."""
    status = await runtime.status()
    return Probed(attempt=attempt, good=False if status.ready else None, output=str(error))
