"""Reads what a service needs of devices: under `x-podium`, and as the Compose Specification and Swarm write it.

All three become the same requests; which kinds, models and numbers can be asked for is decided in `common.validation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from client.compose import keys, optional
from client.compose.field import Field
from client.compose.tree import Scalar, shown
from common.model.device import WHOLE_MILLIS, DeviceRequest
from common.settings import LIMITS
from common.units import parse_devices, parse_share_millis

GPU = "gpu"
DRIVERS: Mapping[str, str] = {"nvidia": "nvidia"}
_ALL = "all"


class PlacedDevice(msgspec.Struct, frozen=True):
    """A request and where the file makes it."""

    request: DeviceRequest
    field: Field


def once_for_each_kind(devices: Iterable[PlacedDevice]) -> None:
    """A fault where a kind is asked for again, in whatever way."""
    first: dict[str, Field] = {}
    for placed in devices:
        before = first.setdefault(placed.request.kind, placed.field)
        if before is not placed.field:
            placed.field.fault(
                f"{placed.request.kind} is asked for already by {before.path} in line {before.mark.line}: ask once"
            )


# --- x-podium


def podium_devices(field: Field | None, *, active: bool) -> tuple[PlacedDevice, ...]:
    if field is None:
        return ()
    return tuple(PlacedDevice(_podium_device(kind, inner, active), inner) for kind, inner in field.fields().items())


def _podium_device(kind: str, field: Field, active: bool) -> DeviceRequest:
    if isinstance(field.node, Scalar):
        count, share_millis = optional.parsed(field, parse_devices, "a number of devices", (1, WHOLE_MILLIS))
        return DeviceRequest(kind=kind, count=count, share_millis=share_millis)
    given = keys.honoured(field, keys.PODIUM_DEVICE, active=active)
    return DeviceRequest(
        kind=kind,
        count=_count(given.get("count")),
        share_millis=optional.parsed(given.get("share"), parse_share_millis, "a share such as 0.5", WHOLE_MILLIS),
        models=given["models"].texts() if "models" in given else (),
    )


def _count(field: Field | None) -> int:
    value = None if field is None else field.integer(1, LIMITS.devices_per_kind)
    return 1 if value is None else value


# --- deploy.resources.reservations


def service_gpus(field: Field | None, *, active: bool) -> tuple[PlacedDevice, ...]:
    """`gpus` of the service: a list like that of the reservations, in which GPUs need not be named as such."""
    if field is None or not active:
        return ()
    if isinstance(field.node, Scalar) and field.node.text == _ALL:
        _stated(field)
        return ()
    found = (_device(item, active, implied=True) for item in field.items())
    return tuple(placed for placed in found if placed is not None)


def reserved_devices(devices: Field | None, generic: Field | None, *, active: bool) -> tuple[PlacedDevice, ...]:
    found = [_device(item, active) for item in (devices.items() if devices is not None else ())]
    found += [_generic(item, active) for item in (generic.items() if generic is not None else ())]
    return tuple(placed for placed in found if placed is not None)


def _device(field: Field, active: bool, *, implied: bool = False) -> PlacedDevice | None:
    """Of the Compose Specification."""
    given = keys.honoured(field, keys.DEVICE, active=active)
    if field.is_faulty:
        return None
    optional.choice(given.get("driver"), DRIVERS, "")
    if not implied or "capabilities" in given:
        _only_gpus(field, given.get("capabilities"))
    if "count" in given:
        return PlacedDevice(DeviceRequest(kind=GPU, count=_stated(given["count"])), field)
    if field.at("device_ids") is None:
        field.fault("count is missing, which means all of the machine's in Compose: say how many")
    return PlacedDevice(DeviceRequest(kind=GPU), field)


def _stated(count: Field) -> int:
    if isinstance(count.node, Scalar) and count.node.text == _ALL:
        count.fault("'all' is given: nodes have different numbers of devices; say how many")
        return 1
    return _count(count)


def _only_gpus(field: Field, capabilities: Field | None) -> None:
    named = capabilities.texts() if capabilities is not None else ()
    if GPU not in named:
        (capabilities or field).fault("capabilities must name gpu: others are asked for with x-podium: {devices: ...}")
    elif more := [name for name in named if name != GPU]:
        assert capabilities is not None
        capabilities.fault(f"{', '.join(map(shown, more))}: set NVIDIA_DRIVER_CAPABILITIES in environment instead")


def _generic(field: Field, active: bool) -> PlacedDevice | None:
    """Of Swarm."""
    given = keys.honoured(field, keys.GENERIC_RESOURCE, active=active)
    if "discrete_resource_spec" not in given:
        if not field.is_faulty and field.at("named_resource_spec") is None:
            field.fault("discrete_resource_spec must be given, e.g. {kind: gpu, value: 2}")
        return None
    spec = given["discrete_resource_spec"]
    said = keys.honoured(spec, keys.DISCRETE_RESOURCE, active=active)
    if missing := [key for key in keys.DISCRETE_RESOURCE.honoured if key not in said]:
        spec.fault(f"{' and '.join(missing)} must be given, e.g. {{kind: gpu, value: 2}}")
        return None
    return PlacedDevice(DeviceRequest(kind=optional.text(said["kind"]), count=_count(said["value"])), field)
