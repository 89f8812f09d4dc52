"""What can be a name: of a job or namespace, a host, a path, a kind or a model of devices.

Each function says in a sentence what is wrong with one, and what is allowed; it is empty when nothing is. Pure.
"""

from __future__ import annotations

import ipaddress
import re

from common.rules import shown

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_MACHINE = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_ALIAS = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
_PATH = re.compile(r"/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-]")
_HOST_CHARACTERS = 253
_PATH_CHARACTERS = 512
_DEVICE_MODEL_CHARACTERS = 128
_SHARE_SUFFIX = "-share"


def name_fault(name: str) -> str:
    """What is wrong with a name of a job or namespace; empty when it is an RFC 1123 label."""
    if _LABEL.fullmatch(name):
        return ""
    return f"{shown(name)} is not a name: use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit"


def node_name_fault(name: str) -> str:
    """What is wrong with the name of a node; empty when it can be one: a host name, in lower case."""
    if len(name) > _HOST_CHARACTERS:
        return f"{shown(name)} has {len(name)} characters; at most {_HOST_CHARACTERS} are allowed"
    return next((fault for label in name.split(".") if (fault := name_fault(label))), "")


def machine_fault(host: str) -> str:
    """What is wrong with the address of a machine, without a port; empty when it is an IP address or a host name."""
    if (len(host) <= _HOST_CHARACTERS and _MACHINE.fullmatch(host)) or ip_of(host) is not None:
        return ""
    return f"{shown(host)} is neither an IP address nor a host name"


def ip_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that `text` is, without a zone (which may be any text, and means something on one machine only);
    None when it is none."""
    try:
        return None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None


def alias_fault(name: str) -> str:
    """What is wrong with one more name of a job; empty when it can be one. People write underscores in those."""
    if _ALIAS.fullmatch(name):
        return ""
    allowed = "use 1 to 63 of a-z, 0-9, '-' and '_', beginning and ending with a letter or digit"
    return f"{shown(name)} cannot be a name of a service: {allowed}"


def host_fault(host: str) -> str:
    """What is wrong with the host name of a route; empty when it can be one."""
    labels = host.split(".")
    if len(host) <= _HOST_CHARACTERS and all(_LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit():
        return ""
    return f"{shown(host)} is not a host name: write one like shop.example.com, without a port and without wildcards"


def path_fault(path: str) -> str:
    """What is wrong with the path of a route; empty when it can be one."""
    if path == "/" or (len(path) <= _PATH_CHARACTERS and _PATH.fullmatch(path) and "//" not in path):
        return ""
    return f"{shown(path)} is not a path: write one like /shop, of letters, digits and - . _ ~, not ending in a slash"


def device_kind_fault(kind: str) -> str:
    """What is wrong with the name of a kind of device; empty when it can be one."""
    if fault := name_fault(kind):
        return fault
    if kind.endswith(_SHARE_SUFFIX):
        return f"{kind} ends in {_SHARE_SUFFIX}: a task is told its share of a device under that name; choose another"
    return ""


def device_model_fault(model: str) -> str:
    """What is wrong with the name of a model; empty when it can be one."""
    if model and model.isprintable() and model == model.strip() and len(model) <= _DEVICE_MODEL_CHARACTERS:
        return ""
    return f"{shown(model)} is not a model: write 1 to {_DEVICE_MODEL_CHARACTERS} printable characters, e.g. A10"
