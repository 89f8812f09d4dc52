"""Lets agents in at a rate, and tells the others when it is their turn. Asked before anything of an agent is read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from common.model.session import Redirect
from controller.core.admission import Door, knock
from controller.settings import Timers

logger = logging.getLogger(__name__)


class Doorkeeper:
    """Of one term; decides by `controller.core.admission`. `deferred` is told of each agent that is sent away."""

    def __init__(self, timers: Timers, deferred: Callable[[], None]) -> None:
        self._timers = timers
        self._deferred = deferred
        self._sent_away = 0
        self._door = Door()

    def knock(self, peer: str) -> Redirect | None:
        """What to tell the next agent; None when it may register now."""
        now_s = asyncio.get_running_loop().time()
        per_s, burst = self._timers.registrations_per_s, self._timers.registration_burst
        self._door, wait_s = knock(self._door, now_s, per_s=per_s, burst=burst)
        if not wait_s:
            return None
        self._note(peer, wait_s)
        reason = f"more agents come than are taken in at once: this one's turn is in {wait_s:.1f} s"
        return Redirect(leader="", reason=reason, retry_after_s=wait_s)

    def _note(self, peer: str, wait_s: float) -> None:
        self._sent_away += 1
        self._deferred()
        if self._sent_away.bit_count() == 1:  # the 1st, 2nd, 4th, 8th: a crowd must not fill the log
            text = "agents come faster than %g a second: %d were told to wait so far, %s for %.1f s"
            logger.info(text, self._timers.registrations_per_s, self._sent_away, peer, wait_s)
