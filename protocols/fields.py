"""What a field of a message may hold. A field is declared as `Annotated[int, Int(0, 9)]` in the message's dataclass.

`check` gives the value back as the dataclass keeps it, or raises `FieldError`. A bool is not an int; nothing is
converted. Only `ListOf` differs on the wire: a tuple of dataclasses here, an array of arrays there.
"""

from dataclasses import dataclass, fields, is_dataclass
from enum import IntEnum
from typing import Any, get_type_hints


class FieldError(ValueError):
    """A field's value has the wrong type or lies outside its bounds. Never leaves the package."""


@dataclass(frozen=True, slots=True)
class Int:
    """An integer from `low` to `high`, both included."""

    low: int
    high: int

    def check(self, value: object) -> int:
        """`value` if it fits."""
        if type(value) is not int:
            raise FieldError(f"got a {type(value).__name__}, need an integer")
        if not self.low <= value <= self.high:
            raise FieldError(f"got {value}, need {self.low} to {self.high}")
        return value


@dataclass(frozen=True, slots=True)
class Bin:
    """From `low` to `high` bytes."""

    low: int
    high: int

    def check(self, value: object) -> bytes:
        """`value` if it fits."""
        if type(value) is not bytes:
            raise FieldError(f"got a {type(value).__name__}, need bytes")
        if not self.low <= len(value) <= self.high:
            raise FieldError(f"got {len(value)} bytes, need {self.low} to {self.high}")
        return value


@dataclass(frozen=True, slots=True)
class Text:
    """Printable text of at most `high` UTF-8 bytes. It is shown on terminals, so control characters are refused."""

    high: int

    def check(self, value: object) -> str:
        """`value` if it fits."""
        if type(value) is not str:
            raise FieldError(f"got a {type(value).__name__}, need text")
        if not value.isprintable():
            raise FieldError("got text with control characters or lone surrogates")
        if len(value.encode()) > self.high:
            raise FieldError(f"got text of {len(value.encode())} bytes, need at most {self.high}")
        return value


@dataclass(frozen=True, slots=True)
class ListOf:
    """From `low` to `high` structures of one kind, as a tuple here and as arrays on the wire."""

    kind: type
    low: int
    high: int

    def check(self, value: object) -> tuple[Any, ...]:
        """The structures of an array of arrays that fits."""
        if type(value) is not list:
            raise FieldError(f"got a {type(value).__name__}, need an array")
        if not self.low <= len(value) <= self.high:
            raise FieldError(f"got {len(value)} entries, need {self.low} to {self.high}")
        spec = declared(self.kind)
        return tuple(self.kind(*check_all(spec, entry)) for entry in value)

    def to_wire(self, value: object) -> object:
        """Structures as arrays, for `check`."""
        if type(value) is not tuple or any(type(entry) is not self.kind for entry in value):
            return value
        return [[getattr(entry, name) for name in declared(self.kind)] for entry in value]


Field = Int | Bin | Text | ListOf


_DECLARED: dict[type, dict[str, Field]] = {}


def declared(kind: type) -> dict[str, Field]:
    """The fields of a message's dataclass by name, in the order of the wire."""
    if kind not in _DECLARED:
        assert is_dataclass(kind)
        hints = get_type_hints(kind, include_extras=True)
        _DECLARED[kind] = {field.name: hints[field.name].__metadata__[0] for field in fields(kind)}
    return _DECLARED[kind]


def check_all(spec: dict[str, Field], values: object) -> list[Any]:
    """The values of one array off the wire, checked against its fields; arity included."""
    if type(values) is not list:
        raise FieldError(f"got a {type(values).__name__}, need an array")
    if len(values) != len(spec):
        raise FieldError(f"got {len(values)} fields, need {len(spec)}")
    checked = []
    for (name, field), value in zip(spec.items(), values, strict=True):
        try:
            checked.append(field.check(value))
        except FieldError as error:
            raise FieldError(f"{name}: {error}") from None
    return checked


def wire_values(message: object) -> list[object]:
    """The values of a message's dataclass as they go on the wire, not yet checked."""
    values = []
    for name, field in declared(type(message)).items():
        value = getattr(message, name)
        if isinstance(field, ListOf):
            value = field.to_wire(value)
        values.append(int(value) if isinstance(value, IntEnum) else value)
    return values
