"""Which key a record lies under, and the JSON it lies there as; readable with etcdctl.

    jobs/<job id>                      Job
    versions/<job id>/<version>        JobVersion
    tasks/<task id>                    Task
    slots/<job id>/<slot>              Slot
    nodes/<node id>                    Node
    quotas/<namespace>                 Quota
    authority                          Authority
    next-key                           NextKey
    tokens/<token id>                  JoinToken
    users/<name>                       User
    enrolments/<kind>-<id>             Enrolment
    denied/<serial>                    Denied
    assets/<kind>/<namespace>/<name>   Asset
    contents/<kind>/<namespace>/<name>/<digest>   AssetVersion
    restoring                          while a restore is under way, or was broken off (see `restore`)

The backends put their own prefix before these and keep their bookkeeping (leader, generation, last commit) beside them.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from common.errors import Invalid
from common.model.asset import Asset, AssetVersion
from common.model.job import Job, JobVersion
from common.model.node import Node
from common.model.quota import Quota
from common.model.task import Slot, Task
from common.model.trust import Authority, Denied, Enrolment, JoinToken, NextKey, User

RESTORING = "restoring"
AUTHORITY = "authority"
NEXT_KEY = "next-key"
CONTENTS = "contents/"
"""Of configs and secrets: the only records that may be large."""

Trust: TypeAlias = Authority | NextKey | JoinToken | User | Enrolment | Denied
Record: TypeAlias = Job | JobVersion | Task | Slot | Node | Quota | Trust | Asset | AssetVersion

_KINDS: dict[str, type[Record]] = {
    "jobs": Job,
    "versions": JobVersion,
    "tasks": Task,
    "slots": Slot,
    "nodes": Node,
    "quotas": Quota,
    "authority": Authority,
    "next-key": NextKey,
    "tokens": JoinToken,
    "users": User,
    "enrolments": Enrolment,
    "denied": Denied,
    "assets": Asset,
    "contents": AssetVersion,
}
_encoder = msgspec.json.Encoder()
_decoders = {folder: msgspec.json.Decoder(kind) for folder, kind in _KINDS.items()}


def key_of(record: Record) -> str:
    """The key a record is stored under; never depends on anything that changes."""
    match record:
        case Job():
            return f"jobs/{record.id}"
        case JobVersion():
            return f"versions/{record.job_id}/{record.version:08d}"
        case Task():
            return f"tasks/{record.id}"
        case Slot():
            return f"slots/{record.job_id}/{record.slot:06d}"
        case Node():
            return f"nodes/{record.id}"
        case Quota():
            return f"quotas/{record.namespace}"
        case Asset():
            return f"assets/{record.key}"
        case AssetVersion():
            return f"{CONTENTS}{record.key}/{record.digest}"
        case Authority() | NextKey() | JoinToken() | User() | Enrolment() | Denied():
            return _trust_key(record)


def _trust_key(record: Trust) -> str:
    match record:
        case Authority():
            return AUTHORITY
        case NextKey():
            return NEXT_KEY
        case JoinToken():
            return f"tokens/{record.id}"
        case User():
            return f"users/{record.name}"
        case Enrolment():
            return f"enrolments/{record.name}"
        case Denied():
            return f"denied/{record.serial}"


def encode(record: Record) -> bytes:
    return _encoder.encode(record)


def decode(key: str, value: bytes) -> Record:
    """The record under `key`. Raises `Invalid` naming the key when it cannot be read; unknown fields are ignored."""
    if key == RESTORING:
        raise Invalid(
            "a restore into this store was begun and not finished, so it holds parts of two states: repeat "
            "`podium store restore`, which begins again"
        )
    decoder = _decoders.get(key.split("/", 1)[0])
    if decoder is None:
        raise Invalid(f"store key {key!r}: of no kind this version knows")
    try:
        return decoder.decode(value)
    except msgspec.DecodeError as error:
        raise Invalid(f"store key {key!r}: {error}") from None


def check_record(key: str, value: bytes) -> Record:
    """As `decode`, and the record must be the one its key names."""
    record = decode(key, value)
    if key_of(record) != key:
        raise Invalid(f"store key {key!r}: holds the record of {key_of(record)!r}")
    return record
