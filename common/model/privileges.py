"""What a task may ask for that lets it out of its container, and what of it a node gives away.

An engineer writes `Privileges` with the job; a node's operator writes `NodePolicy` on the node, whose agent reports it.
"""

from __future__ import annotations

import msgspec

OWN_USER = "own"
"""Instead of a name: each task has a user to itself."""


class HostDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device file of the node inside the container."""

    source: str
    target: str
    permissions: str = "rwm"
    """Of r (read), w (write) and m (make)."""


class Privileges(msgspec.Struct, frozen=True, kw_only=True):
    """Each only where the node's policy allows it, and only for whoever may ask for it. A plain process has none."""

    privileged: bool = False
    """Everything at once: whoever is root inside is root of the node."""
    cap_add: tuple[str, ...] = ()
    """Capabilities of the kernel, or `ALL`."""
    devices: tuple[HostDevice, ...] = ()
    host_network: bool = False
    host_pid: bool = False
    host_ipc: bool = False
    engine_socket: bool = False
    """The node's engine, at `/var/run/docker.sock`: whoever can talk to it commands the node."""
    unconfined: tuple[str, ...] = ()
    """Without the engine's profile of these: `seccomp`, `apparmor`, `label`."""
    new_privileges: bool = False
    """Programs inside may gain rights, by setuid files for instance."""


class BindRule(msgspec.Struct, frozen=True, kw_only=True):
    """A directory of the node that may be mounted into tasks, with all below it."""

    path: str
    read_only: bool = False


class NodePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What tasks may have of a node beyond their container. By default nothing."""

    bind: tuple[BindRule, ...] = ()
    privileged: bool = False
    capabilities: tuple[str, ...] = ()
    """That may be added, or `ALL`."""
    devices: tuple[str, ...] = ()
    """Device files, or directories of them, below `/dev`."""
    host_network: bool = False
    host_pid: bool = False
    host_ipc: bool = False
    engine_socket: bool = False
    unconfined: tuple[str, ...] = ()
    new_privileges: bool = False
    processes: bool = False
    """Jobs without an image run as plain processes here."""
    process_user: str = OWN_USER
    """Whom they run as when the agent is root: `own`, each as a user to itself; empty: as the agent."""
    process_users: tuple[str, ...] = ()
    """Whom else they may run as, by name: each by its own group."""
