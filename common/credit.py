"""How much one side of a stream may still send before the other side has used what it got: bounds what is under way."""

from __future__ import annotations

import asyncio


class Credit:
    """Of one direction of one stream, for one sender at a time."""

    def __init__(self, amount: int) -> None:
        self._left = amount
        self._more = asyncio.Event()

    def add(self, amount: int) -> None:
        """The receiver takes so much more."""
        self._left += amount
        self._more.set()

    async def spend(self, amount: int) -> None:
        """Wait until something may be sent, then take `amount` off.

        A piece larger than what is left goes out whole: so the window is exceeded by less than one piece, and a piece
        larger than the window does not wait for ever.
        """
        while self._left <= 0:
            self._more.clear()
            await self._more.wait()
        self._left -= amount
