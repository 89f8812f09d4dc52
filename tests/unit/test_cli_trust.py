"""Tokens, users, rights and contexts at the command line: what is asked, what is shown, and what never is."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.app import app
from cli.command import Surroundings
from client.contexts import Contexts, parse_contexts
from client.fake import FakeTransport
from client.settings import load
from client.transport import ADD_USER, CAN_I, CREATE_TOKEN, REMOVE_USER, REVOKE_TOKEN, TOKENS, USERS, WHO_AM_I
from common.errors import Invalid
from common.model.joining import (
    AddedUser,
    AddUserRequest,
    Caller,
    CanIRequest,
    CreatedToken,
    Permission,
    TokenList,
    TokenView,
    UserList,
    UserView,
)
from common.model.trust import Kind, Role
from common.tokens import USER, Token

SECRET = "s" * 32
ANN = str(Token(purpose=USER, id="ann", secret=SECRET, pin="ab" * 32))
TOKEN = TokenView(id="t1", kind=Kind.AGENT, created_at_s=0.0, expires_at_s=3_600.0, uses_left=2, created_by="admin")
VERA = UserView(name="vera", role=Role.VIEWER, namespaces=("shop",))


class Podium:
    def __init__(self, home: Path) -> None:
        self.fake = FakeTransport()
        self.environ = {"HOME": str(home)}
        self.file = home / ".config" / "podium" / "config.yaml"

    def run(self, *arguments: str) -> Result:
        around = Surroundings(environ=self.environ, transport=self.fake)
        return CliRunner().invoke(app, list(arguments), obj=around, catch_exceptions=False)

    def asked(self, method: str) -> Any:
        return next(asked.request for asked in self.fake.asked if asked.method == method)

    def contexts(self) -> Contexts:
        return parse_contexts(self.file.read_text(), str(self.file))


@pytest.fixture
def podium(tmp_path: Path) -> Podium:
    return Podium(tmp_path)


def test_a_token_goes_to_stdout_alone(podium: Podium) -> None:
    podium.fake.answer(CREATE_TOKEN, CreatedToken(token="podium-join.x", view=TOKEN))
    result = podium.run("token", "create", "--ttl", "1h30m", "--uses", "2")
    assert (result.exit_code, result.stdout) == (0, "podium-join.x\n")
    assert "joins an agent 2 times, until 1970-01-01T01:00:00" in result.stderr
    asked = podium.asked("Trust/CreateToken")
    assert (asked.kind, asked.ttl_s, asked.uses) == (Kind.AGENT, 5_400.0, 2)
    assert asked.idempotency_key


def test_a_token_goes_into_a_file_of_its_owner_alone(podium: Podium, tmp_path: Path) -> None:
    podium.fake.answer(CREATE_TOKEN, CreatedToken(token="podium-join.x", view=TOKEN))
    path = tmp_path / "join.token"
    result = podium.run("token", "create", "--out", str(path))
    assert (result.exit_code, result.stdout) == (0, "")
    assert path.read_text() == "podium-join.x\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_time_that_is_none_is_refused_before_anything_is_asked(podium: Podium) -> None:
    result = podium.run("token", "create", "--ttl", "soon")
    assert result.exit_code == 2
    assert "ttl: 'soon' is not a span of time" in result.stderr
    assert not podium.fake.asked


def test_tokens_are_listed_and_revoked(podium: Podium) -> None:
    podium.fake.answer(TOKENS, TokenList(tokens=(TOKEN,)))
    podium.fake.answer(REVOKE_TOKEN, TokenList())
    assert json.loads(podium.run("token", "ls", "-o", "json").stdout) == [
        {
            "id": "t1",
            "role": "agent",
            "uses_left": 2,
            "created_at": None,
            "expires_at": "1970-01-01T01:00:00.000Z",
            "created_by": "admin",
        }
    ]
    assert "t1" in podium.run("token", "ls").stdout
    assert "token t1 revoked" in podium.run("token", "revoke", "t1").stdout
    assert podium.asked("Trust/RevokeToken").id == "t1"


def test_a_user_is_added_with_a_role_where_it_counts(podium: Podium) -> None:
    podium.fake.answer(ADD_USER, AddedUser(token=ANN, view=VERA))
    result = podium.run("user", "add", "vera", "--role", "viewer", "-n", "shop", "--ttl", "7d")
    assert (result.exit_code, result.stdout) == (0, f"{ANN}\n")
    assert "vera is viewer in shop" in result.stderr
    asked: AddUserRequest = podium.asked("Trust/AddUser")
    assert (asked.name, asked.role, asked.namespaces, asked.ttl_s) == ("vera", Role.VIEWER, ("shop",), 7 * 86_400.0)


def test_users_are_listed_and_removed(podium: Podium) -> None:
    podium.fake.answer(USERS, UserList(users=(VERA,)))
    podium.fake.answer(REMOVE_USER, UserList())
    assert podium.run("user", "ls", "-o", "name").stdout == "vera\n"
    assert "never" in podium.run("user", "ls").stdout
    assert "user vera removed" in podium.run("user", "rm", "vera").stdout


def test_one_is_told_as_whom_one_is_known(podium: Podium) -> None:
    podium.fake.answer(WHO_AM_I, Caller(cluster_id="c1", kind="user", name="ann", role=Role.ADMIN))
    assert "user ann" in podium.run("whoami").stdout
    assert json.loads(podium.run("whoami", "-o", "json").stdout)["role"] == "admin"
    podium.fake.answer(WHO_AM_I, Caller(kind="anybody"))
    assert "no access control" in podium.run("whoami").stdout


@pytest.mark.parametrize(("refusal", "code", "said"), [("", 0, "yes\n"), ("ann is viewer", 1, "no\n")])
def test_one_may_ask_what_one_may(podium: Podium, refusal: str, code: int, said: str) -> None:
    podium.fake.answer(CAN_I, Permission(refusal=refusal))
    result = podium.run("can-i", "apply", "job", "-n", "shop")
    assert (result.exit_code, result.stdout) == (code, said)
    assert refusal in result.stderr
    assert podium.asked("Trust/CanI") == CanIRequest(verb="apply", kind="job", namespace="shop")


# --- contexts


def test_contexts_are_added_used_shown_and_removed(podium: Podium) -> None:
    assert podium.run("context", "add", "home", "--controller", "127.0.0.1:7077").exit_code == 0
    added = podium.run("context", "add", "far", "--controller", "10.0.0.1:7077,10.0.0.2:7077", "--insecure")
    assert "home stays in use" in added.stderr
    assert podium.contexts().current == "home"
    assert podium.run("context", "use", "far").exit_code == 0
    shown = json.loads(podium.run("context", "ls", "-o", "json").stdout)
    assert [(one["name"], one["current"], one["controllers"]) for one in shown] == [
        ("far", True, ["10.0.0.1:7077", "10.0.0.2:7077"]),
        ("home", False, ["127.0.0.1:7077"]),
    ]
    assert podium.run("context", "rm", "far").exit_code == 0
    assert podium.contexts().current == ""
    assert list(podium.contexts().contexts) == ["home"]


def test_a_context_that_is_not_there_is_named_with_those_that_are(podium: Podium) -> None:
    podium.run("context", "add", "home", "--controller", "127.0.0.1:7077")
    for verb in ("use", "rm"):
        result = podium.run("context", verb, "away")
        assert result.exit_code == 1
        assert "no context 'away' (there: home)" in result.stderr


def test_a_context_with_a_token_is_looked_up_first(podium: Podium) -> None:
    result = podium.run("context", "add", "x", "--controller", "127.0.0.1:1", "--token", ANN)
    assert result.exit_code == 1
    assert "no controller shows that it is of the token's cluster" in result.stderr
    assert not podium.file.exists()


@pytest.mark.parametrize("token", ["nonsense", ANN[:-1]])
def test_a_token_that_is_none_is_refused_and_not_repeated(podium: Podium, token: str) -> None:
    result = podium.run("context", "add", "x", "--controller", "127.0.0.1:1", "--token", token)
    assert result.exit_code == 2
    assert SECRET not in result.stderr + result.stdout


def test_lists_of_contexts_never_show_a_token(podium: Podium) -> None:
    podium.file.parent.mkdir(parents=True)
    podium.file.write_text(json.dumps({"contexts": {"x": {"controllers": ["127.0.0.1:1"], "token": ANN}}}))
    for form in ("table", "json", "yaml"):
        shown = podium.run("context", "ls", "-o", form).stdout
        assert SECRET not in shown
        assert "ann" in shown


def test_the_file_of_contexts_is_its_owners_alone(podium: Podium) -> None:
    podium.run("context", "add", "home", "--controller", "127.0.0.1:7077")
    assert stat.S_IMODE(podium.file.stat().st_mode) == 0o600


# --- as whom one asks


def settings(podium: Podium, **environ: str) -> Any:
    return load({**podium.environ, **environ})


def test_the_token_of_the_context_goes_with_its_authority(podium: Podium) -> None:
    podium.file.parent.mkdir(parents=True)
    context = {"controllers": ["10.0.0.1:7077"], "token": ANN, "authority": "PEM"}
    podium.file.write_text(json.dumps({"current": "x", "contexts": {"x": context}}))
    known = settings(podium)
    assert (known.token, known.authority, known.insecure) == (ANN, "PEM", False)
    other = settings(podium, PODIUM_TOKEN="another")
    assert (other.token, other.authority) == ("another", "")
    assert settings(podium, PODIUM_INSECURE="1").token == ""


def test_without_a_token_other_machines_are_not_asked_in_the_clear(podium: Podium) -> None:
    with pytest.raises(Invalid):
        settings(podium, PODIUM_CONTROLLER="10.0.0.1:7077")
    assert settings(podium, PODIUM_CONTROLLER="10.0.0.1:7077", PODIUM_TOKEN=ANN).token == ANN
