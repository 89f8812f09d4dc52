"""The state in memory plus guarded writes: `submit` a transaction, and it is in the store when the await returns.

A transaction is a pure function of the committed state that returns atomic groups of changes, or raises (`Conflict`,
`NotFound`, `Invalid`) to refuse itself. The one writer task evaluates waiting transactions in order and sends what they
return as one commit; one that touches a record already in the batch waits for the next batch, so it always sees what
was committed before it. Memory changes only after the store has acknowledged; then subscribers get what changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from controller.state import Applied, Change, State

Group: TypeAlias = tuple[Change, ...]
"""Changes that are only valid together; a transaction too large for one commit is cut between groups."""

Transaction: TypeAlias = Callable[[State], Iterable[Group]]


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """What one commit changed, in order."""

    revision: int
    applied: tuple[Applied, ...]


Subscriber: TypeAlias = Callable[[Committed], None]
"""Called synchronously right after memory changed; must be quick and must not raise."""


class Ledger:
    """See the module. Constructed per term with the loaded state."""
