"""Tokens survive being copied, pin an authority, and tell their secret to nobody but whom they are shown to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Invalid
from common.tokens import JOIN, USER, Token, parse_token
from controller.core.secrets import digest_of, matches
from controller.security.tokens import new_secret


def token(secret: str = "") -> Token:
    return Token(purpose=JOIN, id="t1", secret=secret or new_secret(), pin="ab" * 32)


@given(st.binary(min_size=24, max_size=24), st.binary(min_size=32, max_size=32))
def test_a_token_reads_as_it_was_written(secret: bytes, pin: bytes) -> None:
    made = Token(purpose=JOIN, id="t1", secret=new_secret(lambda _: secret), pin=pin.hex())
    assert parse_token(f" {made}\n", JOIN) == made


def test_a_secret_is_shown_by_str_only() -> None:
    made = token()
    assert made.secret in str(made)
    assert made.secret not in repr(made)
    assert made.secret not in f"{[made]}"


@given(st.text(max_size=200))
def test_anything_else_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(Invalid) as error:
        parse_token(text, JOIN)
    assert len(text) < 12 or text not in str(error.value)


def test_a_token_for_something_else_says_what_it_is_for() -> None:
    with pytest.raises(Invalid, match=r"for joining the cluster .* not for using"):
        parse_token(str(token()), USER)


def test_a_cut_token_is_refused() -> None:
    with pytest.raises(Invalid, match="copied whole"):
        parse_token(str(token())[:-1], JOIN)


def test_only_the_secret_matches_its_digest() -> None:
    secret = new_secret()
    assert matches(digest_of(secret), secret)
    assert not matches(digest_of(secret), new_secret())
    assert secret not in digest_of(secret)
