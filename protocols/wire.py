"""Messages to msgpack bytes and back, strictly: one array, known kind, fixed arity, every field within its bounds."""

from dataclasses import dataclass
from typing import NoReturn, get_args

import msgpack

from ..errors import LocalProtocolError, RemoteProtocolError
from .fields import FieldError, check_all, declared, wire_values
from .messages import MAX_DEPTH, MAX_MESSAGE, MAX_PAYLOAD, OPTIONAL, VERSION, Accept, Header, Hello, Message

KINDS: dict[int, type[Message]] = {message.KIND: message for message in get_args(Message)}
_VERSIONED = (Header, Hello, Accept)  # their first field is the version


class UnsupportedError(RemoteProtocolError):
    """A critical message or a version that this program does not know: it needs a newer one."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """An optional message that we do not know and skip."""

    kind: int


def encode(message: Message) -> bytes:
    """The message's bytes; a value outside its bounds is our own fault."""
    values = wire_values(message)
    try:
        check_all(declared(type(message)), values)
    except FieldError as error:
        raise LocalProtocolError(f"{type(message).__name__}: {error}") from None
    data: bytes = msgpack.packb([message.KIND, *values])
    return data


def decode(data: bytes) -> Message | Unknown:
    """The message in `data`, or `Unknown` for an optional one to skip; anything else is the sender's fault."""
    kind, *values = _array(data)
    if type(kind) is not int:
        raise RemoteProtocolError(f"message begins with a {type(kind).__name__}, need its kind")
    message = KINDS.get(kind)
    if message is None:
        if kind in OPTIONAL:
            _check_depth(values)
            return Unknown(kind)
        raise UnsupportedError(f"message of unknown critical kind {kind}")
    # Before the arity: a later version may have more fields.
    if message in _VERSIONED and values and type(values[0]) is int and values[0] != VERSION:
        raise UnsupportedError(f"{message.__name__} of version {values[0]}, this program speaks {VERSION}")
    try:
        return message(*check_all(declared(message), values))
    except FieldError as error:
        raise RemoteProtocolError(f"{message.__name__}: {error}") from None


def _check_depth(values: list[object]) -> None:
    """Refuse deep nesting in a message whose fields we do not know."""
    arrays: list[list[object]] = [values]
    depth = 1
    while arrays := [value for array in arrays for value in array if type(value) is list]:
        depth += 1
        if depth > MAX_DEPTH:
            raise RemoteProtocolError(f"message nested deeper than {MAX_DEPTH} arrays")


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    """Of extensions without data, which are within `max_ext_len`."""
    raise ValueError(f"extension type {code}")


def _array(data: bytes) -> list[object]:
    """The one msgpack array in `data`, its bounds checked before anything is allocated."""
    if len(data) > MAX_MESSAGE:
        raise RemoteProtocolError(f"got a message of {len(data)} bytes, need at most {MAX_MESSAGE}")
    try:
        array = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_array_len=32,
            max_map_len=0,
            max_ext_len=0,
            ext_hook=_refuse_extension,
            max_str_len=256,
            max_bin_len=MAX_PAYLOAD,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"message is not msgpack within bounds: {error}") from None
    if type(array) is not list or not array:
        raise RemoteProtocolError("message is not an array that begins with its kind")
    return array
