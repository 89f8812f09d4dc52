"""Every parser of what comes from outside, over bytes, with what each begins with: for `tests.guided_fuzz`."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec

from agent.journal import FILE, Journal
from agent.network.relay.__main__ import orders_of
from client.compose import load
from client.compose.dotenv import read_variables
from client.compose.interpolate import interpolated
from client.compose.report import Report
from common import wire
from common.model.api import ApplyRequest
from common.model.epoch import Epoch
from common.model.job import Container, JobSpec, TaskSpec
from common.model.session import AgentMessage, ControllerMessage, Heartbeat, HeartbeatAck, Register
from controller.core.confine import confined
from controller.dispatcher.registration import faults
from controller.security.cluster_key import read_keys
from tests.property.test_compose_properties import ENVIRONMENT, VALID
from tests.property.test_hostile_input import GOOD, TEXTS

Parser: TypeAlias = Callable[[bytes], object]
Target: TypeAlias = tuple[Parser, Iterable[bytes]]

_IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
_FEED = (
    b'{"type":"feed","revision":1,"listeners":[{"address":"127.0.0.1","port":80,"protocol":"tcp","service":"x"}]}',
    b'{"type":"quit"}',
)
_SPEC = JobSpec(namespace="shop", name="web", task=TaskSpec(container=Container(image="shop:1")))


def _text(parse: Callable[[str], object]) -> Parser:
    return lambda content: parse(content.decode("utf-8", "surrogateescape"))


def _in_file(name: str, read: Callable[[Path], object]) -> Parser:
    def parse(content: bytes) -> object:
        with tempfile.TemporaryDirectory(dir=_IN_MEMORY) as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            path.chmod(0o600)
            return read(path)

    return parse


def _heard(content: bytes) -> None:
    body = wire.parse(AgentMessage, content).body
    if isinstance(body, Register):
        faults(body)
    confined(body)


def _told(content: bytes) -> None:
    async def read() -> None:
        reader = asyncio.StreamReader(limit=1 << 20)
        reader.feed_data(content + b"\n")
        reader.feed_eof()
        async for _ in orders_of(reader):
            pass

    asyncio.run(read())


def _journal(folder: Path) -> bytes:
    Journal.open(folder, random.Random(1)).close()
    return (folder / FILE).read_bytes()


def _begun_journal() -> bytes:
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY) as folder:
        return _journal(Path(folder))


def _encoded(value: msgspec.Struct) -> list[bytes]:
    return [wire.encode(value).SerializeToString()]


def _files() -> dict[str, Target]:
    return {
        "compose": (
            _in_file("compose.yaml", lambda path: load([path], project_name="test", environment=ENVIRONMENT)),
            [VALID],
        ),
        "variables": (
            _in_file(".env", lambda path: read_variables(path, ".env", ENVIRONMENT, Report())),
            [b'A=1\nB="$A ${SET:-x}"\n'],
        ),
        "journal": (_in_file(FILE, lambda path: _journal(path.parent)), [_begun_journal()]),
        "cluster keys": (_in_file("cluster.key", read_keys), [b"# keys\n" + b"a" * 43 + b"=\n"]),
    }


def _messages() -> dict[str, Target]:
    acknowledged = HeartbeatAck(sequence=1, next_period_s=1.0)
    return {
        "what an agent says": (_heard, _encoded(AgentMessage(body=Heartbeat(sequence=1)))),
        "what a controller says": (
            lambda content: wire.parse(ControllerMessage, content),
            _encoded(ControllerMessage(epoch=Epoch(), body=acknowledged)),
        ),
        "apply": (
            lambda content: wire.parse(ApplyRequest, content),
            _encoded(ApplyRequest(namespace="shop", specs=(_SPEC,))),
        ),
        "relay": (_told, _FEED),
    }


def targets() -> Mapping[str, Target]:
    """By name."""
    texts = [one.encode("utf-8", "replace") for one in GOOD]
    found: dict[str, Target] = {name: (_text(parse), texts) for name, parse in TEXTS.items()}
    found["interpolation"] = (
        _text(lambda content: interpolated(content, ENVIRONMENT, lambda _name: None)),
        [b"${SET:-x} $${A} ${B?no}"],
    )
    return found | _files() | _messages()
