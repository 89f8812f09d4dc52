"""How long ago something was that another clock may have dated: a former leader's, or ours before it was put right."""

from __future__ import annotations

import math

CLOCKS_DIFFER_S = 60.0
"""Clocks that can be relied on differ by no more than this, also those that nobody synchronises."""


def since_s(at_s: float, now_s: float) -> float:
    """Seconds since `at_s`.

    A date further in the future than clocks may differ is of a clock that was wrong: it counts as long ago, since
    waiting for that moment could take years.
    """
    passed_s = now_s - at_s
    return passed_s if passed_s >= -CLOCKS_DIFFER_S else math.inf
