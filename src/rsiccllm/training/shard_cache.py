"""Files from URLs, through fsspec, and a folder that keeps shards from them: each is fetched once for all runs.

A kept shard is named by its checksum, so it is the same file whoever asks for it and wherever it came from. It is
written beside its place and renamed, so that any number of processes may share the folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from rsiccllm.errors import InputError
from rsiccllm.files import MAX_BYTES, atomic_write, sha256

Result = TypeVar("Result")

WAITS = (1.0, 4.0)
"""Seconds before a fetch that failed is tried again."""

BLOCK = 2**20
"""Bytes that are read of a URL at once."""

STALE = 86400
"""Seconds after which a temporary file is one that a killed process left."""


def is_url(place: Path | str) -> bool:
    """Whether a place is a URL and no path."""
    return isinstance(place, str) and "://" in place


def joined(place: Path | str, name: str) -> Path | str:
    """A file of a folder or URL."""
    return f"{place.rstrip('/')}/{name}" if isinstance(place, str) and is_url(place) else Path(place) / name


def default_folder() -> Path:
    """Where shards are kept unless a recipe says otherwise: below $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rsiccllm" / "shards"


class _Failed(Exception):
    """A fetch that may go through when it is tried again."""


def read_url(url: str) -> Iterator[bytes]:
    """The bytes of a URL, in blocks. Raises InputError where trying again would not help, else `_Failed`."""
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
        # Over HTTP a block of 0 is one plain request: not every server can be asked for parts.
        options = {"block_size": 0} if url.startswith("http") else {}
        with files.open(path, "rb", **options) as handle:
            while block := handle.read(BLOCK):
                yield block
    except FileNotFoundError as error:
        # Over HTTP any fault is told as a file that is not there; what it was is the cause.
        cause = error.__cause__
        if isinstance(cause, Exception) and getattr(cause, "status", None) != 404:
            raise _Failed(f"{url}: cannot be read ({_first_line(cause)})") from None
        raise InputError(f"{url}: no such file") from None
    except PermissionError as error:
        raise InputError(f"{url}: may not be read ({_first_line(error)})") from None
    except ImportError as error:
        mend = "pip install 'rsiccllm[stream]'" if url.startswith("http") else _first_line(error)
        raise InputError(f"{url}: what reads such URLs is not installed; {mend}") from None
    except ValueError as error:  # a protocol that fsspec does not know, a URL that is none
        raise InputError(f"{url}: cannot be read ({_first_line(error)})") from None
    except Exception as error:
        # Each of fsspec's file systems raises what the library behind it does.
        raise _Failed(f"{url}: cannot be read ({_first_line(error)})") from None


def read_url_text(url: str) -> str:
    """A UTF-8 text file at a URL. Raises InputError as `ShardCache.fetch` does."""

    def read() -> bytes:
        data = bytearray()
        for block in read_url(url):
            data += block
            if len(data) > MAX_BYTES:
                raise InputError(f"{url}: over {MAX_BYTES:,} bytes")
        return bytes(data)

    try:
        return _again(read).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{url}: not UTF-8 text (byte {error.start})") from None


def _again(work: Callable[[], Result]) -> Result:
    """What `work` returns, tried again where it failed."""
    for wait in WAITS:
        try:
            return work()
        except _Failed:
            time.sleep(wait)
    try:
        return work()
    except _Failed as error:
        raise InputError(str(error)) from None


class ShardCache:
    """A folder of fetched shards.

    limit: bytes that it may hold; those that were not used for longest are removed. One shard that is larger than that
    alone is kept all the same, and what is being fetched comes on top.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        self.folder = folder
        self.limit = limit
        self._checked: set[str] = set()

    def fetch(self, url: str, size: int, digest: str) -> Path:
        """The shard at `url` as a file, of so many bytes with this SHA-256; it may be gone when it is opened.

        Raises InputError where the URL cannot be read, or holds something else.
        """
        target = self.folder / f"{digest}.parquet"
        if not self._is_whole(target, size, digest):
            with self._alone(digest):
                if not self._is_whole(target, size, digest):  # another process may have been faster
                    _again(lambda: self._fetch(url, target, size, digest))
                    self._checked.add(digest)
        with suppress(FileNotFoundError):
            os.utime(target)
        return target

    def _is_whole(self, target: Path, size: int, digest: str) -> bool:
        """Whether the file is there; the first time that this process asks, also whether it is undamaged."""
        try:
            if target.stat().st_size != size:
                return False
            if digest not in self._checked and sha256(target) != digest:
                return False
        except (FileNotFoundError, InputError):
            return False
        self._checked.add(digest)
        return True

    def _fetch(self, url: str, target: Path, size: int, digest: str) -> None:
        self._make_room(size)
        found, seen = hashlib.sha256(), 0
        with atomic_write(target, "wb") as handle:
            for block in read_url(url):
                seen += len(block)
                if seen > size:
                    break
                found.update(block)
                handle.write(block)
            if seen != size:
                more = "more" if seen > size else f"{seen:,}"
                raise _Failed(f"{url}: {more} bytes; expected {size:,} (by its index): cut short or replaced")
            if found.hexdigest() != digest:
                raise _Failed(f"{url}: is not the shard that was written (by its index): damaged or replaced")

    def _make_room(self, size: int) -> None:
        held = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process makes room too
                state = path.stat()
                if path.suffix == ".parquet":
                    held.append((state.st_mtime, state.st_size, path))
                elif path.suffix == ".tmp" and state.st_mtime < time.time() - STALE:
                    path.unlink()
        total = sum(taken for _, taken, _ in held)
        for _, taken, path in sorted(held):
            if total + size <= self.limit:
                return
            path.unlink(missing_ok=True)
            total -= taken

    @contextmanager
    def _alone(self, digest: str) -> Iterator[None]:
        """One process at a time fetches a shard; where a file system has no locks two may, which costs time alone."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / f".{digest[:2]}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror})") from None
        try:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _first_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:120]
