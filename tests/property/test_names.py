"""No name carries a line break, a NUL, a letter that looks like another, or a way into another path, wherever in it."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.container_rules import user_fault
from common.engine_options import capability_fault
from common.errors import Invalid
from common.mounts import mount_path_fault, volume_fault
from common.names import (
    device_kind_fault,
    host_fault,
    ip_of,
    machine_fault,
    name_fault,
    node_name_fault,
    path_fault,
)
from common.rules import label_map
from common.tokens import JOIN, parse_token
from controller.dispatcher.registration import _ID

SIGNS = ["\n", "\r", "\0", "\t", "\x1b", "\x7f", "а", "е", "ｏ", "\u202e", "\u200b", "\u2028", "\ufeff", "é", "\ud800"]
"""Breaks, what cannot be seen, and letters that look like others."""
PATHS = ["/", "../", "/..", "\\", "%2f", "?", "#", ":"]


def label_fault(key: str) -> str:
    return " ".join(text for _, text in label_map("labels", {key: "x"}))


def token_fault(identifier: str) -> str:
    try:
        parse_token(f"{JOIN}.{identifier}.{'x' * 32}.{'y' * 42}A", JOIN)
    except Invalid:
        return "refused"
    return ""


def node_id_fault(identifier: str) -> str:
    return "" if _ID.fullmatch(identifier) else "refused"


NAMES: dict[str, tuple[Callable[[str], str], str, list[str]]] = {
    "job, namespace, service, user, config, secret": (name_fault, "web-1", [*SIGNS, *PATHS, ".", "_", "A"]),
    "node": (node_name_fault, "node-1.eu", [*SIGNS, *PATHS, "_", "A"]),
    "id of a node": (node_id_fault, "n1", [*SIGNS, *PATHS, "."]),
    "address of a node": (machine_fault, "node-1.eu", [*SIGNS, "/", "../", "\\", "%2f", "?", "#"]),
    "host of a route": (host_fault, "shop.example.com", [*SIGNS, *PATHS, "_", "*"]),
    "path of a route": (path_fault, "/shop/web", [*SIGNS, "//", "\\", "%2f", "?", "#", ":"]),
    "volume": (volume_fault, "shop_data", [*SIGNS, *PATHS]),
    "path to mount": (mount_path_fault, "/srv/data", [*SIGNS[:6], "/../", "/./"]),
    "kind of device": (device_kind_fault, "gpu", [*SIGNS, *PATHS, ".", "_", "A"]),
    "capability": (capability_fault, "NET_RAW", [*SIGNS, *PATHS, "a", "1"]),
    "user of a container": (user_fault, "www-data", [*SIGNS, "/", "../", "\\", "?", "#"]),
    "label": (label_fault, "zone", [*SIGNS, "="]),
    "token": (token_fault, "abc123", [*SIGNS, *PATHS, ".", "_", "A"]),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_with_anything_odd_in_it_is_refused(kind: str) -> None:
    fault, good, odd = NAMES[kind]
    assert not fault(good), "the good one is refused"
    for sign in odd:
        for at in range(len(good) + 1):
            assert fault(good[:at] + sign + good[at:]), f"{sign!r} at {at} is let through"


@pytest.mark.parametrize("kind", NAMES)
def test_what_is_let_through_is_plain(kind: str) -> None:
    fault, _, _ = NAMES[kind]

    @settings(max_examples=150, deadline=None)
    @given(st.text(st.one_of(st.sampled_from(string.ascii_lowercase + "019-._/ " + "".join(SIGNS)), st.characters())))
    def let_through(name: str) -> None:
        if not fault(name):
            assert name.isascii() or kind == "path to mount"
            assert name.isprintable()
            assert ".." not in name.split("/")

    let_through()


def test_an_address_has_no_zone_since_that_may_be_any_text() -> None:
    assert ip_of("fe80::1") is not None
    for text in ("fe80::1%eth0", "fe80::1%\nx", "1.2.3", "", "١.2.3.4", "1.2.3.4\n"):
        assert ip_of(text) is None
