"""How long to wait before trying again. Owns the formula; never sleeps and never reads a clock."""

from __future__ import annotations

import msgspec

from common.model.ids import Rng


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Exponential back-off between `first_s` and `limit_s` seconds."""

    first_s: float
    limit_s: float
    factor: float = 2.0

    def ceiling_s(self, failures: int) -> float:
        """The longest wait after `failures` failures in a row (1 for the first), without jitter."""
        exponent = min(max(failures - 1, 0), 64)
        return min(self.limit_s, self.first_s * self.factor**exponent)

    def full_jitter_s(self, failures: int, rng: Rng) -> float:
        """A wait drawn evenly from 0 to the ceiling.

        Full jitter spreads a crowd of clients best for the least total work
        (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
        """
        return rng.random() * self.ceiling_s(failures)
