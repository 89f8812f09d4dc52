"""What a node may say of its devices: kinds, ids and models that can be named, and how many. Pure.

What a task may ask for is `common.validation`'s to say.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from common.model.device import Device
from common.names import device_kind_fault, device_model_fault
from common.settings import LIMITS

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
"""No comma: a task is told its units as ids with commas between them."""


def device_faults(devices: Sequence[Device]) -> tuple[str, ...]:
    """Everything wrong with the units of one node."""
    return tuple(dict.fromkeys(_faults(devices)))


def _faults(devices: Sequence[Device]) -> Iterator[str]:
    for device in devices:
        if fault := device_kind_fault(device.kind):
            yield fault
        if not _ID.fullmatch(device.id):
            yield f"{device.id[:80]!r} is not an id of a device: use 1 to 128 letters, digits, '.', '_', ':', '/', '-'"
        if device.model and (fault := device_model_fault(device.model)):
            yield fault
    for (kind, unit), times in Counter((device.kind, device.id) for device in devices).items():
        if times > 1:
            yield f"{kind} {unit} is given {times} times: each unit of a kind has an id of its own"
    for kind, number in Counter(device.kind for device in devices).items():
        if number > LIMITS.devices_per_kind:
            yield f"there are {number} of {kind}; at most {LIMITS.devices_per_kind} of a kind are allowed"
    if len(kinds := {device.kind for device in devices}) > LIMITS.device_kinds:
        yield f"there are {len(kinds)} kinds; at most {LIMITS.device_kinds} are allowed"
