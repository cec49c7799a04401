"""A file that only grows: one JSON object a line, written before the work goes on, so that a kill loses none.

A sealed line carries a checksum of itself: a flipped bit that leaves valid JSON would else become a wrong result.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsiccllm.errors import InputError
from rsiccllm.files import MAX_LINE

SEAL = "crc32"
"""The field of a sealed line."""


def seal(line: dict[str, Any]) -> dict[str, Any]:
    """The line with its checksum (CRC-32 of its JSON with sorted keys, hexadecimal) as the last field."""
    return {**line, SEAL: _checksum(line)}


def unseal(line: dict[str, Any]) -> dict[str, Any] | None:
    """The line without its checksum, which it need not have; None where that is not of this line."""
    plain = {name: value for name, value in line.items() if name != SEAL}
    return plain if SEAL not in line or line[SEAL] == _checksum(plain) else None


def _checksum(line: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(line, sort_keys=True, separators=(',', ':')).encode('ascii')):08x}"


def _whole(line: bytes) -> bool:
    """Whether it is JSON as it stands."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Every object in a journal, in the order of writing; another process may be writing to it.

    A last line that is not ended yet is left out. Raises InputError naming the line that is no object of ours.
    """
    with path.open("rb") as handle:
        for number, line in enumerate(iter(lambda: handle.readline(MAX_LINE + 1), b""), start=1):
            if len(line) <= MAX_LINE and not line.endswith(b"\n"):
                return
            try:
                value = json.loads(line) if len(line) <= MAX_LINE else None
            except (ValueError, RecursionError):
                value = None
            plain = unseal(value) if isinstance(value, dict) else None
            if plain is None:
                what = "not as it was written" if isinstance(value, dict) else "not a JSON object"
                raise InputError(f"{path}:{number}: {what}; the file was edited or damaged")
            yield plain


class Journal:
    """Append-only JSON Lines under an exclusive lock.

    A line is handed to the operating system whole before `append` returns: kill -9 loses nothing that was appended. A
    last line that a kill or a full disk cut short is dropped when the file is opened again. One process at a time:
    a second one is refused with InputError.

    Args:
        path: created with its folders where absent.
        sync_every: seconds between two forced writes to the disk itself (what a power cut could lose); 0: every line.
        sealed: lines are written with a checksum. It is checked where a line has one, and taken off.
    """

    def __init__(self, path: Path | str, sync_every: float = 0.0, sealed: bool = False) -> None:
        self.path = Path(path)
        self._sealed = sealed
        self._sync_every = sync_every
        self._synced = time.monotonic()
        self._guard = threading.Lock()
        try:
            if self.path.exists() and not self.path.is_file():
                raise InputError(f"{self.path}: not a regular file; expected one to write lines to")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise InputError(f"{self.path}: is in use by another run") from None
        try:
            self._drop_torn_line()
        except InputError:
            os.close(self._file)
            raise

    def _drop_torn_line(self) -> None:
        """Raises InputError, and leaves the file as it is, where its end is no line of ours that was cut short, or what
        stands before is no journal."""
        size = os.fstat(self._file).st_size
        end = size
        while end > 0:
            begin = max(0, end - 65536)
            newline = os.pread(self._file, end - begin, begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end == size:
            return
        for _ in read_journal(self.path):  # whole lines that are not ours: somebody else's file
            pass
        torn = os.pread(self._file, min(size - end, MAX_LINE + 1), end).strip(b"\0")  # a power cut may leave zeros
        if (torn and not torn.startswith(b"{")) or len(torn) > MAX_LINE or _whole(torn):
            raise InputError(f"{self.path}: does not end in a line of ours that was cut short; choose another file")
        os.ftruncate(self._file, end)

    def read(self) -> Iterator[dict[str, Any]]:
        """Every object, in the order of writing. Raises InputError naming the line that is none."""
        return read_journal(self.path)

    def append(self, line: dict[str, Any]) -> None:
        """Write one object. Safe from several threads. Raises InputError where the disk takes no more."""
        line = seal(line) if self._sealed else line
        data = (json.dumps(line, separators=(",", ":")) + "\n").encode("ascii")
        with self._guard:
            before = os.fstat(self._file).st_size
            try:
                while data:
                    data = data[os.write(self._file, data) :]
                now = time.monotonic()
                if now - self._synced >= self._sync_every:
                    os.fsync(self._file)
                    self._synced = now
            except OSError as error:
                os.ftruncate(self._file, before)  # a half line would spoil the next one
                raise InputError(f"{self.path}: cannot be written ({error.strerror})") from None

    def close(self) -> None:
        """Force what was written to the disk and let go of the lock. A second call does nothing."""
        with self._guard:
            if self._file >= 0:
                os.fsync(self._file)
                os.close(self._file)
                self._file = -1
