"""What may be asked of a container engine: only what takes rights away, or what a container has for itself."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from common.model.job import EngineOptions, Ulimit

ULIMITS = frozenset(
    [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)
SYSCTLS = ("net.", "kernel.msg", "kernel.shm", "kernel.sem", "fs.mqueue.")
"""The kernel has these once for each container (its namespaces of network and of System V messages)."""
HOST_GATEWAY = "host-gateway"
_CAPABILITY = re.compile(r"[A-Z][A-Z_]{1,40}")
_HOST = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,252}[a-zA-Z0-9])?")
_GROUP = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,31}")
_CPUSET = re.compile(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?){0,255}")
_RESOLVER_OPTION = re.compile(r"[a-z][a-z0-9-]{0,30}(:[0-9]{1,5})?")
_RESOLVER_LIMIT = 32
_LARGEST = 2**53


def faults(options: EngineOptions) -> Iterator[tuple[str, str]]:
    """By the path of the field."""
    for name in options.cap_drop:
        if fault := capability_fault(name):
            yield "cap_drop", fault
    yield from (("ulimits", text) for limit in options.ulimits if (text := _ulimit_fault(limit)))
    yield from (("extra_hosts", text) for one in options.extra_hosts if (text := _host_fault(one)))
    for domain in options.dns_search:
        if domain != "." and not _HOST.fullmatch(domain):
            yield "dns_search", f"{domain[:80]!r} is no name of a domain"
    for option in options.dns_options:
        if not _RESOLVER_OPTION.fullmatch(option):
            yield "dns_options", f"{option[:80]!r} is no option of a resolver: write e.g. ndots:2 or use-vc"
    if len(options.dns_search) + len(options.dns_options) > _RESOLVER_LIMIT:
        yield "dns_search", f"more than {_RESOLVER_LIMIT} domains and options of its resolver"
    for group in options.group_add:
        if not _GROUP.fullmatch(group):
            yield "group_add", f"{group[:80]!r} is no group: give its name or number"
    yield from (("sysctls", text) for pair in options.sysctls.items() if (text := _sysctl_fault(*pair)))
    yield from _numbers(options)
    if text := _cpuset_fault(options.cpuset):
        yield "cpuset", text
    if options.domainname and not _HOST.fullmatch(options.domainname):
        yield "domainname", f"{options.domainname[:80]!r} is no name of a domain"


def capability_fault(name: str) -> str:
    """What is wrong with the name of a capability; empty when it can be one."""
    return "" if _CAPABILITY.fullmatch(name) else f"{name[:80]!r} is no capability: write e.g. NET_RAW, or ALL"


def _numbers(options: EngineOptions) -> Iterator[tuple[str, str]]:
    if not 0 <= options.shm_bytes < _LARGEST:
        yield "shm_bytes", f"{options.shm_bytes} bytes is no size"
    if not 0 <= options.pids_limit < 2**31:
        yield "pids_limit", f"{options.pids_limit} given; a number is expected, or 0 for no limit"
    if not -1 <= options.memory_swap_bytes < _LARGEST:
        yield "memory_swap_bytes", f"{options.memory_swap_bytes} bytes is no size"
    if not 0 <= options.oom_score_adj <= 1000:
        text = "0 to 1000 are allowed: less would end the node's own programs before this one"
        yield "oom_score_adj", f"{options.oom_score_adj} given; {text}"


def _cpuset_fault(cpuset: str) -> str:
    if not cpuset:
        return ""
    if not _CPUSET.fullmatch(cpuset):
        return f"{cpuset[:80]!r} is no set of processors: write their numbers, e.g. 0-3 or 0,2"
    for part in cpuset.split(","):
        first, _, last = part.partition("-")
        if last and int(first) > int(last):
            return f"{part} runs backwards"
    return ""


def _ulimit_fault(limit: Ulimit) -> str:
    if limit.name not in ULIMITS:
        return f"{limit.name[:80]!r} is no limit: allowed are {', '.join(sorted(ULIMITS))}"
    if not (-1 <= limit.soft < _LARGEST and -1 <= limit.hard < _LARGEST):
        return f"{limit.name}: {limit.soft} and {limit.hard} given; -1 (none) or a number is expected"
    if limit.hard != -1 and not 0 <= limit.soft <= limit.hard:
        return f"{limit.name}: soft {limit.soft} is above hard {limit.hard}"
    return ""


def _sysctl_fault(name: str, value: str) -> str:
    if not name.startswith(SYSCTLS):
        return f"{name[:80]} is a setting of the whole node; allowed are {', '.join(f'{one}*' for one in SYSCTLS)}"
    return "" if value.isprintable() else f"{name[:80]} has a value that cannot be written"


def _host_fault(entry: str) -> str:
    name, _, address = entry.partition(":")
    if not _HOST.fullmatch(name):
        return f"{entry[:80]!r} is no NAME:ADDRESS"
    if address == HOST_GATEWAY:
        return ""
    try:
        ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return f"{address[:80]!r} is no address for {name}"
    return ""
