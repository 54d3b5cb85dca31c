"""Bytes of raw files, plain or compressed, that say so where a file is damaged or ends too early, and give all that comes before.

pyarrow's and fastwarc's own decompression lose up to a buffer of good bytes before the damage, or take a cut file for a whole one.
"""

import io
import zlib
from pathlib import Path
from typing import Any

import zstandard

CHUNK_BYTES = 1 << 16
#: zlib's number for gzip's head and checksums.
GZIP = 31
#: What every WARC record ends with.
RECORD_END = b"\r\n\r\n"


class DamagedError(Exception):
    """A file whose rest cannot be read; the message is the reason alone."""


def reason(error: OSError | ValueError) -> str:
    """Why fastwarc or pyarrow cannot go on, where the file is at fault. Raises the error again where it is the disk's."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return str(error)


class Stream(io.RawIOBase):
    """A file's bytes, decompressed where its name ends in .gz or .zst.

    Args:
        ends_with: what whole files end with, decompressed.
    """

    def __init__(self, path: Path, *, ends_with: bytes = b"") -> None:
        super().__init__()
        self._file = path.open("rb")
        self._new = {".gz": lambda: zlib.decompressobj(GZIP), ".zst": _zstd}.get(path.suffix)
        #: The member or frame under way.
        self._member: Any = None
        self._compressed = b""
        self._ready = b""
        self._ends_with = ends_with
        self._last = b""
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        """Raises `DamagedError`, after everything before the damage was given; and what the disk raises, which is no damage."""
        if not self._ready:
            self._ready = self._file.read(CHUNK_BYTES) if self._new is None else self._decompressed()
            if not self._ready and not self._last.endswith(self._ends_with):
                raise DamagedError("it ends in the middle of a record")
        count = min(len(buffer), len(self._ready))
        given, self._ready = self._ready[:count], self._ready[count:]
        buffer[:count] = given
        self._last = (self._last + given)[-max(1, len(self._ends_with)) :]
        self._position += count
        return count

    def _decompressed(self) -> bytes:
        """The next bytes; none at the end. A file may hold several members, one after the other."""
        while data := self._compressed or self._file.read(CHUNK_BYTES):
            self._member = self._member or self._begun()
            try:
                text: bytes = self._member.decompress(data)
            except (zlib.error, zstandard.ZstdError) as error:
                raise DamagedError(f"decompression fails before byte {self._file.tell():,}: {error}") from error
            self._compressed = b""
            if self._member.eof:
                self._compressed, self._member = self._member.unused_data, None
            if text:
                return text
        if self._member is not None:
            raise DamagedError(f"its compressed data is cut off after {self._file.tell():,} bytes")
        return b""

    def _begun(self) -> Any:
        assert self._new is not None
        return self._new()


def _zstd() -> Any:
    return zstandard.ZstdDecompressor().decompressobj()
