"""The pickle of a `.dac` archive, written opcode by opcode.

Byte for byte what numpy 1.24 to 1.26 make of the official dictionary. Always protocol 3 with `numpy.core.multiarray`: every
numpy from 1.24 to 2.4, and so the official tool, reads it.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

Value = int | bool | str | npt.NDArray[np.uint16] | npt.NDArray[np.float32]


def write_pickle(codes: npt.NDArray[np.uint16], metadata: dict[str, Value]) -> bytes:
    """A 0-dimensional object array that holds `{"codes": codes, "metadata": metadata}`."""
    writer = _Writer()
    writer.array_head()
    writer.out += b"(K\x01)"
    writer.dtype("O8", "|", 63)
    writer.out += b"\x89]"
    writer.put()
    writer.dictionary({"codes": codes, "metadata": metadata})
    writer.out += b"at"
    writer.put()
    return bytes(b"\x80\x03" + writer.out + b"b.")


class _Writer:
    """Bytes so far, and the memo of what was written once and is fetched from then on, as the C pickler keeps it."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.memo: dict[object, int] = {}
        self.puts = 0

    def put(self, key: object = None) -> None:
        """Number the last value; a `key` makes it known."""
        self.out += b"q" + struct.pack("<B", self.puts)
        if key is not None:
            self.memo[key] = self.puts
        self.puts += 1

    def known(self, key: object) -> bool:
        """Fetch what was written under `key`, if anything was."""
        if key not in self.memo:
            return False
        self.out += b"h" + struct.pack("<B", self.memo[key])
        return True

    def name(self, module: str, name: str) -> None:
        if not self.known((module, name)):
            self.out += f"c{module}\n{name}\n".encode()
            self.put((module, name))

    def text(self, text: str) -> None:
        if not self.known(text):
            data = text.encode()
            self.out += b"X" + struct.pack("<I", len(data)) + data
            self.put(text)

    def integer(self, value: int) -> None:
        if 0 <= value < 1 << 8:
            self.out += b"K" + struct.pack("<B", value)
        elif 0 <= value < 1 << 16:
            self.out += b"M" + struct.pack("<H", value)
        elif -(1 << 31) <= value < 1 << 31:
            self.out += b"J" + struct.pack("<i", value)
        else:
            count = value.bit_length() // 8 + 1
            self.out += b"\x8a" + struct.pack("<B", count) + value.to_bytes(count, "little", signed=True)

    def data(self, data: bytes) -> None:
        self.out += b"C" + struct.pack("<B", len(data)) if len(data) < 1 << 8 else b"B" + struct.pack("<I", len(data))
        self.out += data
        self.put()

    def array_head(self) -> None:
        """An empty array, to be filled by the state that follows."""
        self.name("numpy.core.multiarray", "_reconstruct")
        self.name("numpy", "ndarray")
        self.out += b"K\x00\x85"
        self.put()
        if not self.known(b"b"):
            self.out += b"C\x01b"
            self.put(b"b")
        self.out += b"\x87"
        self.put()
        self.out += b"R"
        self.put()

    def dtype(self, code: str, order: str, flags: int) -> None:
        """A dtype; each occurs once in an archive."""
        self.name("numpy", "dtype")
        self.text(code)
        self.out += b"\x89\x88\x87"
        self.put()
        self.out += b"R"
        self.put()
        self.out += b"(K\x03"
        self.text(order)
        self.out += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        self.integer(flags)
        self.out += b"t"
        self.put()
        self.out += b"b"

    def array(self, array: npt.NDArray[np.uint16] | npt.NDArray[np.float32]) -> None:
        """An array of 1 or 3 axes."""
        self.array_head()
        self.out += b"(K\x01"
        for count in array.shape:
            self.integer(count)
        self.out += {1: b"\x85", 3: b"\x87"}[array.ndim]
        self.put()
        self.dtype(array.dtype.str[1:], "<", 0)
        self.out += b"\x89"
        self.data(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        self.out += b"t"
        self.put()
        self.out += b"b"

    def dictionary(self, values: dict[str, Value] | dict[str, object]) -> None:
        self.out += b"}"
        self.put()
        self.out += b"("
        for key, value in values.items():
            self.text(key)
            match value:
                case bool():
                    self.out += b"\x88" if value else b"\x89"
                case int():
                    self.integer(value)
                case str():
                    self.text(value)
                case np.ndarray():
                    self.array(value)
                case dict():
                    self.dictionary(value)
        self.out += b"u"
