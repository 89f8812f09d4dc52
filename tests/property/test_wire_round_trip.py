"""Every registered value survives the wire unchanged; what a message lacks or invents is told by name."""

from __future__ import annotations

import enum
import types
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import wire
from common.errors import Invalid
from common.model.job import Container, JobSpec, TaskSpec
from common.model.session import AgentMessage, ControllerMessage, Heartbeat
from common.model.task import TaskState, TaskStatus

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(min_value=-(2**63), max_value=2**63 - 1),
    float: st.floats(allow_nan=False),
    str: TEXT,
    bool: st.booleans(),
    bytes: st.binary(max_size=20),
}


def values(hint: Any, most: int = 2) -> st.SearchStrategy[Any]:
    """Any value of a field's type, with at most so many items in its collections, and fewer in those within: a job has
    so many fields that chance runs out. What is empty deep down is a value of its own elsewhere."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in SCALARS:
        return SCALARS[hint]
    if hint is type(None):
        return st.none()
    if origin is tuple:
        return st.lists(values(arguments[0], max(0, most - 1)), max_size=most).map(tuple)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1], max(0, most - 1)), max_size=most)
    if isinstance(hint, types.UnionType):
        return st.one_of([values(argument, most) for argument in arguments])
    if issubclass(hint, enum.Enum):
        return st.sampled_from(list(hint))
    return structs(hint, most)


def structs(struct: type[msgspec.Struct], most: int = 2) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(struct)
    return st.builds(struct, **{name: values(hints[name], most) for name in struct.__struct_fields__})


@pytest.mark.parametrize("struct", sorted(wire.pairs(), key=lambda struct: struct.__name__), ids=lambda s: s.__name__)
def test_every_pair_survives_the_round_trip(struct: type[msgspec.Struct]) -> None:
    @settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
    @given(structs(struct))
    def round_trip(value: msgspec.Struct) -> None:
        message = wire.message_type(struct).FromString(wire.encode(value).SerializeToString())
        assert wire.decode(struct, message) == value

    round_trip()


def test_both_directions_of_a_session_are_covered() -> None:
    assert {AgentMessage, ControllerMessage} <= set(wire.pairs())


def test_an_enum_of_a_newer_sender_is_refused_by_name() -> None:
    message = wire.encode(TaskStatus(state=TaskState.RUNNING))
    message.state = 999  # type: ignore[attr-defined]
    with pytest.raises(Invalid) as raised:
        wire.decode(TaskStatus, message)
    assert "state: TaskState number 999 is unknown here" in str(raised.value)


def test_a_command_of_a_newer_sender_is_refused_politely() -> None:
    message = wire.message_type(ControllerMessage).FromString(b"\xfa\x7f\x00")  # an unknown field only
    with pytest.raises(Invalid) as raised:
        wire.decode(ControllerMessage, message)
    assert "body: holds nothing this version knows" in str(raised.value)


def test_unknown_fields_are_ignored() -> None:
    raw = wire.encode(AgentMessage(body=Heartbeat(sequence=3))).SerializeToString() + b"\xfa\x7f\x00"
    message = wire.message_type(AgentMessage).FromString(raw)
    assert wire.decode(AgentMessage, message).body == Heartbeat(sequence=3)


def test_what_a_sender_left_out_takes_the_default_of_the_value() -> None:
    message = wire.message_type(JobSpec)(namespace="shop", name="web")
    message.task.container.image = "web:1"  # type: ignore[attr-defined]
    spec = wire.decode(JobSpec, message)
    assert spec.mode is JobSpec(namespace="", name="", task=TaskSpec(container=Container())).mode
    assert spec.task.restart == TaskSpec(container=Container()).restart


def test_a_missing_required_part_is_named() -> None:
    with pytest.raises(Invalid) as raised:
        wire.decode(JobSpec, wire.message_type(JobSpec)(namespace="shop", name="web"))
    assert "JobSpec" in str(raised.value)
    assert "task" in str(raised.value)


class TestAPairThatDiffers:
    """The codec refuses at import; these are the refusals."""

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ([("generation", int)], "term"),
            ([("generation", int), ("term", int), ("extra", int)], "extra"),
            ([("generation", int), ("term", str)], "Epoch.term"),
            ([("generation", int), ("term", int | None)], "Epoch.term"),
            ([("generation", int), ("term", tuple[int, ...])], "Epoch.term"),
        ],
    )
    def test_in_its_fields(self, fields: list[tuple[str, Any]], named: str) -> None:
        struct = msgspec.defstruct("Epoch", fields, kw_only=True, frozen=True)
        with pytest.raises(wire.WireMismatch, match=named):
            wire._register(struct)

    def test_in_an_enum(self) -> None:
        state = enum.Enum("TaskState", {"ASSIGNED": "assigned", "PENDING": "pending"})
        with pytest.raises(wire.WireMismatch, match="TASK_STATE_ASSIGNED"):
            wire._compare_enum(state, wire.message_type(TaskStatus).DESCRIPTOR.fields_by_name["state"].enum_type)
