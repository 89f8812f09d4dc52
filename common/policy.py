"""Whether a node's policy allows what a task asks for. Pure; the controller places by it, the agent starts by it.

What is asked for is a list of single things, so that a refusal names the one that is not allowed, and the line of the
policy file that would allow it. Never touches a file system: where links lead is the agent's to find out.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from common.model.job import Container, MountKind
from common.model.privileges import BindRule, NodePolicy
from common.mounts import bind_allowed

ENGINE_SOCKETS = (
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/var/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/var/run/podman/podman.sock",
)
"""Where engines listen: whoever can talk to one commands its node."""
ALL = "ALL"
BIND = "bind"
_SWITCHES = {
    "privileged": "privileged mode",
    "host_network": "the node's own network",
    "host_pid": "the node's own processes (pid: host)",
    "host_ipc": "the node's own shared memory (ipc: host)",
    "new_privileges": "programs that gain rights (no-new-privileges:false)",
}


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a task wants of its node."""

    key: str
    """Of the policy file."""
    value: str = ""
    """Of a key with a list."""
    read_only: bool = False

    @property
    def words(self) -> str:
        """What it is, for people."""
        match self.key:
            case "bind":
                return f"bind mounts under {self.value}"
            case "capabilities":
                return f"the capability {self.value}"
            case "devices":
                return f"the device {self.value}"
            case "unconfined":
                return f"{self.value} unconfined"
            case "engine_socket":
                return f"the engine's socket ({self.value})"
            case _:
                return _SWITCHES[self.key]

    @property
    def line(self) -> str:
        """Of the policy file that allows it."""
        match self.key:
            case "bind" if self.read_only:
                return f"bind: [{{path: {self.value}, read_only: true}}]"
            case "bind" | "capabilities" | "devices" | "unconfined":
                return f"{self.key}: [{self.value}]"
            case _:
                return f"{self.key}: true"


def asks(container: Container) -> tuple[Ask, ...]:
    """Everything beyond its container that a task wants."""
    return tuple(dict.fromkeys(_asks(container)))


def needs_a_right(container: Container) -> bool:
    """Whether it takes more than the right to deploy to ask for this. Directories that a node gives away do not."""
    return any(ask.key != BIND for ask in asks(container))


def refused(policy: NodePolicy, container: Container) -> tuple[Ask, ...]:
    """What of it the node does not allow, as the paths are written."""
    return tuple(ask for ask in asks(container) if not allows(policy, ask))


def allows(policy: NodePolicy, ask: Ask) -> bool:
    match ask.key:
        case "bind":
            rules = (rule.path for rule in policy.bind if ask.read_only or not rule.read_only)
            return bind_allowed(ask.value, rules)
        case "capabilities":
            return ask.value in policy.capabilities or ALL in policy.capabilities
        case "devices":
            return bind_allowed(ask.value, policy.devices)
        case "unconfined":
            return ask.value in policy.unconfined
        case _:
            switch: bool = getattr(policy, ask.key)
            return switch


def words_of(asked: Sequence[Ask]) -> str:
    """What they are, for people."""
    *others, last = (ask.words for ask in asked)
    return f"{', '.join(others)} and {last}" if others else last


def lines_of(asked: Sequence[Ask]) -> str:
    """What a policy file says that allows them all: a line for each key."""
    lists: dict[str, list[str]] = {}
    for ask in asked:
        key, _, value = ask.line.partition(": ")
        lists.setdefault(key, []).append(value.strip("[]"))
    values = {key: found[0] if found == ["true"] else f"[{', '.join(found)}]" for key, found in lists.items()}
    return "; ".join(f"{key}: {value}" for key, value in values.items())


def widened(policy: NodePolicy, more: Iterable[Ask]) -> NodePolicy:
    """The policy that allows this as well."""
    for ask in more:
        match ask.key:
            case "bind":
                rule = BindRule(path=ask.value, read_only=ask.read_only)
                policy = msgspec.structs.replace(policy, bind=(*policy.bind, rule))
            case "capabilities" | "devices" | "unconfined":
                policy = msgspec.structs.replace(policy, **{ask.key: (*getattr(policy, ask.key), ask.value)})
            case _:
                policy = msgspec.structs.replace(policy, **{ask.key: True})
    return policy


def exposes(path: str, sockets: Iterable[str]) -> str:
    """The first of the sockets that whoever has `path` mounted can reach; empty when there is none."""
    plain = posixpath.normpath(path).rstrip("/") + "/"
    return next((one for one in sockets if f"{posixpath.normpath(one)}/".startswith(plain)), "")


def _asks(container: Container) -> Iterator[Ask]:
    wanted = container.privileges
    for key in _SWITCHES:
        if getattr(wanted, key):
            yield Ask(key=key)
    if wanted.engine_socket:
        yield Ask(key="engine_socket", value=ENGINE_SOCKETS[0])
    yield from (Ask(key="capabilities", value=name) for name in wanted.cap_add)
    yield from (Ask(key="devices", value=device.source) for device in wanted.devices)
    yield from (Ask(key="unconfined", value=name) for name in wanted.unconfined)
    for mount in container.mounts:
        if mount.kind is MountKind.BIND:
            yield Ask(key=BIND, value=mount.source, read_only=mount.read_only)
            if socket := exposes(mount.source, ENGINE_SOCKETS):
                yield Ask(key="engine_socket", value=socket)
