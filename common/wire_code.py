"""The code between one struct and its message: written as Python source from what its fields are, compiled at import.

A walk over descriptions of fields costs a third of what a leader of thousands of nodes has; straight code costs a
tenth. What repeats (the specs of a job's tasks, what runtimes say of themselves) is remembered as its bytes. Knows
kinds of fields; that both sides have the same ones is checked in `common.wire`. (Methods compiled from source are
attrs' and dataclasses' way.)
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeAlias

import msgspec
from google.protobuf.message import Message

from common.errors import Fault, Invalid

REPEATING = frozenset({"TaskSpec", "RuntimeStatus"})
"""Names of structs whose values come again and again, equal or the very same."""
REMEMBERED = 1_024
"""Values of such a struct that are kept in each direction; then all are forgotten."""
REMEMBERED_BYTES = 4_096
"""Larger ones are not kept: 1,024 of the largest specs would be 256 MB."""


class Scalar(msgspec.Struct, frozen=True):
    """Travels as it is."""


class Enumeration(msgspec.Struct, frozen=True):
    """Travels as its member's place, counted from 1; 0: the sender did not say."""

    members: type[enum.Enum]


class Nested(msgspec.Struct, frozen=True):
    """A message of its own."""

    code: Code


Kind: TypeAlias = Scalar | Enumeration | Nested


class Code:
    """See the module. Filled field by field in the struct's order, then compiled.

    `fill` writes a value into an empty message; `take` reads one out of a message and raises `Invalid` naming the field
    when a required part is missing or an enum's number is unknown.
    """

    fill: Callable[[Message, Any], None]
    take: Callable[[Message], Any]

    def __init__(self, struct: type[msgspec.Struct]) -> None:
        self.struct = struct
        self._defaults = {field.name: field for field in msgspec.structs.fields(struct)}
        self._names: dict[str, Any] = {"Invalid": Invalid, "under": _under, "missing": _missing, "struct": struct}
        self._fill: list[str] = []
        self._take: list[str] = []
        self._required: list[str] = []

    def single(self, name: str, kind: Kind, *, optional: bool) -> None:
        place = f"message.{name}"
        match kind:
            case Nested(code=code):
                fill, take = self._name(name, "fill", code.filler()), self._name(name, "take", code.taker())
                self._put(name, "is not None", f"nested = {place}; nested.SetInParent(); {fill}(nested, field)")
                self._get(name, f"{take}({place}) if message.HasField({name!r}) else {self._default(name)}")
            case Enumeration(members=members):
                self._put(name, "is not None", f"{place} = {self._numbers(name, members)}[field._value_]")
                found = f"{self._members(name, members)}[{place}]"
                self._get(name, found if not optional else self._present(name, found))
            case Scalar() if optional:
                self._put(name, "is not None", f"{place} = field")
                self._get(name, self._present(name, place))
            case Scalar():
                self._put(name, "", f"{place} = field")  # what is 0 or empty is so without being set
                self._get(name, place)

    def repeated(self, name: str, kind: Kind) -> None:
        place = f"message.{name}"
        match kind:
            case Nested(code=code):
                fill, take = self._name(name, "fill", code.filler()), self._name(name, "take", code.taker())
                self._put(name, "", f"add = {place}.add", f"for item in field: {fill}(add(), item)")
                self._get(name, f"tuple([{take}(item) for item in {place}])")
            case Enumeration(members=members):
                numbers = self._numbers(name, members)
                self._put(name, "", f"{place}.extend([{numbers}[item._value_] for item in field])")
                self._get(name, f"tuple([{self._members(name, members)}[item] for item in {place}])")
            case Scalar():
                self._put(name, "", f"{place}.extend(field)")
                self._get(name, f"tuple({place})")

    def map(self, name: str) -> None:
        self._put(name, "", f"message.{name}.update(field)")
        self._get(name, f"dict(message.{name})")

    def union(self, name: str, members: Mapping[str, Code]) -> None:
        """One of several structs, by the names of their fields in the message."""
        by_type = self._name(name, "types", {code.struct: (field, code.filler()) for field, code in members.items()})
        by_field = self._name(name, "fields", _Fields((field, code.taker()) for field, code in members.items()))
        put = f"chosen, fill = {by_type}[type(field)]"
        self._put(
            name,
            "is not None",
            f"{put}; nested = getattr(message, chosen); nested.SetInParent()",
            "fill(nested, field)",
        )
        take = f"chosen = message.WhichOneof({name!r}); taken_{name} = {by_field}[chosen](getattr(message, chosen))"
        self._take.append(f"at = {name!r}; {take}")

    def compile(self) -> None:
        fields = ", ".join(f"{name}=taken_{name}" for name in self.struct.__struct_fields__)
        fill = ["def fill(message, value):", *(f"    {line}" for line in self._fill), "    return None"]
        take = ["def take(message):", "    at = ''", "    try:", *(f"        {line}" for line in self._take)]
        take += ["        pass", "    except Invalid as error:", "        raise under(at, error) from None"]
        whole = self.struct.__name__
        take += [f"    if taken_{name} is None: missing({whole!r}, {name!r})" for name in self._required]
        take += [f"    return struct({fields})"]
        source = compile("\n".join((*fill, *take)), f"<wire code of {self.struct.__name__}>", "exec")
        exec(source, self._names)  # noqa: S102 - written above, of names of our own structs
        self.fill, self.take = self._names["fill"], self._names["take"]
        if self.struct.__name__ in REPEATING:
            self.fill, self.take = _remembering(self.fill, self.take)

    # --- pieces of source

    def _put(self, name: str, condition: str, *lines: str) -> None:
        self._fill.append(f"field = value.{name}")
        self._fill.append(f"if field {condition}:")
        self._fill += [f"    {line}" for line in lines]

    def _get(self, name: str, expression: str) -> None:
        self._take.append(f"at = {name!r}; taken_{name} = {expression}")

    def _present(self, name: str, expression: str) -> str:
        return f"{expression} if message.HasField({name!r}) else {self._default(name)}"

    def _default(self, name: str) -> str:
        field = self._defaults[name]
        if field.default is not msgspec.NODEFAULT:
            return self._name(name, "default", field.default)
        if field.default_factory is not msgspec.NODEFAULT:
            return f"{self._name(name, 'make', field.default_factory)}()"
        self._required.append(name)
        return "None"

    def _numbers(self, name: str, members: type[enum.Enum]) -> str:
        return self._name(name, "numbers", {member.value: place for place, member in enumerate(members, start=1)})

    def _members(self, name: str, members: type[enum.Enum]) -> str:
        field = self._defaults[name]
        known = _Members(members, enumerate(members, start=1))
        if field.default is not msgspec.NODEFAULT:
            known[0] = field.default
        return self._name(name, "members", known)

    def _name(self, field: str, what: str, value: Any) -> str:
        """A name in the code for a value."""
        name = f"{what}_of_{field}"
        self._names[name] = value
        return name

    def filler(self) -> Callable[[Message, Any], None]:
        """`fill`, also before it is compiled: structs may hold themselves."""
        return getattr(self, "fill", None) or (lambda message, value: self.fill(message, value))

    def taker(self) -> Callable[[Message], Any]:
        return getattr(self, "take", None) or (lambda message: self.take(message))


class _Members(dict[int, Any]):
    """An enum's members by number."""

    def __init__(self, kind: type[enum.Enum], members: Any) -> None:
        super().__init__(members)
        self._kind = kind

    def __missing__(self, number: int) -> NoReturn:
        if number == 0:
            raise Invalid([Fault(path="", text=f"is missing: a {self._kind.__name__} is required")])
        text = f"{self._kind.__name__} number {number} is unknown here (a newer sender?)"
        raise Invalid([Fault(path="", text=text)])


class _Fields(dict[str | None, Callable[[Message], Any]]):
    """What takes each member of a union, by its field."""

    def __missing__(self, chosen: str | None) -> NoReturn:
        raise Invalid([Fault(path="", text="holds nothing this version knows (a newer sender?)")])


def _remembering(
    fill: Callable[[Message, Any], None], take: Callable[[Message], Any]
) -> tuple[Callable[[Message, Any], None], Callable[[Message], Any]]:
    """The same for values that come again: the very same ones on the way out, equal bytes on the way in."""
    sent: dict[int, tuple[Any, bytes]] = {}
    received: dict[bytes, Any] = {}

    def fill_again(message: Message, value: Any) -> None:
        known = sent.get(id(value))
        if known is not None:
            message.MergeFromString(known[1])
            return
        fill(message, value)
        content = message.SerializeToString()
        if len(content) <= REMEMBERED_BYTES:
            if len(sent) >= REMEMBERED:
                sent.clear()
            sent[id(value)] = value, content  # with the value, so that nothing else gets its id

    def take_again(message: Message) -> Any:
        content = message.SerializeToString()
        value = received.get(content)
        if value is None:
            value = take(message)
            if len(content) <= REMEMBERED_BYTES:
                if len(received) >= REMEMBERED:
                    received.clear()
                received[content] = value
        return value

    return fill_again, take_again


def _under(at: str, error: Invalid) -> Invalid:
    return Invalid(Fault(path=f"{at}.{fault.path}".strip("."), text=fault.text) for fault in error.faults)


def _missing(struct: str, field: str) -> NoReturn:
    raise Invalid([Fault(path=field, text=f"is missing: no {struct} is without it")])
