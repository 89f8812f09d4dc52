"""Tokens, users and callers as JSON and as tables. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from cli.render_json import Plain, rfc3339
from cli.render_table import Grid, clipped
from common.model.audit import AuditRecord
from common.model.joining import AuthorityView, Caller, TokenView, UserView

__all__ = [
    "audit_grid",
    "audit_record",
    "authority",
    "authority_grid",
    "caller",
    "caller_grid",
    "rfc3339",
    "token",
    "token_grid",
    "user",
    "user_grid",
]


def token(view: TokenView) -> Plain:
    return {
        "id": view.id,
        "role": view.kind.value,
        "uses_left": view.uses_left,
        "created_at": rfc3339(view.created_at_s),
        "expires_at": rfc3339(view.expires_at_s),
        "created_by": view.created_by,
    }


def token_grid(plain: Iterable[Plain]) -> Grid:
    return Grid(
        headings=("TOKEN", "ROLE", "USES LEFT", "EXPIRES", "CREATED BY"),
        rows=tuple(
            (one["id"], one["role"], str(one["uses_left"]), one["expires_at"], one["created_by"]) for one in plain
        ),
    )


def user(view: UserView) -> Plain:
    return {
        "name": view.name,
        "role": view.role.value,
        "namespaces": list(view.namespaces),
        "created_at": rfc3339(view.created_at_s),
        "expires_at": rfc3339(view.expires_at_s),
    }


def user_grid(plain: Iterable[Plain]) -> Grid:
    return Grid(
        headings=("USER", "ROLE", "NAMESPACES", "EXPIRES"),
        rows=tuple(
            (one["name"], one["role"], ", ".join(one["namespaces"]) or "(all)", one["expires_at"] or "never")
            for one in plain
        ),
    )


def caller(known: Caller) -> Plain:
    return {
        "cluster": known.cluster_id,
        "kind": known.kind,
        "name": known.name,
        "role": known.role.value if known.role else "",
        "namespaces": list(known.namespaces),
        "expires_at": rfc3339(known.expires_at_s),
    }


def caller_grid(plain: Plain) -> Grid:
    if plain["kind"] == "anybody":
        text = "anybody: this cluster has no access control, whoever reaches it may do everything"
        return Grid(headings=("YOU ARE",), rows=((text,),))
    return Grid(
        headings=("YOU ARE", "ROLE", "NAMESPACES", "EXPIRES", "CLUSTER"),
        rows=(
            (
                f"{plain['kind']} {plain['name']}".strip(),
                plain["role"],
                ", ".join(plain["namespaces"]) or "(all)",
                plain["expires_at"] or "never",
                plain["cluster"],
            ),
        ),
    )


def audit_record(record: AuditRecord) -> Plain:
    """As in the lines of the log's file."""
    return {
        "time": rfc3339(record.time_s),
        "caller": record.caller,
        "address": record.address,
        "verb": record.verb,
        "kind": record.kind,
        "namespaces": list(record.namespaces),
        "names": list(record.names),
        "allowed": not record.refusal,
        "refusal": record.refusal,
    }


def audit_grid(plain: Iterable[Plain]) -> Grid:
    return Grid(
        headings=("TIME", "WHO", "FROM", "DID", "WHAT", "REFUSED BECAUSE"),
        rows=tuple(
            (
                one["time"],
                one["caller"],
                one["address"],
                f"{one['verb']} {one['kind']}",
                clipped(" ".join(one["names"]) or " ".join(one["namespaces"])),
                one["refusal"],
            )
            for one in plain
        ),
    )


def authority(view: AuthorityView) -> Plain:
    return {
        "cluster": view.cluster_id,
        "fingerprint": view.fingerprint,
        "created_at": rfc3339(view.created_at_s),
        "replacing": view.believed > 1,
        "earlier": view.retired,
        "nodes": view.nodes,
        "waiting": list(view.waiting),
        "key": view.key_id,
        "next_key": view.next_key_id,
    }


def authority_grid(plain: Plain) -> Grid:
    waiting, nodes = plain["waiting"], plain["nodes"]
    how_far = f"{nodes - len(waiting)} of {nodes} nodes"
    if waiting:
        how_far += f" (waits for {clipped(', '.join(waiting), 60)})"
    key = f"{plain['key']}, next {plain['next_key']}" if plain["next_key"] else str(plain["key"])
    return Grid(
        headings=("AUTHORITY", "SINCE", "CERTIFICATES", "EARLIER", "CLUSTER KEY"),
        rows=(
            (
                str(plain["fingerprint"])[:16],
                str(plain["created_at"]),
                f"replacing: {how_far}" if plain["replacing"] else how_far,
                str(plain["earlier"]),
                key,
            ),
        ),
    )
