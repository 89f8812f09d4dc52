"""How processes that serve for months and hold much collect garbage: rarely, and never what they loaded.

Reference counts free nearly everything; what is left are cycles, of tasks and exceptions, a few a second. A full round
of the collector looks at every object: with the state of 100,000 tasks, or with 5,000 pretended nodes, it stands still
for a second, and heartbeats with it.
"""

from __future__ import annotations

import gc

_THRESHOLDS = (50_000, 20, 100)
"""Objects made and not freed until a young round, and rounds until an older one: the youngest takes milliseconds."""


_MADE_BETWEEN = 1_000_000
"""By 5,000 pretended nodes, from one `keep` to the next."""


def settle() -> None:
    """Take what is there by now out of the collector's rounds; what was taken out before and is garbage is freed."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


def keep() -> None:
    """Take what was made since out of the collector's rounds unseen, garbage or not: for a process that pretends to be
    thousands, is still growing, and must not stand still for a second to look at what a second has made."""
    gc.freeze()
    gc.set_threshold(_MADE_BETWEEN, *_THRESHOLDS[1:])
