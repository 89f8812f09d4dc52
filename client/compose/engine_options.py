"""Reads what a container engine is told besides: what takes rights away, sets limits, or is the container's alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from client.compose import keys, optional
from client.compose.field import Field
from client.compose.tree import Fields, Items
from common.model.job import Constraint, ConstraintOperator, EngineOptions, Ulimit
from common.model.privileges import HostDevice, Privileges
from common.units import parse_bytes

LARGEST = 2**31 - 1
_UNCONFINED = (("seccomp", "unconfined"), ("apparmor", "unconfined"), ("label", "disable"))


def read_engine_options(given: Mapping[str, Field], pids: Field | None) -> EngineOptions:
    """From the honoured keys of a service; `pids` stands under deploy.resources.limits."""
    return EngineOptions(
        cap_drop=_texts(given.get("cap_drop")),
        ulimits=tuple(_ulimits(given.get("ulimits"))),
        shm_bytes=optional.parsed(given.get("shm_size"), parse_bytes, "a size such as 256M", 0),
        pids_limit=_pids(given.get("pids_limit") or pids),
        extra_hosts=tuple(_extra_hosts(given.get("extra_hosts"))),
        dns_search=_one_or_more(given.get("dns_search")),
        dns_options=_texts(given.get("dns_opt")),
        group_add=_texts(given.get("group_add")),
        sysctls=optional.labels(given.get("sysctls")),
        domainname=optional.text(given.get("domainname")),
        tty=optional.boolean(given.get("tty")),
        stdin_open=optional.boolean(given.get("stdin_open")),
        oom_score_adj=optional.count(given.get("oom_score_adj"), 0, least=-1000, most=1000),
        memory_swap_bytes=optional.parsed(given.get("memswap_limit"), _swap_bytes, "a size such as 1G, or -1", 0),
        cpuset=optional.text(given.get("cpuset")).replace(" ", ""),
    )


def read_privileges(given: Mapping[str, Field]) -> Privileges:
    """What lets a task out of its container, from the honoured keys of a service."""
    unconfined, new_privileges = _security(given.get("security_opt"))
    return Privileges(
        privileged=optional.boolean(given.get("privileged")),
        cap_add=tuple(name.upper().removeprefix("CAP_") for name in _texts(given.get("cap_add"))),
        devices=tuple(_devices(given.get("devices"))),
        host_network=_shared(given.get("network_mode"), own=("bridge", "default")),
        host_pid=_shared(given.get("pid"), own=("private",)),
        host_ipc=_shared(given.get("ipc"), own=("private", "shareable", "none")),
        engine_socket=optional.boolean(given.get("use_api_socket")),
        unconfined=unconfined,
        new_privileges=new_privileges,
    )


def _shared(field: Field | None, own: tuple[str, ...]) -> bool:
    """Whether it is the node's own. Another container's (`service:NAME`) is not to be had."""
    text = optional.text(field)
    if text in ("", "host", *own) or field is None:
        return text == "host"
    field.fault(f"{text[:80]!r} is not supported: allowed is host, where the node's policy allows it")
    return False


def _security(field: Field | None) -> tuple[tuple[str, ...], bool]:
    """The profiles to go without, and whether programs may gain rights."""
    unconfined, new_privileges = list[str](), False
    for item in field.items() if field is not None else ():
        name, _, value = optional.text(item).replace("=", ":", 1).partition(":")
        if name == "no-new-privileges" and value in ("", "true", "false"):
            new_privileges = value == "false"
        elif (name, value) in _UNCONFINED:
            unconfined.append(name)
        else:
            allowed = "no-new-privileges:true|false, seccomp:unconfined, apparmor:unconfined and label:disable"
            item.fault(f"{name[:40]}:{value[:40]} is not supported: allowed are {allowed}")
    return tuple(unconfined), new_privileges


def _devices(field: Field | None) -> Iterator[HostDevice]:
    """`SOURCE[:TARGET[:rwm]]`, or a mapping."""
    for item in field.items() if field is not None else ():
        if isinstance(item.node, Fields):
            parts = {key: optional.text(inner) for key, inner in keys.honoured(item, keys.DEVICE_FILE).items()}
            words = [parts.get("source", ""), parts.get("target", ""), parts.get("permissions", "")]
        else:
            words = [*optional.text(item).split(":"), "", ""]
        source, target, permissions = words[0], words[1] or words[0], words[2] or "rwm"
        yield HostDevice(source=source, target=target, permissions=permissions)


def platform_constraints(field: Field | None) -> tuple[Constraint, ...]:
    """`linux/arm64/v8` as rules on nodes; the variant is the image's to choose."""
    text = optional.text(field)
    if not text or field is None:
        return ()
    parts = text.split("/")
    if len(parts) > 3 or not all(parts):
        field.fault(f"{text[:80]!r} is no platform: write OS/ARCHITECTURE, e.g. linux/arm64")
        return ()
    attributes = ("node.platform.os", "node.platform.arch") if len(parts) > 1 else ("node.platform.arch",)
    if len(parts) == 1 and parts[0] in ("linux", "windows", "darwin"):
        attributes = ("node.platform.os",)
    return tuple(
        Constraint(attribute=attribute, operator=ConstraintOperator.EQUAL, value=part)
        for attribute, part in zip(attributes, parts, strict=False)
    )


def _texts(field: Field | None) -> tuple[str, ...]:
    return field.texts() if field is not None else ()


def _swap_bytes(text: str) -> int:
    """-1: no limit of its own."""
    return -1 if text.strip() == "-1" else parse_bytes(text)


def _one_or_more(field: Field | None) -> tuple[str, ...]:
    if field is None:
        return ()
    return tuple(optional.text(one) for one in field.one_or_items())


def _pids(field: Field | None) -> int:
    """-1 and 0 are no limit."""
    return max(0, optional.count(field, 0, least=-1, most=LARGEST))


def _ulimits(field: Field | None) -> Iterator[Ulimit]:
    for name, inner in field.fields().items() if field is not None else ():
        if isinstance(inner.node, Fields):
            parts = inner.fields()
            soft, hard = (optional.count(parts.get(key), 0, least=-1, most=LARGEST) for key in ("soft", "hard"))
            if {"soft", "hard"} - set(parts):
                inner.fault("soft and hard are both expected, or a single number")
                continue
            yield Ulimit(name=name, soft=soft, hard=hard)
        else:
            both = optional.count(inner, 0, least=-1, most=LARGEST)
            yield Ulimit(name=name, soft=both, hard=both)


def _extra_hosts(field: Field | None) -> Iterator[str]:
    """A list of `NAME:ADDRESS` or `NAME=ADDRESS`, or a mapping to one address or several."""
    if field is None:
        return
    if isinstance(field.node, Items):
        for text in field.texts():
            name, _, address = text.partition("=") if "=" in text else text.partition(":")
            yield f"{name}:{address.strip('[]')}"
        return
    for name, inner in field.fields().items():
        for one in inner.one_or_items():
            yield f"{name}:{optional.text(one)}"
