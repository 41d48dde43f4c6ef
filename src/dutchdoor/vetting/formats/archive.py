"""Entries of a zip file that somebody else made, read within bounds.

Inspect compresses with zstd (method 93 of the zip format, APPNOTE 4.4.5), which Python's zipfile reads from
3.14 on; before, the package `zstandard` does. Refuses an entry or a file that grows beyond its bounds.
"""

import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dutchdoor.core import DocumentError

LARGEST_ENTRY = 256 << 20  # bytes, unpacked: one sample with all its events
LARGEST_WHOLE = 16 << 30  # bytes of all entries that are read, unpacked
MOST_ENTRIES = 2_000_000
ZSTD = 93
_LOCAL = struct.Struct("<4s22xHH")  # signature, name length, extra length: APPNOTE 4.3.7


class Archive:
    """A zip file, open for reading; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise DocumentError(f"can't read {path}: {error.strerror}") from error
        try:
            self._zip = zipfile.ZipFile(self._file)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            self._file.close()
            raise DocumentError(f"can't read {path}: {error}", hint="is it a whole .eval file?") from error
        if len(self._zip.infolist()) > MOST_ENTRIES:
            raise DocumentError(f"{path} has more than {MOST_ENTRIES} entries")

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    def names(self) -> Iterator[str]:
        """The names of all entries."""
        yield from self._zip.namelist()

    def read(self, name: str) -> bytes:
        """One entry, unpacked. Raises DocumentError when it is broken, not there, or too large."""
        where = f"{self.path}, entry {name}"
        try:
            info = self._zip.getinfo(name)
            with self._open(info) as stream:
                data = stream.read(LARGEST_ENTRY + 1)
        except KeyError:
            raise DocumentError(f"{self.path} has no entry {name}", hint="is it an Inspect log?") from None
        except Exception as error:  # a decompressor of a library raises what it likes
            raise DocumentError(f"{where} is broken: {error}") from error
        self._read += len(data)
        if len(data) > LARGEST_ENTRY or self._read > LARGEST_WHOLE:
            raise DocumentError(f"{where}: unpacks to more than is read", hint="it may be a zip bomb")
        if zlib.crc32(data) != info.CRC:
            raise DocumentError(f"{where} is broken: its checksum does not hold")
        return data

    def _open(self, info: zipfile.ZipInfo) -> IO[bytes]:
        if info.compress_type != ZSTD or sys.version_info >= (3, 14):
            return self._zip.open(info)
        self._file.seek(info.header_offset)
        signature, name, extra = _LOCAL.unpack(self._file.read(_LOCAL.size))
        if signature != b"PK\x03\x04":
            raise DocumentError("it does not begin where the file says")
        self._file.seek(name + extra, io.SEEK_CUR)
        packed = self._file.read(min(info.compress_size, LARGEST_ENTRY))
        import zstandard

        stream: IO[bytes] = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
        return stream
