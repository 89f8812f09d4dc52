"""What etcd says of its own health: versions, members, space and alarms. Reads only, and judges what it read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from aetcd import rpc

from common.errors import Invalid, Unavailable
from common.model.store import Finding
from controller.store.etcd_client import EtcdClient, Message, check_version
from controller.store.interface import Examination

DEFAULT_QUOTA_BYTES = 2 * 1024**3
"""Of etcd itself; servers before 3.6 do not tell theirs."""
_WARN_SHARE = 0.75
_MEND_SPACE = (
    "etcdctl compact REVISION (the one of `etcdctl endpoint status -w json`), then `etcdctl defrag --cluster`, then "
    "`etcdctl alarm disarm`; or start the members with a larger --quota-backend-bytes"
)


async def examine(client: EtcdClient, *, timeout_s: float) -> Examination:
    """Asks every server that the store's URL names. Raises `Unavailable` when none answers."""
    asked = await asyncio.gather(
        *(client.status_of(endpoint, timeout_s=timeout_s) for endpoint in client.endpoints), return_exceptions=True
    )
    statuses: dict[str, Message] = {}
    silent: dict[str, Unavailable] = {}
    for endpoint, answer in zip(client.endpoints, asked, strict=True):
        if isinstance(answer, Unavailable):
            silent[endpoint] = answer
        elif isinstance(answer, BaseException):
            raise answer
        else:
            statuses[endpoint] = answer
    if not statuses:
        raise next(iter(silent.values()))
    first = next(iter(statuses))
    members = await client.members_by(first, timeout_s=timeout_s)
    alarms = await client.alarms_by(first, timeout_s=timeout_s)
    findings = (*_of_servers(statuses, silent), *_of_members(members, statuses), *_of_alarms(alarms, members))
    return Examination(facts=_facts(statuses, members), findings=findings)


def _facts(statuses: Mapping[str, Message], members: Message) -> dict[str, str]:
    facts = {"members": ", ".join(sorted(member.name or f"{member.ID:x}" for member in members.members))}
    for endpoint, status in sorted(statuses.items()):
        role = "leader" if status.leader == status.header.member_id else "follower"
        size = f"{status.dbSize} bytes, {status.dbSizeInUse} of them in use"
        facts[f"etcd {endpoint}"] = f"{status.version}, {role}, {size}"
    return facts


def _of_servers(statuses: Mapping[str, Message], silent: Mapping[str, Unavailable]) -> Iterator[Finding]:
    for endpoint, error in sorted(silent.items()):
        yield Finding(
            error=False,
            subject=f"etcd {endpoint}",
            text=f"does not answer ({error})",
            why="with one member fewer the next loss may be the one that stops all writes",
            advice="start it, or take it out of --store",
        )
    for endpoint, status in sorted(statuses.items()):
        subject = f"etcd {endpoint}"
        try:
            check_version(endpoint, status.version)
        except Invalid as error:
            yield Finding(
                error=True,
                subject=subject,
                text=str(error),
                why="controllers refuse to use it",
                advice="upgrade this member to 3.4, or to 3.5.3 or later",
            )
        if not status.leader:
            yield Finding(
                error=True,
                subject=subject,
                text="knows no leader of the etcd cluster",
                why="without a quorum nothing can be written, and no controller can lead",
                advice="start the missing members; `etcdctl endpoint status` shows them",
            )
        if status.dbSize > _WARN_SHARE * DEFAULT_QUOTA_BYTES:
            yield Finding(
                error=False,
                subject=subject,
                text=f"its database has {status.dbSize} bytes; etcd allows {DEFAULT_QUOTA_BYTES} unless told otherwise",
                why="when it is full nothing can be written until somebody makes room by hand",
                advice=_MEND_SPACE,
            )


def _of_members(members: Message, statuses: Mapping[str, Message]) -> Iterator[Finding]:
    answering = {status.header.member_id for status in statuses.values()}
    count = len(members.members)
    if count > 1 and count % 2 == 0:
        yield Finding(
            error=False,
            subject="etcd",
            text=f"has {count} members",
            why=f"it stands the loss of {(count - 1) // 2} of them, as {count - 1} members would",
            advice="use three or five",
        )
    for member in members.members:
        if member.ID not in answering and len(statuses) > 1:
            yield Finding(
                error=False,
                subject=f"etcd member {member.name or f'{member.ID:x}'}",
                text="is not among those that --store names, or does not answer",
                why="controllers cannot turn to it when the others fail",
                advice=f"name it ({', '.join(member.clientURLs) or 'it has not started yet'}), or remove it",
            )


def _of_alarms(alarms: Message, members: Message) -> Iterator[Finding]:
    names = {member.ID: member.name for member in members.members}
    for alarm in alarms.alarms:
        space = alarm.alarm == rpc.AlarmType.NOSPACE
        yield Finding(
            error=True,
            subject=f"etcd member {names.get(alarm.memberID) or f'{alarm.memberID:x}'}",
            text="its space is used up (alarm NOSPACE)" if space else "its data is corrupt (alarm CORRUPT)",
            why="nothing can be written" if space else "it would serve wrong data",
            advice=_MEND_SPACE if space else "take the member out, delete its data and let it join anew",
        )
