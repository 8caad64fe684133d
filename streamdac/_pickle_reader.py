"""The pickle inside a `.dac` archive, interpreted without unpickling anything.

An allow-list for `pickle.Unpickler` is not enough: 25 bytes make numpy allocate 8 GB. Here only the opcodes that occur
in an archive exist, the three names they may call are inert stand-ins, arguments are slices of the data (so no length in
it allocates anything), and the number of operations is bounded. Both flavours are read: protocol 3 with
`numpy.core.multiarray` and protocol 4 with `numpy._core.multiarray`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import BadDataError

_MAX_OPERATIONS = 1_000  # an archive has about 110
_RECONSTRUCT = "_reconstruct"
_NDARRAY = "ndarray"
_DTYPE = "dtype"
_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _DTYPE,
}
_DTYPE_STATE = (None, None, None, -1, -1)
_ORDER = {"O8": "|", "u2": "<", "f4": "<"}  # the dtypes of an archive and their byte order
_FLAGS = {"O8": 63, "u2": 0, "f4": 0}
_MARK = object()


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass
class _Dtype:
    code: str
    ready: bool = False


@dataclass
class StoredArray:
    """An array as the pickle describes it; nothing is allocated for it.

    Attributes:
        shape: as written, not checked against anything.
        dtype: "O8", "u2" or "f4".
        fortran: first axis fastest.
        data: bytes for numbers, a list for objects.
    """

    shape: tuple[Any, ...] = ()
    dtype: str = ""
    fortran: bool = False
    data: Any = None

    def numbers(self, dtype: str, axes: int, what: str) -> npt.NDArray[Any]:
        """The array, as a read-only view of the data, if it is what an archive holds.

        Raises:
            BadDataError: another type, number of axes, or fewer or more bytes than the shape says.
        """
        shape = self.shape
        if self.dtype != dtype or not isinstance(self.data, memoryview):
            raise BadDataError(f"{what} is an array of type {self.dtype or 'unknown'}, need {dtype}")
        if len(shape) != axes or not all(type(count) is int and count > 0 for count in shape):
            raise BadDataError(f"{what} has shape {short(shape)}, need {axes} positive numbers")
        expected = int(dtype[1:])
        for count in shape:
            expected *= count
        if expected != len(self.data):
            raise BadDataError(
                f"{what} of shape {short(shape)} needs {short(expected)} bytes, there are {len(self.data)}"
            )
        flat: npt.NDArray[Any] = np.frombuffer(self.data, dtype=f"<{dtype}")
        return flat.reshape(shape, order="F" if self.fortran else "C")


def read_pickle(data: memoryview) -> Any:
    """What the pickle in `data` describes: dicts, lists, tuples, str, int, bool, None, memoryview and `StoredArray`.

    Raises:
        BadDataError: anything that does not occur in an archive, with the byte where it stands.
    """
    return _Reader(data).run()


def short(value: object) -> str:
    """`value` for an error message: hostile values are deep, or have thousands of digits."""
    if isinstance(value, tuple):
        return f"({', '.join(short(item) if isinstance(item, int) else type(item).__name__ for item in value[:6])})"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a {value.bit_length()}-bit number"
    return repr(value)[:60] if isinstance(value, str | int | float) else type(value).__name__


@dataclass
class _Reader:
    data: memoryview
    position: int = 0
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self) -> Any:
        for _ in range(_MAX_OPERATIONS):
            start = self.position
            code = bytes(self.take(1))
            if code == b".":
                if len(self.stack) != 1 or self.position != len(self.data):
                    left, over = len(self.stack), len(self.data) - self.position
                    raise BadDataError(
                        f"byte {start}: the pickle ends with {left} values and {over} bytes left over, need 1 and 0"
                    )
                return self.stack[0]
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise BadDataError(f"byte {start}: opcode 0x{code.hex()} does not occur in an archive")
            try:
                operation(self)
            except (IndexError, ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
                raise BadDataError(f"byte {start}: opcode 0x{code.hex()} does not fit what stands before it") from error
        raise BadDataError(f"more than {_MAX_OPERATIONS} pickle operations")

    def take(self, count: int) -> memoryview:
        """The next `count` bytes: a slice, never a copy."""
        left = len(self.data) - self.position
        if count > left:
            raise BadDataError(f"byte {self.position}: {count} bytes announced, {left} left")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, layout: str) -> int:
        """The next little-endian integer."""
        value: int = struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))[0]
        return value

    def line(self) -> str:
        """Text up to the next newline, of at most 100 bytes."""
        chunk = bytes(self.data[self.position : self.position + 100])
        text, newline, _ = chunk.partition(b"\n")
        if not newline:
            raise BadDataError(f"byte {self.position}: a name without an end")
        self.position += len(text) + 1
        return text.decode("ascii")

    def text(self, layout: str) -> str:
        """A string with its length before it."""
        length = self.number(layout)
        if length > 100:
            raise BadDataError(f"byte {self.position}: a string of {length} bytes, at most 100 occur in an archive")
        return bytes(self.take(length)).decode("utf-8")

    def since_mark(self) -> list[Any]:
        """Pop everything above the last mark, and the mark."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise IndexError("no mark")

    def tuple_of(self, count: int) -> None:
        """Replace the last `count` values by a tuple of them."""
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))

    def pop(self) -> Any:
        """The last value; a mark is not one."""
        value = self.stack.pop()
        if value is _MARK:
            raise IndexError("a mark")
        return value

    def top(self, kind: type) -> Any:
        """The last value, left where it is; it must be of type `kind`."""
        value = self.stack[-1]
        if type(value) is not kind:
            raise TypeError(f"not a {kind.__name__}")
        return value


def _proto(r: _Reader) -> None:
    protocol = r.number("B")
    if protocol not in (3, 4):
        raise BadDataError(f"pickle protocol {protocol}, archives have 3 or 4")


def _frame(r: _Reader) -> None:
    length, left = r.number("Q"), len(r.data) - r.position
    if length > left:
        raise BadDataError(f"byte {r.position}: a frame of {length} bytes, {left} left")


def _push_global(r: _Reader, module: object, name: object) -> None:
    known = _GLOBALS.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
    if known is None:
        raise BadDataError(f"byte {r.position}: the name {short(module)} {short(name)} does not occur in an archive")
    r.stack.append(_Global(known))


def _stack_global(r: _Reader) -> None:
    name, module = r.pop(), r.pop()
    _push_global(r, module, name)


def _put(r: _Reader, index: int) -> None:
    value = r.stack[-1]
    if value is _MARK:
        raise IndexError("a mark")
    r.memo[index] = value


def _reduce(r: _Reader) -> None:
    arguments, function = r.pop(), r.pop()
    if function == _Global(_RECONSTRUCT) and arguments == (_Global(_NDARRAY), (0,), b"b"):
        r.stack.append(StoredArray())
    elif (
        function == _Global(_DTYPE)
        and type(arguments) is tuple
        and arguments[1:] == (False, True)
        and isinstance(arguments[0], str)  # a nested tuple can take for ever to hash
        and arguments[0] in _ORDER
    ):
        r.stack.append(_Dtype(arguments[0]))
    else:
        raise TypeError("no such call")


def _build(r: _Reader) -> None:
    state = r.pop()
    target = r.stack[-1]
    if type(state) is not tuple:  # bytes would unpack into as many integers
        raise TypeError("no tuple")
    if isinstance(target, _Dtype) and not target.ready:
        version, order, *rest = state
        if (version, order, tuple(rest)) != (3, _ORDER[target.code], (*_DTYPE_STATE, _FLAGS[target.code])):
            raise TypeError("not the state of a dtype")
        target.ready = True
    elif isinstance(target, StoredArray) and not target.dtype:
        version, shape, dtype, fortran, data = state
        if (
            version != 1
            or type(shape) is not tuple
            or type(dtype) is not _Dtype
            or not dtype.ready
            or type(fortran) is not bool
        ):
            raise TypeError("not the state of an array")
        target.shape, target.dtype, target.fortran, target.data = shape, dtype.code, fortran, data
    else:
        raise TypeError("no state wanted")


def _set_items(r: _Reader, values: list[Any]) -> None:
    target = r.top(dict)
    if len(values) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if type(key) is not str or key in target:
            raise BadDataError(f"byte {r.position}: key {short(key)} is no string, or occurs twice")
        target[key] = value


def _set_item(r: _Reader) -> None:
    value, key = r.pop(), r.pop()
    _set_items(r, [key, value])


def _append(r: _Reader) -> None:
    value = r.pop()
    r.top(list).append(value)


def _long(r: _Reader) -> int:
    count = r.number("B")
    if count > 8:
        raise BadDataError(f"byte {r.position}: an integer of {count} bytes, at most 8 occur in an archive")
    return int.from_bytes(r.take(count), "little", signed=True)


def _pushes(value: Callable[[_Reader], Any]) -> Callable[[_Reader], None]:
    return lambda r: r.stack.append(value(r))


_OPERATIONS: dict[bytes, Callable[[_Reader], None]] = {
    b"\x80": _proto,
    b"\x95": _frame,
    b"c": lambda r: _push_global(r, r.line(), r.line()),
    b"\x93": _stack_global,
    b"q": lambda r: _put(r, r.number("B")),
    b"r": lambda r: _put(r, r.number("I")),
    b"\x94": lambda r: _put(r, len(r.memo)),
    b"h": _pushes(lambda r: r.memo[r.number("B")]),
    b"j": _pushes(lambda r: r.memo[r.number("I")]),
    b"(": _pushes(lambda r: _MARK),
    b")": _pushes(lambda r: ()),
    b"\x85": lambda r: r.tuple_of(1),
    b"\x86": lambda r: r.tuple_of(2),
    b"\x87": lambda r: r.tuple_of(3),
    b"t": lambda r: r.stack.append(tuple(r.since_mark())),
    b"]": _pushes(lambda r: []),
    b"}": _pushes(lambda r: {}),
    b"a": _append,
    b"s": _set_item,
    b"u": lambda r: _set_items(r, r.since_mark()),
    b"R": _reduce,
    b"b": _build,
    b"N": _pushes(lambda r: None),
    b"\x88": _pushes(lambda r: True),
    b"\x89": _pushes(lambda r: False),
    b"J": _pushes(lambda r: r.number("i")),
    b"K": _pushes(lambda r: r.number("B")),
    b"M": _pushes(lambda r: r.number("H")),
    b"\x8a": _pushes(_long),
    b"X": _pushes(lambda r: r.text("I")),
    b"\x8c": _pushes(lambda r: r.text("B")),
    b"C": _pushes(lambda r: r.take(r.number("B"))),
    b"B": _pushes(lambda r: r.take(r.number("I"))),
    b"\x8e": _pushes(lambda r: r.take(r.number("Q"))),
}
