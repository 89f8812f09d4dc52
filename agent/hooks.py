"""Runs the programs that a job wants run inside its container after it started or before it stops, one after the other.

What follows from their failure is decided in `agent.core.task_step`.
"""

from __future__ import annotations

import asyncio
import logging

from agent.core.environment import expand
from agent.runtime.interface import ExecManner, Runtime
from common.errors import Invalid, PodiumError, Unavailable
from common.model.job import Hook

logger = logging.getLogger(__name__)


class Hooks:
    """Of one moment of one container."""

    def __init__(self, hooks: tuple[Hook, ...], environment: dict[str, str]) -> None:
        """`environment` is the task's: what `${NAME}` in their commands means."""
        self._hooks = hooks
        self._environment = environment

    async def run(
        self, runtime: Runtime, container_id: str, timeout_s: float, *, altogether: bool = False
    ) -> str | None:
        """Why the first one that failed did, and no other is run after it; empty when all succeeded; None when nothing
        was learned, because the engine is away or the container is not up.

        `timeout_s` is for each, or `altogether`.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        for hook in self._hooks:
            left_s = max(0.0, until - loop.time()) if altogether else timeout_s
            failure = await self._one(hook, runtime, container_id, left_s)
            if failure is None or failure:
                return failure
        return ""

    async def _one(self, hook: Hook, runtime: Runtime, container_id: str, timeout_s: float) -> str | None:
        environment = {**self._environment, **hook.environment}
        argv = tuple(expand(argument, environment) for argument in hook.command)
        manner = ExecManner(user=hook.user, working_dir=hook.working_dir, environment=hook.environment)
        name = f"`{' '.join(argv)}`"
        try:
            result = await runtime.exec(container_id, argv, timeout_s, manner)
        except Unavailable as error:
            # The runtime says the same of a program that took too long and of an engine that is away.
            return f"failed: {error}" if (await runtime.status()).ready else None
        except Invalid as error:
            return f"{name} cannot be run: {error}"
        except PodiumError as error:
            logger.debug("hook %s of %s was not run: %s", name, container_id, error)
            return None
        if result.code == 0:
            return ""
        return f"{name} failed with code {result.code}: {result.output.strip() or 'no output'}"
