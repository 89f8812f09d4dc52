"""Whatever comes from outside becomes a value or an error of ours, soon and within bounds; nothing else ever escapes.

Compose files, their variables and `.env` files are in `test_compose_properties.py`, schedules in
`test_schedule_properties.py`, backups in `tests/unit/test_archive.py`. `make fuzz` tries a hundred times as many.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from contextlib import suppress

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.core.environment import expand
from agent.journal import FILE, Journal
from agent.network.feed import Feed
from agent.network.relay.__main__ import orders_of
from agent.network.relay.service import Places
from agent.network.relay.switchboard import Switchboard
from agent.policy_file import policy_of
from agent.runtime.docker_request import configuration
from common import wire
from common.certificates import facts, requested_key
from common.constraints import parse_attribute, parse_constraint
from common.errors import PodiumError
from common.identity import parse_identity
from common.model.api import ApplyRequest
from common.model.job import JobSpec
from common.model.session import AgentMessage, ControllerMessage, Register
from common.policy import asks
from common.references import parse_reference
from common.tokens import JOIN, USER, parse_token
from common.validation import faults
from controller.api.requests import check_apply
from controller.core.confine import confined
from controller.dispatcher.registration import faults as node_faults
from controller.security.cluster_key import read_keys
from tests.property.test_wire_round_trip import structs
from tests.runtime_rigs import DockerRig

TIMES = int(os.environ.get("PODIUM_FUZZ", "1"))
"""So many times the examples of the suite: `make fuzz`."""
SOON = settings(max_examples=60 * TIMES, deadline=None, suppress_health_check=list(HealthCheck))
"""What takes for ever ends by the suite's own time-out: a slow machine is no fault."""
ODD = "\n\r\t\0 .:/@=!<>(),'\"\\{}$-_%~ао\u202e\u200b\ufeff０\ud800\U0001f433"
NOISE = st.text(st.one_of(st.sampled_from(ODD), st.sampled_from("abcz019AZ"), st.characters()), max_size=300)
GOOD = (
    "node.labels.zone == eu",
    "node.attributes.kernel >= 5.10",
    "node.name not in (a, b)",
    "registry.example.com:5000/shop/web:1.4@sha256:" + "a" * 64,
    "podium-join.a32afe30f32dedb7b90a." + "x" * 32 + "." + "y" * 43,
    "spiffe://cluster/agent/n1",
    "bind: [/srv/data, {path: /srv/certs, read_only: true}]\nprocesses: {user: tasks}\n",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    "echo ${NAME} $${NAME} $$${NAME}",
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """Something good with something odd in it."""
    text = draw(st.sampled_from(GOOD))
    for _ in range(draw(st.integers(0, 4))):
        at, length = draw(st.integers(0, len(text))), draw(st.integers(0, 8))
        text = text[:at] + draw(NOISE) + text[at + length :]
    return text


DEEP = ("(" * 5_000, "[" * 5_000, "{a: " * 2_000, "- " * 5_000, "a" * 100_000, "&a [*a]")
HOSTILE = st.one_of(NOISE, damaged(), st.sampled_from(DEEP))

TEXTS: dict[str, Callable[[str], object]] = {
    "constraint": parse_constraint,
    "attribute": parse_attribute,
    "image reference": parse_reference,
    "join token": lambda text: parse_token(text, JOIN),
    "user token": lambda text: parse_token(text, USER),
    "identity": parse_identity,
    "certificate": facts,
    "signing request": requested_key,
    "policy": lambda text: policy_of(text, "policy.yaml"),
    "reference to a variable": lambda text: expand(text, {"NAME": "${NAME}"}),
}


@pytest.mark.parametrize("parser", TEXTS)
def test_any_text_is_a_value_or_an_error_of_ours(parser: str) -> None:
    @SOON
    @given(HOSTILE)
    def parse(text: str) -> None:
        with suppress(PodiumError):
            TEXTS[parser](text)

    parse()


def test_an_alias_of_an_alias_of_a_policy_stays_small() -> None:
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + number)}: &{chr(98 + number)} [{', '.join(['*' + chr(97 + number)] * 9)}]\n" for number in range(8)
    )
    with pytest.raises(PodiumError, match="is no key of a policy"):
        policy_of(laughs, "policy.yaml")
    with pytest.raises(PodiumError):
        policy_of("bind: &a [*a]", "policy.yaml")


# --- the wire


@pytest.mark.parametrize("struct", [AgentMessage, ControllerMessage, ApplyRequest], ids=lambda struct: struct.__name__)
def test_any_bytes_are_a_message_or_an_error_of_ours(struct: type[msgspec.Struct]) -> None:
    @settings(SOON, max_examples=20 * TIMES)
    @given(st.one_of(st.binary(max_size=500), damaged_message(struct)))
    def parse(content: bytes) -> None:
        with suppress(PodiumError):
            wire.parse(struct, content)

    parse()


@st.composite
def damaged_message(draw: st.DrawFn, struct: type[msgspec.Struct]) -> bytes:
    content = bytearray(wire.encode(draw(structs(struct))).SerializeToString())
    for _ in range(draw(st.integers(0, 4))):
        if content:
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


@settings(SOON, max_examples=20 * TIMES)
@given(structs(JobSpec))
def test_any_job_has_faults_or_can_be_asked_of_an_engine(spec: JobSpec) -> None:
    asks(spec.task.container)
    with suppress(PodiumError):
        check_apply(ApplyRequest(namespace=spec.namespace, specs=(spec,)))
    if not faults(spec) and spec.task.container.image:
        with suppress(PodiumError):
            configuration(DockerRig().request(spec.task.container))


@settings(SOON, max_examples=30 * TIMES)
@given(structs(AgentMessage))
def test_whatever_an_agent_says_is_confined_or_refused(message: AgentMessage) -> None:
    if isinstance(message.body, Register):
        node_faults(message.body)
    with suppress(PodiumError):
        once = confined(message.body)
        assert confined(once) == once, "what was cut stays as it is"


# --- files and sockets


@settings(SOON, max_examples=20 * TIMES)
@given(st.data())
def test_a_damaged_journal_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal.open(folder, random.Random(1))
    journal.remember_controllers(("a:1", "b:2"))
    journal.close()
    content = bytearray((folder / FILE).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / FILE).write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2, 100, 0]))])
    with suppress(PodiumError):
        Journal.open(folder, random.Random(1)).close()


@SOON
@given(st.one_of(st.binary(max_size=300), st.sampled_from([b"", b"{}", b"[[[[" * 1_000, b'{"keys":[]}'])))
def test_any_file_holds_cluster_keys_or_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("keys") / "cluster.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with suppress(PodiumError):
        read_keys(path)


LINES = st.one_of(
    st.binary(max_size=200),
    structs(Feed).map(msgspec.json.encode),
    st.sampled_from([b"[" * 100_000, b'{"type":"feed","revision":1e999}', b'{"type":"quit","x":1}', b"null", b"{}"]),
)


@settings(SOON, max_examples=40 * TIMES)
@given(st.lists(LINES, max_size=4))
@example(
    [b'{"type":"feed","revision":1,"listeners":[{"address":"127.0.0.1","port":70000,"protocol":"tcp","service":"x"}]}']
)
def test_the_relay_outlives_whatever_its_socket_is_told(lines: list[bytes]) -> None:
    async def told() -> None:
        reader = asyncio.StreamReader(limit=1 << 20)
        reader.feed_data(b"\n".join(lines) + b"\n")
        reader.feed_eof()
        switchboard = Switchboard(lambda: None, Places(64))
        try:
            async for order in orders_of(reader):
                if isinstance(order, Feed):
                    await switchboard.carry_out(order)
            switchboard.state()
        finally:
            switchboard.close()

    asyncio.run(told())
