"""Which texts name an image, and what their parts are."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Invalid
from common.references import parse_reference

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "domain", "path", "tag", "digest"),
    [
        ("shop", "docker.io", "library/shop", "", ""),
        ("shop:1.4", "docker.io", "library/shop", "1.4", ""),
        ("team/shop", "docker.io", "team/shop", "", ""),
        ("localhost/shop:x", "localhost", "shop", "x", ""),
        ("localhost:5000/shop", "localhost:5000", "shop", "", ""),
        ("registry.example:5000/a/b/c:t_1", "registry.example:5000", "a/b/c", "t_1", ""),
        ("Registry/shop", "Registry", "shop", "", ""),
        ("[2001:db8::1]:5000/shop", "[2001:db8::1]:5000", "shop", "", ""),
        (f"shop@{DIGEST}", "docker.io", "library/shop", "", DIGEST),
        (f"a.b/c__d-e--f.g:1@{DIGEST}", "a.b", "c__d-e--f.g", "1", DIGEST),
    ],
)
def test_parts_of_a_good_reference(text: str, domain: str, path: str, tag: str, digest: str) -> None:
    reference = parse_reference(text)
    assert (reference.domain, reference.path, reference.tag, reference.digest) == (domain, path, tag, digest)
    assert str(reference) == text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "name is missing"),
        (":1", "name is missing"),
        ("a/../../containers/victim?force=1#", "name `"),
        ("Shop", "name `Shop`"),
        ("shop:", "tag ``"),
        ("shop:1.4\n", "tag `"),
        ("shop\n", "name `"),
        ("shop: 1", "tag ` 1`"),
        ("shop:" + "x" * 129, "tag `"),
        ("shop@sha256:abc", "digest `sha256:abc`"),
        ("shop@" + DIGEST.upper(), "digest `"),
        ("a//b", "name `"),
        ("/shop", "name `"),
        ("shop/", "name `"),
        ("-bad.host/shop", "registry `-bad.host`"),
        ("host:port/shop", "registry `host:port`"),
        ("a" * 256, "256 characters"),
        ("f" * 64, "image id"),
        ("shop_-x", "name `"),
        ("shöp", "name `"),
        ("shop:١", "tag `"),
    ],
)
def test_a_bad_reference_is_refused_by_its_part(text: str, named: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_reference(text)
    assert named in str(refused.value)


def test_canonical_is_the_same_for_two_spellings_of_one_image() -> None:
    assert parse_reference("shop").canonical == parse_reference("docker.io/library/shop:latest").canonical
    assert parse_reference(f"shop@{DIGEST}").canonical == f"docker.io/library/shop@{DIGEST}"


@given(st.text(max_size=300))
def test_whatever_is_accepted_is_safe_inside_a_url(text: str) -> None:
    try:
        reference = parse_reference(text)
    except Invalid:
        return
    assert str(reference) == text
    assert ".." not in text
    assert re.fullmatch(r"[A-Za-z0-9._:/@\[\]-]+", text)


@given(st.from_regex(r"[a-z0-9]{1,20}(/[a-z0-9]{1,20}){0,3}(:[\w.-]{1,20})?", fullmatch=True))
def test_accepted_text_is_what_the_parts_say(text: str) -> None:
    try:
        reference = parse_reference(text)
    except Invalid:
        return
    assert parse_reference(reference.canonical).canonical == reference.canonical
