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
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from common.errors import Fault, Invalid
from common.model import api, asset_calls, audit, joining, program, session, store, usage, volume
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


_Encode = Callable[[Any], Any]
_Decode = Callable[[Any], Any]


class _Field(msgspec.Struct, frozen=True, kw_only=True):
    """How one struct field travels: `put` writes it into a message, `take` reads it out of one."""

    name: str
    put: Callable[[Message, Any], None]
    take: Callable[[Message], Any]


class _Pair:
    """One struct and its message, with the compiled fields between them."""

    def __init__(self, struct: type[msgspec.Struct], message: type[Message]) -> None:
        self.struct = struct
        self.message = message
        self.fields: tuple[_Field, ...] = ()

    def encode(self, value: msgspec.Struct) -> Message:
        message = self.message()
        for field in self.fields:
            field.put(message, getattr(value, field.name))
        return message

    def fill(self, message: Message, value: msgspec.Struct) -> None:
        for field in self.fields:
            field.put(message, getattr(value, field.name))

    def decode(self, message: Message) -> msgspec.Struct:
        given = {}
        for field in self.fields:
            try:
                taken = field.take(message)
            except Invalid as error:
                raise Invalid(
                    Fault(path=f"{field.name}.{fault.path}".rstrip("."), text=fault.text) for fault in error.faults
                ) from None
            if taken is not _ABSENT:
                given[field.name] = taken
        try:
            return self.struct(**given)
        except TypeError as error:  # a required field of a message kind was absent
            raise Invalid(f"{self.struct.__name__}: {error}") from None


class _Absent:
    """Marks a field that the sender left out, so that the struct's own default applies."""


_ABSENT = _Absent()
_PAIRS: dict[type[msgspec.Struct], _Pair] = {}


def encode(value: msgspec.Struct) -> Message:
    """The message of a registered value."""
    return _PAIRS[type(value)].encode(value)


def decode(struct: type[StructT], message: Message) -> StructT:
    """The value of a message. Raises `Invalid` naming the field when a required part or a known enum is missing."""
    value = _PAIRS[struct].decode(message)
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
    pair.fields = tuple(
        _union(struct, name, hints[name], descriptor)
        if name in descriptor.oneofs_by_name
        else _field(struct, name, hints[name], descriptor.fields_by_name[name])
        for name in struct.__struct_fields__
    )
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


def _field(struct: type[msgspec.Struct], name: str, hint: Any, field: Any) -> _Field:
    where = f"{struct.__name__}.{name}"
    hint, optional = _strip_none(hint)
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _repeated(where, name, typing.get_args(hint)[0], field)
    if origin is dict:
        return _map(where, name, hint, field)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _nested(where, name, hint, field)
    if optional != field.has_presence:
        raise WireMismatch(f"{where}: optional on one side only")
    to_wire, from_wire = _single(where, hint, field)
    return _Field(name=name, put=_scalar_put(name, to_wire), take=_scalar_take(name, from_wire, optional=optional))


def _strip_none(hint: Any) -> tuple[Any, bool]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        if len(members) == 1:
            return members[0], True
    return hint, False


def _scalar_put(name: str, to_wire: _Encode) -> Callable[[Message, Any], None]:
    def put(message: Message, value: Any) -> None:
        if value is not None:
            setattr(message, name, to_wire(value))

    return put


def _scalar_take(name: str, from_wire: _Decode, *, optional: bool) -> Callable[[Message], Any]:
    if optional:
        return lambda message: from_wire(getattr(message, name)) if message.HasField(name) else _ABSENT
    return lambda message: from_wire(getattr(message, name))


def _single(where: str, hint: Any, field: Any) -> tuple[_Encode, _Decode]:
    """Encoder and decoder of one scalar, enum or struct element."""
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enumeration(where, hint, field)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        pair = _nested_pair(where, hint, field)
        return pair.encode, pair.decode
    if hint not in _SCALARS or field.type not in _SCALARS[hint]:
        raise WireMismatch(f"{where}: {hint} does not travel as protobuf field type {field.type}")
    return _same, _same


def _same(value: Any) -> Any:
    return value


def _enumeration(where: str, hint: type[enum.Enum], field: Any) -> tuple[_Encode, _Decode]:
    if field.enum_type is None or field.enum_type.name != hint.__name__:
        raise WireMismatch(f"{where}: is {hint.__name__}, but its message field is another enum or none")
    _compare_enum(hint, field.enum_type)
    numbers = {member: place for place, member in enumerate(hint, start=1)}
    members: dict[int, Any] = {place: member for member, place in numbers.items()}
    members[0] = _ABSENT  # the sender did not say: the struct's default

    def from_wire(number: int) -> Any:
        if number not in members:
            raise Invalid([Fault(path="", text=f"{hint.__name__} number {number} is unknown here (a newer sender?)")])
        return members[number]

    return numbers.__getitem__, from_wire


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


def _nested(where: str, name: str, hint: type[msgspec.Struct], field: Any) -> _Field:
    pair = _nested_pair(where, hint, field)

    def put(message: Message, value: Any) -> None:
        if value is not None:
            nested = getattr(message, name)
            nested.SetInParent()
            pair.fill(nested, value)

    def take(message: Message) -> Any:
        return pair.decode(getattr(message, name)) if message.HasField(name) else _ABSENT

    return _Field(name=name, put=put, take=take)


def _repeated(where: str, name: str, hint: Any, field: Any) -> _Field:
    if not field.is_repeated:
        raise WireMismatch(f"{where}: a tuple, but its message field is not repeated")
    to_wire, from_wire = _single(where, hint, field)

    def put(message: Message, value: Any) -> None:
        if value:
            getattr(message, name).extend([to_wire(item) for item in value])

    def take(message: Message) -> Any:
        return tuple([from_wire(item) for item in getattr(message, name)])

    return _Field(name=name, put=put, take=take)


def _map(where: str, name: str, hint: Any, field: Any) -> _Field:
    if field.message_type is None or not field.message_type.GetOptions().map_entry:
        raise WireMismatch(f"{where}: a dict, but its message field is not a map")
    entry = field.message_type.fields_by_name
    key_hint, value_hint = typing.get_args(hint)
    _single(where, key_hint, entry["key"])
    if value_hint not in _SCALARS:
        raise WireMismatch(f"{where}: maps hold scalars only")
    _single(where, value_hint, entry["value"])

    def put(message: Message, value: Any) -> None:
        if value:
            getattr(message, name).update(value)

    def take(message: Message) -> Any:
        return dict(getattr(message, name))

    return _Field(name=name, put=put, take=take)


def _union(struct: type[msgspec.Struct], name: str, hint: Any, descriptor: Any) -> _Field:
    where = f"{struct.__name__}.{name}"
    fields = {field.message_type.name: field for field in descriptor.oneofs_by_name[name].fields if field.message_type}
    members: Iterable[Any] = typing.get_args(hint)
    if {member.__name__ for member in members} != set(fields):
        raise WireMismatch(f"{where}: the union and the oneof hold different members")
    by_type = {member: (fields[member.__name__].name, _register(member)) for member in members}
    by_field = dict(by_type.values())

    def put(message: Message, value: Any) -> None:
        field_name, pair = by_type[type(value)]
        nested = getattr(message, field_name)
        nested.SetInParent()
        pair.fill(nested, value)

    def take(message: Message) -> Any:
        chosen = message.WhichOneof(name)
        if chosen is None:
            raise Invalid([Fault(path="", text="holds nothing this version knows (a newer sender?)")])
        return by_field[chosen].decode(getattr(message, chosen))

    return _Field(name=name, put=put, take=take)


def _structs_of(module: types.ModuleType) -> list[type[msgspec.Struct]]:
    return [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, msgspec.Struct) and item.__module__ == module.__name__
    ]


for _module in (session, api, usage, volume, program, store, joining, audit, asset_calls):
    for _struct in _structs_of(_module):
        _register(_struct)
