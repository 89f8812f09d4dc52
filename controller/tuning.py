"""The numbers that an operator may set of a controller by name (`--tune NAME=VALUE`), and what they must not be.

Owns the names, which `podium controller --help` and docs/operations.md list; the values and their reasons are in
`controller.settings`. Pure.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable

import msgspec

from common.errors import Fault, Invalid
from common.model.job import Strategy
from controller.core.exclusive import ExclusiveTimers
from controller.core.liveness import LivenessTimers
from controller.settings import LeaseTimers, ScalingTimers, Timers


class Knob(msgspec.Struct, frozen=True, kw_only=True):
    """One number: where it goes, and what it may be at all; what it may be beside the others is `Timers.faults`'."""

    put: Callable[[Timers, float], Timers]
    least: float
    most: float
    text: str
    whole: bool = False


def _liveness(timers: Timers, **fields: float) -> Timers:
    changed: LivenessTimers = msgspec.structs.replace(timers.liveness, **fields)
    return msgspec.structs.replace(timers, liveness=changed)


def _exclusive(timers: Timers, **fields: float) -> Timers:
    changed: ExclusiveTimers = msgspec.structs.replace(timers.exclusive, **fields)
    return msgspec.structs.replace(timers, exclusive=changed)


def _heartbeat(timers: Timers, period_s: float) -> Timers:
    """Thresholds are kept in periods: those given in seconds stay what they are, whatever the order."""
    before = timers.liveness
    return _liveness(
        timers,
        period_s=period_s,
        unreachable_periods=before.unreachable_s / period_s,
        down_periods=before.down_s / period_s,
    )


def _lease(timers: Timers, lease_s: float) -> Timers:
    changed: LeaseTimers = msgspec.structs.replace(timers.lease, lease_s=lease_s)
    return msgspec.structs.replace(timers, lease=changed)


KNOBS: dict[str, Knob] = {
    "heartbeat": Knob(put=_heartbeat, least=0.1, most=60, text="seconds between two heartbeats of a node"),
    "unreachable": Knob(
        put=lambda timers, value: _liveness(timers, unreachable_periods=value / timers.liveness.period_s),
        least=0.2,
        most=600,
        text="seconds of silence after which a node's endpoints leave the balancers",
    ),
    "down": Knob(
        put=lambda timers, value: _liveness(timers, down_periods=value / timers.liveness.period_s),
        least=0.5,
        most=3_600,
        text="seconds of silence after which a node's tasks are replaced; also a new leader's grace",
    ),
    "acknowledge": Knob(
        put=lambda timers, value: msgspec.structs.replace(timers, acknowledge_s=value),
        least=0.2,
        most=600,
        text="seconds without an acknowledgement after which an agent dials again",
    ),
    "lease": Knob(
        put=_lease, least=2, most=60, text="seconds for which a dead leader's term lasts on etcd", whole=True
    ),
    "brake-share": Knob(
        put=lambda timers, value: _liveness(timers, brake_share=value),
        least=0.01,
        most=1,
        text="share of the nodes; the brake engages when more fall silent together",
    ),
    "brake-nodes": Knob(
        put=lambda timers, value: _liveness(timers, brake_nodes=int(value)),
        least=1,
        most=100_000,
        text="and at least so many",
        whole=True,
    ),
    "exclusive-self": Knob(
        put=lambda timers, value: _exclusive(timers, self_s=value),
        least=1,
        most=3_600,
        text="seconds without an acknowledgement after which an agent stops exclusive tasks",
    ),
    "exclusive-lost": Knob(
        put=lambda timers, value: _exclusive(timers, lost_s=value),
        least=1,
        most=36_000,
        text="seconds of silence after which exclusive tasks are replaced",
    ),
    "heartbeats-per-second": Knob(
        put=lambda timers, value: msgspec.structs.replace(timers, heartbeats_per_s=int(value)),
        least=10,
        most=100_000,
        text="that the leader gets at most; with more nodes the period is stretched",
        whole=True,
    ),
    "registrations-per-second": Knob(
        put=lambda timers, value: msgspec.structs.replace(timers, registrations_per_s=value),
        least=1,
        most=100_000,
        text="agents taken in when many come at once",
    ),
    "registration-burst": Knob(
        put=lambda timers, value: msgspec.structs.replace(timers, registration_burst=int(value)),
        least=1,
        most=100_000,
        text="agents that may come at the same moment",
        whole=True,
    ),
    "spread": Knob(
        put=lambda timers, value: msgspec.structs.replace(timers, spread_s=value),
        least=0,
        most=3_600,
        text="seconds until every controller knows a new authority or cluster key, before it is used",
    ),
    "autoscale-period": Knob(
        put=lambda timers, value: msgspec.structs.replace(timers, scaling=ScalingTimers(period_s=value)),
        least=1,
        most=600,
        text="seconds between two looks at jobs that follow their load",
    ),
    "rebalance-auto": Knob(
        put=lambda timers, value: msgspec.structs.replace(timers, rebalance_auto=bool(value)),
        least=0,
        most=1,
        text="1: the controller moves tasks for a better balance by itself; 0: it only suggests",
        whole=True,
    ),
    "binpack": Knob(
        put=lambda timers, value: msgspec.structs.replace(
            timers, strategy=Strategy.BINPACK if value else Strategy.SPREAD
        ),
        least=0,
        most=1,
        text="1: jobs that do not say their strategy fill one node after the other; 0: they spread",
        whole=True,
    ),
}


def tuned(timers: Timers, given: Iterable[str]) -> Timers:
    """The timers with each `NAME=VALUE` set, the heartbeat first. Raises `Invalid` with everything that is wrong.

    Whether they fit together is for `Timers.faults` to say.
    """
    faults: list[Fault] = []
    values: dict[str, float] = {}
    for item in given:
        try:
            name, value = _parsed(item)
        except Invalid as error:
            faults += error.faults
            continue
        if name in values:
            faults.append(Fault(path="tune", text=f"{name} is given twice"))
        values[name] = value
    for name in sorted(values, key=list(KNOBS).index):
        timers = KNOBS[name].put(timers, values[name])
    if faults:
        raise Invalid(faults)
    return timers


def _parsed(item: str) -> tuple[str, float]:
    name, equals, text = item.partition("=")
    if not equals or name not in KNOBS:
        near = difflib.get_close_matches(name, KNOBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(KNOBS)}"
        raise _invalid(f"{item!r} is not NAME=VALUE of a known name: {hint}")
    knob = KNOBS[name]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not knob.least <= value <= knob.most or (knob.whole and value != round(value)):
        kind = "a whole number" if knob.whole else "a number"
        raise _invalid(f"{name}: {text!r} is not {kind} from {knob.least:g} to {knob.most:g} ({knob.text})")
    return name, value


def _invalid(text: str) -> Invalid:
    return Invalid([Fault(path="tune", text=text)])
