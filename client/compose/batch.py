"""Reads how a job whose tasks end goes about it: `attempts` and `deadline` of `x-podium`, and how many tasks it has at
a time, for which Compose has `deploy.update_config.parallelism`.
"""

from __future__ import annotations

from collections.abc import Mapping

from client.compose import optional
from client.compose.field import Field
from common.model.job import BatchPolicy, JobMode
from common.settings import LIMITS
from common.units import parse_duration_s

_BESIDE = ("attempts", "deadline")


def read_batch(podium: Mapping[str, Field], update: Mapping[str, Field], mode: JobMode) -> BatchPolicy:
    """From the honoured keys of `x-podium` and of `update_config`. What the numbers mean is checked with the spec."""
    usual = BatchPolicy()
    if not mode.ends:
        for key in _BESIDE:
            if key in podium:
                podium[key].fault("is of a job whose tasks end: give it deploy.mode: replicated-job or global-job")
        return usual
    return BatchPolicy(
        parallelism=optional.count(update.get("parallelism"), usual.parallelism, most=LIMITS.replicas),
        attempts=optional.count(podium.get("attempts"), usual.attempts, least=1, most=LIMITS.attempts),
        deadline_s=optional.parsed(
            podium.get("deadline"), parse_duration_s, "a duration such as 10m", usual.deadline_s
        ),
    )
