"""Who may do what: one row for each call of the API, and one rule that reads it.

A right is a verb on a kind of thing; roles are ranks, each of which may do what those below it may. A user whose role
counts in some namespaces only has no right to what concerns the cluster, but for the rows that are `open`: whoever
deploys must be able to see why something does not fit. (Verbs on kinds are Kubernetes' RBAC; ranks instead of its rule
sets, since a list of who may do what has to be read by a person.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias, assert_never

import msgspec

from common.identity import Identity
from common.model.trust import Kind, Role


class Everybody(msgspec.Struct, frozen=True, kw_only=True):
    """Of a cluster without access control: whoever reaches it commands it."""


class Nobody(msgspec.Struct, frozen=True, kw_only=True):
    """Who showed nothing."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """An agent or a controller, by its certificate."""

    identity: Identity
    serial: str


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """A user, by its token."""

    name: str
    role: Role
    namespaces: tuple[str, ...] = ()
    """Empty: everywhere."""


Caller: TypeAlias = Everybody | Nobody | Machine | Person


class Right(msgspec.Struct, frozen=True, kw_only=True):
    verb: str
    kind: str
    least: Role | None
    """The lowest role that has it; None: everybody has, known or not."""
    namespaced: bool = False
    """Whether it is about things of a namespace."""
    open: bool = False
    """Not namespaced, and still for users whose role counts in some namespaces only."""
    machines: frozenset[Kind] = frozenset()
    """Whose certificates give it too."""
    writes: bool = False
    """Whether the audit log tells of it."""


WHOLE_CLUSTER = None
"""Instead of namespaces: what is asked concerns all of them."""

_RANKS = {role: rank for rank, role in enumerate(Role)}


def refusal(caller: Caller, right: Right, namespaces: frozenset[str] | None) -> str:
    """Why `caller` may not, for people; empty when it may. `namespaces` are those of the things that are concerned."""
    if right.least is None:
        return ""
    match caller:
        case Everybody():
            return ""
        case Nobody():
            return f"nobody may {right.verb} {right.kind} without a token or a certificate"
        case Machine(identity=identity):
            if identity.kind in right.machines:
                return ""
            return f"the certificate of {identity.kind.value} {identity.id} gives no right to {right.verb} {right.kind}"
        case Person():
            return _refused_person(caller, right, right.least, namespaces)
        case _:
            assert_never(caller)


def hopeless(caller: Caller, right: Right) -> str:
    """Why no request for it can be allowed, whatever it is about; empty when that depends on what it is about."""
    mine = frozenset(caller.namespaces) if isinstance(caller, Person) and right.namespaced else frozenset()
    return refusal(caller, right, mine or WHOLE_CLUSTER)


def _refused_person(person: Person, right: Right, least: Role, namespaces: frozenset[str] | None) -> str:
    if _RANKS[person.role] < _RANKS[least]:
        return f"{person.name} is {person.role.value}; to {right.verb} {right.kind} takes {least.value}"
    if not person.namespaces or right.open:
        return ""
    where = ", ".join(person.namespaces)
    if not right.namespaced:
        what = f"{right.verb} {right.kind}"
        return f"{person.name} is {person.role.value} in {where} only, and to {what} concerns the whole cluster"
    if namespaces is None:
        return f"{person.name} is {person.role.value} in {where} only: name one of them (--namespace)"
    outside = sorted(namespaces - set(person.namespaces))
    if outside:
        return f"{person.name} is {person.role.value} in {where} only, not in {', '.join(outside)}"
    return ""


def _job(verb: str, least: Role, *, writes: bool = False) -> Right:
    return Right(verb=verb, kind="job", least=least, namespaced=True, writes=writes)


def _cluster(verb: str, kind: str, least: Role, *, writes: bool = False, seen: bool = False) -> Right:
    return Right(verb=verb, kind=kind, least=least, open=seen, writes=writes)


def _asset(verb: str, least: Role, *, writes: bool = False) -> Right:
    """Of a config or a secret. What is in a secret nobody may read, so there is no right to it."""
    return Right(verb=verb, kind="asset", least=least, namespaced=True, writes=writes)


_READ_JOB = _job("read", Role.VIEWER)
_PLAN_JOB = _job("plan", Role.VIEWER)
_READ_NODE = _cluster("read", "node", Role.VIEWER, seen=True)
_READ_CLUSTER = _cluster("read", "cluster", Role.VIEWER, seen=True)

RIGHTS: Mapping[str, Right] = {
    "Dispatcher/Session": Right(verb="serve", kind="node", least=Role.ADMIN, machines=frozenset({Kind.AGENT})),
    "Jobs/Apply": _job("apply", Role.DEPLOYER, writes=True),
    "Jobs/Plan": _PLAN_JOB,
    "Jobs/List": _READ_JOB,
    "Jobs/Inspect": _READ_JOB,
    "Jobs/Tasks": _READ_JOB,
    "Jobs/InspectTask": _READ_JOB,
    "Jobs/Scale": _job("scale", Role.DEPLOYER, writes=True),
    "Jobs/Restart": _job("restart", Role.DEPLOYER, writes=True),
    "Jobs/Rollback": _job("rollback", Role.DEPLOYER, writes=True),
    "Jobs/Pause": _job("pause", Role.DEPLOYER, writes=True),
    "Jobs/Resume": _job("resume", Role.DEPLOYER, writes=True),
    "Jobs/Promote": _job("promote", Role.DEPLOYER, writes=True),
    "Jobs/Stop": _job("stop", Role.DEPLOYER, writes=True),
    "Jobs/Remove": _job("remove", Role.DEPLOYER, writes=True),
    "Jobs/Move": _cluster("move", "task", Role.OPERATOR, writes=True),
    "Jobs/Why": _READ_JOB,
    "Jobs/Watch": _READ_JOB,
    "Jobs/Logs": _job("logs", Role.VIEWER),
    "Jobs/Exec": _job("exec", Role.DEPLOYER, writes=True),
    "Nodes/List": _READ_NODE,
    "Nodes/Inspect": _cluster("inspect", "node", Role.VIEWER),
    "Nodes/Cordon": _cluster("cordon", "node", Role.OPERATOR, writes=True),
    "Nodes/Uncordon": _cluster("uncordon", "node", Role.OPERATOR, writes=True),
    "Nodes/Drain": _cluster("drain", "node", Role.OPERATOR, writes=True),
    "Nodes/Remove": _cluster("remove", "node", Role.ADMIN, writes=True),
    "Nodes/PlanDrain": _cluster("plan", "node", Role.VIEWER),
    "Nodes/DrainStatus": _READ_NODE,
    "Nodes/Volumes": Right(verb="read", kind="volume", least=Role.VIEWER, namespaced=True),
    "Nodes/RemoveVolume": Right(verb="remove", kind="volume", least=Role.OPERATOR, namespaced=True, writes=True),
    "Nodes/Usage": Right(verb="read", kind="usage", least=Role.VIEWER, namespaced=True),
    "Cluster/Status": _READ_CLUSTER,
    "Cluster/Events": Right(verb="read", kind="event", least=Role.VIEWER, namespaced=True),
    "Cluster/ReleaseBrake": _cluster("release", "brake", Role.OPERATOR, writes=True),
    "Cluster/WhatIf": _cluster("simulate", "cluster", Role.VIEWER),
    "Cluster/Rebalance": _cluster("rebalance", "cluster", Role.OPERATOR, writes=True),
    "Cluster/PlanRebalance": _cluster("simulate", "cluster", Role.VIEWER),
    "Cluster/SetQuota": _cluster("set", "quota", Role.OPERATOR, writes=True),
    "Cluster/Quotas": Right(verb="read", kind="quota", least=Role.VIEWER, namespaced=True),
    "Assets/Put": _asset("put", Role.DEPLOYER, writes=True),
    "Assets/List": _asset("read", Role.VIEWER),
    "Assets/Read": _asset("read", Role.VIEWER),
    "Assets/Remove": _asset("remove", Role.DEPLOYER, writes=True),
    "Store/Backup": _cluster("backup", "store", Role.ADMIN, writes=True),
    "Store/Check": _cluster("check", "store", Role.OPERATOR),
    "Store/StopStrays": _cluster("stop", "stray", Role.OPERATOR, writes=True),
    "Trust/FindDoors": Right(verb="find", kind="cluster", least=None),
    "Trust/Join": Right(verb="join", kind="cluster", least=None, writes=True),
    "Trust/Renew": Right(
        verb="renew", kind="certificate", least=Role.ADMIN, machines=frozenset({Kind.AGENT}), writes=True
    ),
    "Trust/Recover": Right(verb="recover", kind="certificate", least=None, writes=True),
    "Trust/WhoAmI": Right(verb="ask", kind="right", least=Role.VIEWER, open=True),
    "Trust/CanI": Right(verb="ask", kind="right", least=Role.VIEWER, open=True),
    "Trust/CreateToken": _cluster("create", "token", Role.ADMIN, writes=True),
    "Trust/Tokens": _cluster("read", "token", Role.ADMIN),
    "Trust/RevokeToken": _cluster("revoke", "token", Role.ADMIN, writes=True),
    "Trust/AddUser": _cluster("add", "user", Role.ADMIN, writes=True),
    "Trust/Users": _cluster("read", "user", Role.ADMIN),
    "Trust/RotateUser": _cluster("rotate", "user", Role.ADMIN, writes=True),
    "Trust/RemoveUser": _cluster("remove", "user", Role.ADMIN, writes=True),
    "Trust/RotateAuthority": _cluster("rotate", "authority", Role.ADMIN, writes=True),
    "Trust/RotateKey": _cluster("rotate", "key", Role.ADMIN, writes=True),
    "Trust/Authority": _cluster("read", "authority", Role.OPERATOR),
    "Trust/Audit": _cluster("read", "audit", Role.ADMIN),
}
"""By `Service/Method`, without the package."""


PRIVILEGED = _job("privilege", Role.OPERATOR)
"""Besides the right to apply, plan or exec, for tasks that are let out of their container: privileged mode, the node's
namespaces, devices, more capabilities, the engine. What of it a node gives at all is its policy's to say."""


def right_named(verb: str, kind: str) -> Right | None:
    """The right that a person means; of several with one name the one that takes least."""
    found = [right for right in (*RIGHTS.values(), PRIVILEGED) if (right.verb, right.kind) == (verb, kind)]
    return min(found, key=lambda right: -1 if right.least is None else _RANKS[right.least], default=None)


def names() -> Iterable[tuple[str, str]]:
    """All rights as (verb, kind), sorted."""
    return sorted({(right.verb, right.kind) for right in (*RIGHTS.values(), PRIVILEGED)})
