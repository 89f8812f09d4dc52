"""Sealed content opens only with its key, in its place, unchanged; key files are the owner's alone."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Invalid
from common.model.trust import Sealed
from controller.security.cluster_key import begin_keys, read_keys, write_keys
from controller.security.sealing import ClusterKey, KeyRing, new_cluster_key

OLD, NEW = ClusterKey(secret=b"o" * 32), ClusterKey(secret=b"n" * 32)


@given(st.binary(max_size=300), st.text(max_size=40))
def test_what_is_sealed_opens_again(content: bytes, place: str) -> None:
    ring = KeyRing([NEW])
    sealed = ring.seal(place, content)
    assert ring.open(place, sealed) == content
    assert not content or len(content) < 4 or content not in sealed.ciphertext


def test_one_seal_is_never_like_another() -> None:
    ring = KeyRing([NEW])
    assert ring.seal("a", b"x") != ring.seal("a", b"x")


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_noticed(place: int, flip: int) -> None:
    ring = KeyRing([NEW])
    sealed = ring.seal("a", b"the content")
    changed = bytearray(sealed.ciphertext)
    changed[place % len(changed)] ^= flip
    with pytest.raises(Invalid, match="was changed"):
        ring.open("a", msgspec.structs.replace(sealed, ciphertext=bytes(changed)))


def test_it_opens_in_its_own_place_only() -> None:
    ring = KeyRing([NEW])
    with pytest.raises(Invalid, match="copied from another place"):
        ring.open("secrets/shop/b", ring.seal("secrets/shop/a", b"x"))


def test_a_nonce_of_another_length_is_no_crash() -> None:
    with pytest.raises(Invalid):
        KeyRing([NEW]).open("a", Sealed(key_id=NEW.id, nonce=b"", ciphertext=b"x"))


def test_another_key_is_named_and_not_told() -> None:
    sealed = KeyRing([OLD]).seal("a", b"x")
    with pytest.raises(Invalid, match=f"{OLD.id}.*{NEW.id}") as error:
        KeyRing([NEW]).open("a", sealed)
    assert OLD.secret.decode() not in str(error.value)


def test_a_new_key_in_front_opens_the_old_and_seals_anew() -> None:
    ring = KeyRing([NEW, OLD])
    rewrapped = ring.rewrapped("a", KeyRing([OLD]).seal("a", b"x"))
    assert rewrapped is not None
    assert rewrapped.key_id == NEW.id
    assert KeyRing([NEW]).open("a", rewrapped) == b"x"
    assert ring.rewrapped("a", rewrapped) is None


def test_no_key_is_refused() -> None:
    with pytest.raises(Invalid, match="no cluster key"):
        KeyRing([])


# --- the file


def test_keys_are_written_for_the_owner_alone_and_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "cluster.key"
    keys = (new_cluster_key(), new_cluster_key())
    old = os.umask(0)
    try:
        write_keys(path, keys)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_keys(path) == keys
    assert list(path.parent.iterdir()) == [path]


def test_no_file_holds_no_keys(tmp_path: Path) -> None:
    assert read_keys(tmp_path / "cluster.key") == ()


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    write_keys(path, [NEW])
    path.chmod(0o640)
    with pytest.raises(Invalid, match=r"may be read by others \(mode 0640\): chmod 600"):
        read_keys(path)


@pytest.mark.parametrize("content", ["", "# nothing\n", "short\n", "!!!\n", "A" * 70_000])
def test_a_file_that_holds_no_key_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "cluster.key"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(Invalid, match=r"cluster\.key"):
        read_keys(path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    write_keys(tmp_path / "real", [NEW])
    (tmp_path / "cluster.key").symlink_to("real")
    with pytest.raises(Invalid, match="cannot read"):
        read_keys(tmp_path / "cluster.key")


def test_a_ring_learns_a_key_before_it_seals_under_it() -> None:
    ring = KeyRing([OLD])
    before = ring.seal("p", b"x")
    ring.know(NEW)
    assert ring.seal("p", b"x").key_id == OLD.id
    assert ring.open("p", KeyRing([NEW]).seal("p", b"y")) == b"y"
    ring.use(NEW.id)
    assert ring.keys == (NEW, OLD)
    assert ring.seal("p", b"x").key_id == NEW.id
    assert ring.open("p", before) == b"x"


def test_of_controllers_that_begin_at_once_one_writes_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    first = begin_keys(path)
    assert begin_keys(path) == first == read_keys(path)
