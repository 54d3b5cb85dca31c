"""Zip archives as torch writes them: nothing compressed, every entry's bytes at a multiple of 64, and always with zip64 records."""

import struct
import zlib

#: From here on a number is in the zip64 field, and this stands in its place.
_MANY = 0xFFFFFFFF
_ALIGNMENT = 64


class ZipWriter:
    """Makes the bytes around the contents, which may be known (`add`) or come later (`leave_room`)."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._position = 0
        self._directory: list[bytes] = []

    def add(self, name: str, content: bytes) -> None:
        self._start(name, len(content), zlib.crc32(content))
        self._append(content)

    def leave_room(self, name: str, size: int) -> bytes:
        """Begin an entry of which only the size is known; returns everything before its bytes.

        Its checksum stays 0: the bytes are copied within the kernel and never seen. torch and Megatron do not look at checksums
        when they load (torch builds its zip library without, and `torch.serialization.set_crc32_options` can leave them out
        of what it writes); Python's zipfile and unzip do.
        """
        self._start(name, size, 0)
        before = b"".join(self._pieces)
        self._pieces = []
        self._position += size
        return before

    def finish(self) -> bytes:
        """Everything that was not returned yet, up to the end."""
        directory, count, start = b"".join(self._directory), len(self._directory), self._position
        self._append(directory)
        end = self._position
        self._append(
            struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), start)
            + struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
            + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(directory), min(start, _MANY), 0)
        )
        return b"".join(self._pieces)

    def _start(self, name: str, size: int, checksum: int) -> None:
        numbers = struct.pack("<HHHHHIII", 45, 0, 0, 0, 0, checksum, min(size, _MANY), min(size, _MANY))
        large = [size, size] if size >= _MANY else []
        offset = self._position
        extra = _zip64(large)
        extra += _padding(offset + 30 + len(name) + len(extra))
        self._append(b"PK\3\4" + numbers + struct.pack("<HH", len(name), len(extra)) + name.encode() + extra)

        extra = _zip64([*large, offset] if offset >= _MANY else large)
        rest = struct.pack("<HHHHHII", len(name), len(extra), 0, 0, 0, 0, min(offset, _MANY))
        self._directory.append(b"PK\1\2" + struct.pack("<H", 0) + numbers + rest + name.encode() + extra)

    def _append(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._position += len(piece)


def _zip64(numbers: list[int]) -> bytes:
    return struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""


def _padding(position: int) -> bytes:
    """A field of the header that says nothing, after which the content begins."""
    count = -(position + 4) % _ALIGNMENT
    return struct.pack("<2sH", b"FB", count) + b"Z" * count
