"""Reads the file in which a node's operator says what tasks may have of it. Every fault is told, with its key.

bind:                                     # directories of this machine, with all below them
  - /srv/data
  - {path: /srv/certs, read_only: true}
processes: {user: tasks, users: [www-data]}   # or true: as `nobody` where the agent is root
capabilities: [NET_RAW, NET_ADMIN]
devices: [/dev/fuse, /dev/snd]
unconfined: [seccomp]
host_network: true                        # also privileged, host_pid, host_ipc, engine_socket, new_privileges
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

import msgspec

from common.container_rules import UNCONFINED, user_fault
from common.engine_options import capability_fault
from common.errors import Fault, Invalid
from common.model.privileges import OWN_USER, BindRule, NodePolicy
from common.mounts import mount_path_fault
from common.rules import shown

FILE_LIMIT_BYTES = 64 * 1024
"""A policy is a page; a larger file is the wrong file."""
_LIST_LIMIT = 256
_NESTS_LIMIT = 600
"""Signs that something is inside something: the longest policy has fewer, and YAML nested thousands deep takes long."""
_SWITCHES = ("privileged", "host_network", "host_pid", "host_ipc", "engine_socket", "new_privileges")
_LISTS = ("capabilities", "devices", "unconfined")
KEYS = ("bind", "processes", *_SWITCHES, *_LISTS)


class _Processes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user: str = OWN_USER
    users: tuple[str, ...] = ()


class _Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: str
    read_only: bool = False


def node_policy(
    file: str, *, bind: Iterable[str] = (), process_user: str = "", runtimes: tuple[str, ...] = ()
) -> tuple[NodePolicy, tuple[str, ...]]:
    """The policy and the runtimes of a node, from its options: naming the process runtime allows it, unless a file says
    otherwise. Raises `Invalid`."""
    policy = read_policy(file) if file else NodePolicy()
    policy = msgspec.structs.replace(
        policy,
        bind=(*policy.bind, *(BindRule(path=path) for path in bind)),
        process_user=process_user or policy.process_user,
    )
    if not runtimes:
        return policy, ("docker", "process") if policy.processes else ("docker",)
    if "process" not in runtimes:
        return policy, runtimes
    if file and not policy.processes:
        text = f"process is named, and {file} does not allow it: write `processes: true` there, or leave it out"
        raise Invalid([Fault(path="runtimes", text=text)])
    return msgspec.structs.replace(policy, processes=True), runtimes


def read_policy(path: str) -> NodePolicy:
    """Raises `Invalid` with every fault of the file."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise Invalid([Fault(path="policy", text=f"cannot read {path}: {error.strerror}")]) from None
    if len(text) > FILE_LIMIT_BYTES:
        raise Invalid([Fault(path="policy", text=f"{path} is over {FILE_LIMIT_BYTES} bytes: not a policy")])
    return policy_of(text.decode("utf-8", "replace"), path)


def policy_of(text: str, path: str) -> NodePolicy:
    """The policy that `text` is; `path` is only told of. Raises `Invalid` with every fault."""
    if sum(map(text.count, ("[", "{", "- -", "? "))) > _NESTS_LIMIT:
        raise Invalid([Fault(path="policy", text=f"{path} has more lists and mappings than any policy")])
    from ruamel.yaml import YAML  # megabytes that an agent without such a file does without
    from ruamel.yaml.error import YAMLError

    try:
        given = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where is not None else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise Invalid([Fault(path="policy", text=f"{path}{line} is not YAML: {problem}")]) from None
    if given is None:
        return NodePolicy()
    if not isinstance(given, dict):
        raise Invalid([Fault(path="policy", text=f"{path} has no keys; allowed are {', '.join(KEYS)}")])
    read = _Reader(given)
    policy = read.policy()
    faults = (*read.faults, *(() if read.faults else policy_faults(policy)))
    if faults:
        raise Invalid(Fault(path=f"policy.{fault.path}", text=f"{fault.text} ({path})") for fault in faults)
    return policy


def policy_faults(policy: NodePolicy) -> tuple[Fault, ...]:
    """What is wrong with a policy, wherever it came from."""
    return tuple(Fault(path=path, text=text) for path, text in _faults(policy) if text)


def _faults(policy: NodePolicy) -> Iterator[tuple[str, str]]:
    for rule in policy.bind:
        yield "bind", mount_path_fault(rule.path) or _too_much(rule.path)
    for name in policy.capabilities:
        yield "capabilities", capability_fault(name)
    for device in policy.devices:
        inside = device.startswith("/dev/") and device.rstrip("/") != "/dev"
        yield "devices", mount_path_fault(device) or ("" if inside else f"{shown(device)} is not below /dev")
    for name in policy.unconfined:
        yield "unconfined", "" if name in UNCONFINED else f"{shown(name)} given; allowed are {', '.join(UNCONFINED)}"
    for user in (*filter(None, (policy.process_user,)), *policy.process_users):
        yield "processes", user_fault(user)
    for name in ("bind", *_LISTS, "process_users"):
        if len(getattr(policy, name)) > _LIST_LIMIT:
            yield name, f"has {len(getattr(policy, name))} entries; at most {_LIST_LIMIT} are allowed"


def _too_much(path: str) -> str:
    """The whole machine is not a directory to give away, since whoever may write it commands the machine."""
    return f"{path} is the whole machine: name directories that hold data" if not path.strip("/") else ""


class _Reader:
    """Takes the keys one by one, so that each fault is told."""

    def __init__(self, given: dict[object, object]) -> None:
        self._given = given
        self.faults: list[Fault] = []

    def policy(self) -> NodePolicy:
        for key in self._given:
            if key not in KEYS:
                near = get_close_matches(str(key), KEYS, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; allowed are {', '.join(KEYS)}"
                self.faults.append(Fault(path=shown(str(key)).strip("'"), text=f"is no key of a policy{hint}"))
        allowed, processes = self._processes()
        lists = {name: self._take(name, tuple[str, ...], ()) for name in _LISTS}
        switches = {name: self._take(name, bool, False) for name in _SWITCHES}
        return NodePolicy(
            bind=self._bind(),
            processes=allowed,
            process_user=processes.user,
            process_users=processes.users,
            **lists,
            **switches,
        )

    def _bind(self) -> tuple[BindRule, ...]:
        rules = self._take("bind", tuple[str | _Rule, ...], ())
        return tuple(
            BindRule(path=rule) if isinstance(rule, str) else BindRule(path=rule.path, read_only=rule.read_only)
            for rule in rules
        )

    def _processes(self) -> tuple[bool, _Processes]:
        given = self._take("processes", bool | _Processes, False)
        return (given, _Processes()) if isinstance(given, bool) else (True, given)

    def _take(self, key: str, kind: object, default: object):  # type: ignore[no-untyped-def]  # a type expression
        value = self._given.get(key)
        if value is None:
            return default
        try:
            return msgspec.convert(value, kind)
        except (msgspec.ValidationError, RecursionError) as error:
            self.faults.append(Fault(path=key, text=str(error)))
            return default
