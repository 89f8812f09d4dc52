"""A cluster on this machine is known to the commands of the user who started it, for as long as it runs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from client.contexts import Context
from client.local import LocalContext, folder, found, told
from client.settings import load
from common.errors import Invalid

ADDRESS = "127.0.0.1:7077"
KNOWN = Context(token="TOKEN", authority="PEM")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


def test_it_is_known_while_it_runs_and_leaves_nothing(environ: dict[str, str], tmp_path: Path) -> None:
    with told(environ, [ADDRESS], KNOWN):
        (file,) = folder(environ).iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        settings = load(environ)
        assert (settings.token, settings.authority, settings.controllers) == ("TOKEN", "PEM", (ADDRESS,))
        assert load(environ, controller="localhost:7077").token == "TOKEN"
        assert load(environ, controller="127.0.0.1:7079,127.0.0.1:7077").token == "TOKEN"
        assert load(environ, controller="127.0.0.1:7079").token == ""
    assert load(environ).token == ""
    assert list(tmp_path.iterdir()) == []


def test_several_are_told_apart_by_their_ports(environ: dict[str, str]) -> None:
    other = Context(token="OTHER", authority="PEM")
    with told(environ, [ADDRESS], KNOWN), told(environ, ["127.0.0.1:8077", "10.0.0.1:8077"], other):
        assert load(environ).token == "TOKEN"
        assert load(environ, controller="127.0.0.1:8077").token == "OTHER"
        assert load(environ, controller="10.0.0.1:8077").token == "OTHER"


def test_one_in_the_clear_is_known_as_that(environ: dict[str, str]) -> None:
    with told(environ, [ADDRESS], Context(insecure=True)):
        assert load(environ).insecure
        assert load(environ).token == ""


def test_what_a_person_says_counts_more(environ: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "contexts.yaml"
    config.write_text('current: ann\ncontexts: {ann: {controllers: ["127.0.0.1:7077"], token: ANN, authority: A}}\n')
    with told(environ, [ADDRESS], KNOWN):
        assert load(environ | {"PODIUM_TOKEN": "GIVEN"}).token == "GIVEN"
        assert load(environ | {"PODIUM_INSECURE": "1"}).token == ""
        contexts = environ | {"PODIUM_CONFIG": str(config)}
        assert load(contexts).token == "ANN"
        assert load(contexts | {"PODIUM_CONTROLLER": "127.0.0.1:7077"}).token == "ANN"
    with told(environ, ["127.0.0.1:8077"], KNOWN):  # that context is another cluster's
        assert load(contexts, controller="127.0.0.1:8077").token == "TOKEN"


def test_what_a_killed_one_left_counts_no_more(environ: dict[str, str]) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with told(environ, [ADDRESS], KNOWN):
        (file,) = folder(environ).iterdir()
        left = msgspec.json.decode(file.read_bytes(), type=LocalContext)
        for gone in (
            msgspec.structs.replace(left, process_id=ended.pid),
            msgspec.structs.replace(left, process_began="1"),  # the id is another process's by now
        ):
            file.write_bytes(msgspec.json.encode(gone))
            assert found(environ, [ADDRESS]) is None
        with told(environ, ["127.0.0.1:8077"], KNOWN):  # tidies up behind it
            assert [path.name for path in folder(environ).iterdir()] == ["127.0.0.1_8077.json"]


def test_a_file_that_others_may_read_is_refused(environ: dict[str, str]) -> None:
    with told(environ, [ADDRESS], KNOWN):
        (file,) = folder(environ).iterdir()
        file.chmod(0o644)
        with pytest.raises(Invalid, match="may be read by others"):
            load(environ)
        file.chmod(0o600)


def test_a_successor_is_not_forgotten_with_its_predecessor(environ: dict[str, str]) -> None:
    with told(environ, [ADDRESS], KNOWN):
        (file,) = folder(environ).iterdir()
        successor = LocalContext(process_id=os.getpid(), process_began="1", context=KNOWN)
        file.write_bytes(msgspec.json.encode(successor))
    assert file.exists()
