"""Value <-> message: one codec for all pairs, compiled at import from the structs and the protobuf descriptors.

A struct and its message are found by their common name and must have the same fields of the same kinds; an
enumeration's numbers must be the places of its members, counted from 1. Any difference raises `WireMismatch` when this
module is imported, so the two can never drift apart in production. Optional fields are proto3 `optional` (or message
presence), tuples are `repeated`, `dict[str, X]` is a map, a union of structs is a `oneof` of the field's name.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from common.errors import Invalid
from common.model import api, asset_calls, audit, joining, program, session, store, usage, volume
from common.wire_code import Code, Enumeration, Kind, Nested, Scalar
from protos.v1 import api_pb2, assets_pb2, dispatcher_pb2, model_pb2, store_pb2, trust_pb2

StructT = TypeVar("StructT", bound=msgspec.Struct)

_MODULES = (model_pb2, dispatcher_pb2, api_pb2, store_pb2, trust_pb2, assets_pb2)

_SCALARS: dict[type, frozenset[int]] = {
    int: frozenset({FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32}),
    float: frozenset({FieldDescriptor.TYPE_DOUBLE}),
    str: frozenset({FieldDescriptor.TYPE_STRING}),
    bool: frozenset({FieldDescriptor.TYPE_BOOL}),
    bytes: frozenset({FieldDescriptor.TYPE_BYTES}),
}


class WireMismatch(TypeError):
    """A struct and its message differ: correct one of them before anything runs."""


class _Pair:
    """One struct and its message, with the code between them."""

    def __init__(self, struct: type[msgspec.Struct], message: type[Message]) -> None:
        self.struct = struct
        self.message = message
        self.code: Code = Code(struct)

    def encode(self, value: msgspec.Struct) -> Message:
        message = self.message()
        self.code.fill(message, value)
        return message


_PAIRS: dict[type[msgspec.Struct], _Pair] = {}


def encode(value: msgspec.Struct) -> Message:
    """The message of a registered value."""
    return _PAIRS[type(value)].encode(value)


def decode(struct: type[StructT], message: Message) -> StructT:
    """The value of a message. Raises `Invalid` naming the field when a required part or a known enum is missing."""
    value = _PAIRS[struct].code.take(message)
    assert isinstance(value, struct)
    return value


def parse(struct: type[StructT], content: bytes) -> StructT:
    """The value of a message as it came over the network. Raises `Invalid`, also for bytes that are no such message."""
    try:
        message = _PAIRS[struct].message.FromString(content)
    except DecodeError:
        raise Invalid(f"these {len(content)} bytes are not a message {struct.__name__}") from None
    return decode(struct, message)


def message_type(struct: type[msgspec.Struct]) -> type[Message]:
    """The message class that a registered struct travels as."""
    return _PAIRS[struct].message


def pairs() -> dict[type[msgspec.Struct], type[Message]]:
    """All registered pairs, for the round-trip test."""
    return {struct: pair.message for struct, pair in _PAIRS.items()}


# --- compilation, at import


def _register(struct: type[msgspec.Struct]) -> _Pair:
    if struct in _PAIRS:
        return _PAIRS[struct]
    pair = _PAIRS[struct] = _Pair(struct, _message_named(struct.__name__))
    hints = typing.get_type_hints(struct)
    descriptor = pair.message.DESCRIPTOR
    names = set(struct.__struct_fields__)
    message_names = {_struct_field_of(field) for field in descriptor.fields}
    if names != message_names:
        raise WireMismatch(f"{struct.__name__}: only on one side: {sorted(names ^ message_names)}")
    for name in struct.__struct_fields__:
        if name in descriptor.oneofs_by_name:
            _union(pair, name, hints[name], descriptor)
        else:
            _field(pair, name, hints[name], descriptor.fields_by_name[name])
    pair.code.compile()
    return pair


def _struct_field_of(field: Any) -> str:
    """The struct field a message field belongs to: itself, or the union its oneof stands for.

    proto3 `optional` makes a synthetic oneof named `_field`; that one stands for nothing.
    """
    oneof = field.containing_oneof
    return str(field.name if oneof is None or oneof.name.startswith("_") else oneof.name)


def _message_named(name: str) -> type[Message]:
    for module in _MODULES:
        found = getattr(module, name, None)
        if isinstance(found, type) and issubclass(found, Message):
            return found
    raise WireMismatch(f"{name}: no message of this name in protos/v1")


def _field(pair: _Pair, name: str, hint: Any, field: Any) -> None:
    where = f"{pair.struct.__name__}.{name}"
    hint, optional = _strip_none(hint)
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not field.is_repeated:
            raise WireMismatch(f"{where}: a tuple, but its message field is not repeated")
        pair.code.repeated(name, _single(where, typing.get_args(hint)[0], field))
        return
    if origin is dict:
        _check_map(where, hint, field)
        pair.code.map(name)
        return
    kind = _single(where, hint, field)
    if not isinstance(kind, Nested) and optional != field.has_presence:
        raise WireMismatch(f"{where}: optional on one side only")
    pair.code.single(name, kind, optional=optional)


def _strip_none(hint: Any) -> tuple[Any, bool]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        if len(members) == 1:
            return members[0], True
    return hint, False


def _single(where: str, hint: Any, field: Any) -> Kind:
    """How one scalar, enum or struct travels."""
    if field.is_repeated and field.message_type is not None and field.message_type.GetOptions().map_entry:
        raise WireMismatch(f"{where}: not a dict, but its message field is a map")
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enumeration(where, hint, field)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return Nested(code=_nested_pair(where, hint, field).code)
    if hint not in _SCALARS or field.type not in _SCALARS[hint]:
        raise WireMismatch(f"{where}: {hint} does not travel as protobuf field type {field.type}")
    return Scalar()


def _enumeration(where: str, hint: type[enum.Enum], field: Any) -> Enumeration:
    if field.enum_type is None or field.enum_type.name != hint.__name__:
        raise WireMismatch(f"{where}: is {hint.__name__}, but its message field is another enum or none")
    _compare_enum(hint, field.enum_type)
    return Enumeration(members=hint)


def _compare_enum(hint: type[enum.Enum], descriptor: Any) -> None:
    prefix = "".join("_" + letter if letter.isupper() else letter.upper() for letter in hint.__name__).lstrip("_")
    expected = {f"{prefix}_UNSPECIFIED": 0} | {
        f"{prefix}_{member.name}": place for place, member in enumerate(hint, start=1)
    }
    found = {value.name: value.number for value in descriptor.values}
    if expected != found:
        raise WireMismatch(f"{hint.__name__}: {sorted(set(expected.items()) ^ set(found.items()))} on one side only")


def _nested_pair(where: str, hint: type[msgspec.Struct], field: Any) -> _Pair:
    if field.message_type is None or field.message_type.name != hint.__name__:
        raise WireMismatch(f"{where}: is {hint.__name__}, but its message field is another message or none")
    return _register(hint)


def _check_map(where: str, hint: Any, field: Any) -> None:
    if field.message_type is None or not field.message_type.GetOptions().map_entry:
        raise WireMismatch(f"{where}: a dict, but its message field is not a map")
    entry = field.message_type.fields_by_name
    key_hint, value_hint = typing.get_args(hint)
    _single(where, key_hint, entry["key"])
    if value_hint not in _SCALARS:
        raise WireMismatch(f"{where}: maps hold scalars only")
    _single(where, value_hint, entry["value"])


def _union(pair: _Pair, name: str, hint: Any, descriptor: Any) -> None:
    where = f"{pair.struct.__name__}.{name}"
    fields = {field.message_type.name: field for field in descriptor.oneofs_by_name[name].fields if field.message_type}
    members: Iterable[Any] = typing.get_args(hint)
    if {member.__name__ for member in members} != set(fields):
        raise WireMismatch(f"{where}: the union and the oneof hold different members")
    pair.code.union(name, {fields[member.__name__].name: _register(member).code for member in members})


def _structs_of(module: types.ModuleType) -> list[type[msgspec.Struct]]:
    return [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, msgspec.Struct) and item.__module__ == module.__name__
    ]


for _module in (session, api, usage, volume, program, store, joining, audit, asset_calls):
    for _struct in _structs_of(_module):
        _register(_struct)
