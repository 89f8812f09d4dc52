"""How far chance may take a count, so that a test which measures a share does not fail by it."""

from __future__ import annotations

from fractions import Fraction
from math import comb

RISK = Fraction(1, 10**9)


def range_of(trials: int, percent: int) -> range:
    """The counts that so many trials, each with this chance, do not miss on either side but once in a thousand million
    times: exact, from the binomial distribution."""
    chance = Fraction(percent, 100)
    masses = [comb(trials, count) * chance**count * (1 - chance) ** (trials - count) for count in range(trials + 1)]
    return range(_begin(masses), trials + 1 - _begin(masses[::-1]))


def _begin(masses: list[Fraction]) -> int:
    """How many of them from the first on are together less than the risk."""
    left = RISK
    for place, mass in enumerate(masses):
        left -= mass
        if left < 0:
            return place
    return len(masses)
