"""For how long an endpoint that failed connections is left out, whatever program carries the traffic. PURE."""

from __future__ import annotations

from common.backoff import Backoff

EJECTION = Backoff(first_s=0.25, limit_s=5.0)
"""Doubled with each failure in a row. A crashed task is back or withdrawn within seconds; trying it four times a second
costs nothing."""
