"""TFRecord files and the Example messages in them, read without TensorFlow, every checksum verified.

A record is: length (8 bytes), checksum of these, data, checksum of the data. The checksum is CRC-32C (RFC 3720),
masked. An Example is a map from names to lists of bytes, floats or integers, in protocol buffers' encoding.
"""

from __future__ import annotations

import functools
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_LANE = 1024  # bytes; long data are cut into lanes of this length, whose checksums are computed side by side


class Span(NamedTuple):
    """Where the data of a record lie."""
    offset: int
    length: int


@functools.cache
def _table() -> np.ndarray:  # 256, uint32: what a byte does to the register
    register = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        register = np.where(register & 1, register >> 1 ^ np.uint32(_POLYNOMIAL), register >> 1)
    return register


@functools.cache
def _append_zeros(count: int) -> np.ndarray:
    """What `count` zero bytes (a power of two) do to the register: 4 256, one table for each of its bytes."""
    if count == 1:
        one, low = _table(), np.arange(256, dtype=np.uint32)
        return np.stack([one, low, low << 8, low << 16])
    half = _append_zeros(count // 2)
    return _apply(half, half)


def _apply(tables: np.ndarray, register: np.ndarray) -> np.ndarray:
    parts = (tables[n][register >> np.uint32(8 * n) & np.uint32(255)] for n in range(4))
    return functools.reduce(np.bitwise_xor, parts)


def crc32c(data: bytes | memoryview) -> int:
    """Return the CRC-32C of data.

    The register is linear over GF(2): that of a b is that of a, moved on by as many zeros as b is long, xor that of
    b begun at zero. So lanes are computed at once, one numpy operation a column, and joined in pairs.
    """
    octets = np.frombuffer(data, np.uint8)
    lanes = 1 << max(0, (len(octets) - 1) // _LANE).bit_length()
    width = _LANE if lanes > 1 else len(octets)
    padded = np.zeros(lanes * width, np.uint8)
    begin = len(padded) - len(octets)  # zeros in front change nothing while the register is zero
    padded[begin:] = octets
    head = min(4, len(octets))
    padded[begin:begin + head] ^= 255  # the same as to begin with a register of ones
    table, columns = _table(), np.ascontiguousarray(padded.reshape(lanes, width).T)
    register = np.zeros(lanes, np.uint32)
    for column in columns:
        register = table[(register ^ column) & 255] ^ register >> 8
    while len(register) > 1:
        register = _apply(_append_zeros(width), register[::2]) ^ register[1::2]
        width *= 2
    ones = 0xFFFFFFFF >> 8 * head  # of the ones to begin with, what data shorter than the register has not met
    return int(register[0]) ^ ones ^ 0xFFFFFFFF


def masked(checksum: int) -> int:
    """Return a checksum as TFRecord stores it."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def spans(path: Path) -> Iterator[Span]:
    """List the records of a file by their lengths, which are verified; the data are not read.

    Raises:
        ValueError: at the first record whose length is damaged or whose data go beyond the end of the file: those
            after it cannot be found.
    """
    size, offset, number = path.stat().st_size, 0, 0
    with open(path, "rb") as file:
        while offset < size:
            file.seek(offset)
            head = file.read(12)
            length, checksum = struct.unpack("<QI", head) if len(head) == 12 else (0, None)
            if checksum is None or masked(crc32c(head[:8])) != checksum or offset + length + 16 > size:
                raise ValueError(f"{path}: record {number} is damaged or cut short ({size} bytes), and all after it are lost; "
                                 "download the file again")
            yield Span(offset + 12, length)
            offset, number = offset + length + 16, number + 1


def read_record(path: Path, span: Span) -> bytes:
    """Return the data of a record, verified."""
    with open(path, "rb") as file:
        file.seek(span.offset)
        data, stored = file.read(span.length), file.read(4)
    if len(stored) != 4 or struct.unpack("<I", stored)[0] != masked(crc32c(data)):
        raise ValueError(f"{path}: the record at byte {span.offset} has a wrong checksum; download the file again")
    return data


def peek(path: Path, span: Span) -> set[str]:
    """Return the names in the Example of a record without reading its values (nor verifying them)."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, \
            memoryview(mapped) as whole, whole[span.offset:span.offset + span.length] as data:
        return {name for name, _ in _features(data, path)}


def parse_example(data: bytes, path: Path) -> dict[str, list[bytes] | np.ndarray]:
    """Decode an Example: name -> list of bytes, float32 array or int64 array."""
    return {name: _values(data[feature], path) for name, feature in _features(memoryview(data), path)}


def _features(data: memoryview, path: Path) -> Iterator[tuple[str, slice]]:
    """Yield (name, where its Feature lies in data)."""
    for _, features in _fields(data, slice(0, len(data)), path):             # Example.features = 1
        for _, entry in _fields(data, features, path):                       # Features.feature = 1, a map
            parts = dict(_fields(data, entry, path))                         # key = 1, value = 2
            if 1 not in parts or 2 not in parts:
                raise _malformed(path)
            yield bytes(data[parts[1]]).decode("utf-8", "replace"), parts[2]


def _values(feature: bytes, path: Path) -> list[bytes] | np.ndarray:
    for kind, where in _fields(feature, slice(0, len(feature)), path):       # bytes_list = 1, float_list = 2, int64_list = 3
        items = list(_fields(feature, where, path, packed=kind != 1))        # value = 1
        if kind == 1:
            return [bytes(feature[item]) for _, item in items]
        if kind == 2:
            return np.concatenate([np.frombuffer(feature[item], "<f4") for _, item in items] or [np.empty(0, "<f4")])
        numbers: list[int] = []
        for _, item in items:
            at = item.start
            while at < item.stop:
                number, at = _varint(feature, at, path)
                numbers.append(number - (1 << 64) if number >> 63 else number)
        return np.array(numbers, np.int64)
    return []


def _fields(data: bytes | memoryview, where: slice, path: Path, packed: bool = False) -> Iterator[tuple[int, slice]]:
    """Yield (field number, where its content lies) of a message.

    Args:
        packed: numbers are expected, which may also come one by one, not as one packed field.
    """
    at = where.start
    while at < where.stop:
        key, at = _varint(data, at, path)
        start = at
        if key & 7 == 2:
            length, start = _varint(data, at, path)
            at = start + length
        elif packed and key & 7 == 0:
            _, at = _varint(data, at, path)
        elif packed and key & 7 == 5:
            at += 4
        else:
            raise _malformed(path)
        if at > where.stop:
            raise _malformed(path)
        yield key >> 3, slice(start, at)


def _varint(data: bytes | memoryview, at: int, path: Path) -> tuple[int, int]:
    number = shift = 0
    while at < len(data) and shift < 64:
        octet = data[at]
        number, at, shift = number | (octet & 127) << shift, at + 1, shift + 7
        if octet < 128:
            return number, at
    raise _malformed(path)


def _malformed(path: Path) -> ValueError:
    return ValueError(f"{path}: holds a record that is no Example; give the files of the dataset as downloaded")
