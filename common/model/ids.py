"""Identifiers of jobs, tasks and nodes: 100 random bits as 20 characters that survive every name grammar."""

from __future__ import annotations

from typing import Protocol

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
ID_CHARACTERS = 20


class Rng(Protocol):
    """The part of `random.Random` that decisions may use; always handed in, never global."""

    def random(self) -> float:
        """A float in [0, 1)."""

    def getrandbits(self, k: int, /) -> int:
        """`k` random bits as a non-negative integer."""


def new_id(rng: Rng) -> str:
    """A fresh identifier; 20 lower-case characters, also valid in container names and DNS labels."""
    bits = rng.getrandbits(5 * ID_CHARACTERS)
    return "".join(_ALPHABET[(bits >> (5 * place)) & 31] for place in range(ID_CHARACTERS))
