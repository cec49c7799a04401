"""Files that are written whole or not at all, JSON Lines, YAML, and paths that stay inside their data root."""

from __future__ import annotations

import errno
import fcntl
import filecmp
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from rsiccllm.errors import InputError

Record = TypeVar("Record", bound=BaseModel)

MAX_BYTES = 2**30
"""Of a text file. The longest annotations in use (ChangeChat-105k) have some 100 MB; what is read is held whole."""

MAX_LINE = 2**24
"""Characters of one record. The longest of ours have a few thousand."""

MAX_YAML = 2**20
"""Bytes of a YAML file, which a person writes: it is parsed at about a megabyte in ten seconds."""


@contextmanager
def atomic_write(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` and rename it over `path` when the block ends well.

    A reader sees the old file or the new one, never a part. On an error the temporary file is removed. Raises
    InputError where `path` cannot be written: no such place, no right to, a directory, a full disk.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = temporary.open(mode, encoding=None if "b" in mode else "utf-8")
    try:
        try:
            yield handle
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise InputError(f"{path}: cannot be written ({error.strerror})") from None
            raise
        with _writing(path):
            handle.flush()
            os.fsync(handle.fileno())
            handle.close()
            temporary.replace(path)
    finally:
        # Closing flushes, which fails once more on a full disk; the first error is the one to show.
        with suppress(OSError):
            handle.close()
        temporary.unlink(missing_ok=True)


_TEMPORARY = re.compile(r"\..+\.\d+\.\d+\.tmp")


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed `atomic_write` left anywhere in `folder`, which nobody else may be
    writing to."""
    for path in folder.rglob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_write(path) as handle:
        json.dump(value, handle, indent=2, ensure_ascii=False)
        handle.write("\n")


def read_text(path: Path | str) -> str:
    """Read a UTF-8 text file, with or without a byte order mark. Raises InputError when it is missing, no regular file
    (a pipe or a device would be read without end), longer than `MAX_BYTES`, or not UTF-8."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{path}: not a regular file, expected a text file")
        if path.is_file() and (size := path.stat().st_size) > MAX_BYTES:
            raise InputError(f"{path}: {size:,} bytes; expected at most {MAX_BYTES:,}, or several files")
        return path.read_text(encoding="utf-8-sig")
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory, expected a file") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def read_json(path: Path | str) -> Any:
    """Read a JSON file. Raises InputError naming the file and the line that does not parse, or a key that stands twice.

    (Python keeps the last of two equal keys and says nothing: of two captions for one image one would be lost.)
    """

    def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if len(value) != len(items):
            keys = [key for key, _ in items]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"{path}: key '{twice}' stands twice in one object")
        return value

    try:
        return json.loads(read_text(path), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from None
    except RecursionError:
        raise InputError(f"{path}: JSON is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"{path}: not valid JSON ({error})") from None


class PlainLoader(yaml.SafeLoader):
    """YAML of plain values, without aliases: a few lines of them stand for a value of billions of parts."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As the base class's, but for aliases."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read", mark)
        return super().compose_node(parent, index)


def parse_yaml(text: str, where: object, loader: type[PlainLoader] = PlainLoader) -> Any:
    """The value of a YAML text. where: what errors call it. loader: reads the text, with resolvers of its own.

    Raises InputError for what is not YAML, for aliases, tags of Python's, values nested too deeply and long texts.
    """
    if len(text) > MAX_YAML:
        raise InputError(f"{where}: {len(text):,} characters of YAML; expected at most {MAX_YAML:,}")
    try:
        return yaml.load(text, loader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, OverflowError) as error:
        # ValueError: the 45th of a 13th month. TypeError: a list as the key of a mapping.
        mark = getattr(error, "problem_mark", None)
        reason = " ".join(str(getattr(error, "problem", None) or "").split())[:120]
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{where}{line}: not valid YAML{f' ({reason})' if reason else ''}") from None


SHARD = "{}-{:05d}.{}"
"""How the parts of a list too long for one file are named: stem, number, ending."""


def shards(path: Path | str) -> list[Path]:
    """The files that hold the list `path` names: itself, or where it is not there its shards in order.

    `instructions.jsonl` is one file, or `instructions-00000.jsonl`, `instructions-00001.jsonl` and so on.
    """
    path = Path(path)
    if path.exists():
        return [path]
    found = sorted(path.parent.glob(f"{path.stem}-[0-9][0-9][0-9][0-9][0-9]{path.suffix}"))
    expected = [path.with_name(SHARD.format(path.stem, number, path.suffix[1:])) for number in range(len(found))]
    if found != expected:
        missing = next(file for file, there in zip(expected, found, strict=True) if file != there)
        raise InputError(f"{missing}: no such file, though later parts of {path.name} are there")
    return found or [path]


def read_jsonl(path: Path | str, record: type[Record]) -> list[Record]:
    """Read JSON Lines into records, each with an id of its own where the type has one; blank lines pass.

    From one file or its shards (see `shards`). Raises InputError naming file, line, field and expectation.
    """
    records: list[Record] = []
    seen: dict[str, tuple[Path, int]] = {}
    for file in shards(path):
        _read_file(file, record, records, seen)
    return records


def _read_file(path: Path, record: type[Record], records: list[Record], seen: dict[str, tuple[Path, int]]) -> None:
    """Add the records of one file to `records`. seen: where each id was read."""
    # Not splitlines(): it would also cut at U+2028 and its like, which may stand inside a JSON string.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        if len(line) > MAX_LINE:
            raise InputError(f"{path}:{number}: a line of {len(line):,} characters; expected at most {MAX_LINE:,}")
        try:
            item = record.model_validate_json(line)
        except ValidationError as error:
            raise InputError(f"{path}:{number}: {describe_validation(error)}") from None
        name = getattr(item, "id", None)
        if name is not None and name in seen:
            file, first = seen[name]
            where = f"on line {first}" if file == path else f"in {file.name} on line {first}"
            raise InputError(f"{path}:{number}: field 'id': '{name}' is {where} already")
        if name is not None:
            seen[name] = (path, number)
        records.append(item)


def write_jsonl(path: Path | str, records: Iterable[BaseModel | dict[str, Any]]) -> None:
    """Write records as JSON Lines, whole or not at all. Unset optional fields are left out."""
    with atomic_write(path) as handle:
        for item in records:
            if isinstance(item, BaseModel):
                handle.write(item.model_dump_json(exclude_none=True) + "\n")
            else:
                handle.write(json.dumps(item, ensure_ascii=False) + "\n")


def describe_validation(error: ValidationError) -> str:
    """The first fault of a pydantic error in one line: field, what is wrong, what stood there."""
    faults = validation_faults(error)
    return faults[0] + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def validation_faults(error: ValidationError) -> list[str]:
    """Every fault of a pydantic error, one line each: field, what is wrong, what stood there."""
    lines = []
    for fault in error.errors():
        field = ".".join(str(part) for part in fault["loc"]) or "record"
        line = f"field '{field}': {fault['msg'].removeprefix('Value error, ')}"
        if fault["type"] not in {"missing", "extra_forbidden", "json_invalid"}:
            given = repr(fault["input"])
            line += f", got {given[:80]}{'...' if len(given) > 80 else ''}"
        lines.append(line)
    return lines


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, refused with InputError where it is absolute or leaves `root` (by `..` or a symbolic link)."""
    candidate = Path(relative)
    if candidate.is_absolute() or ".." in candidate.parts:
        raise InputError(f"path '{relative}' leaves the data root {root}")
    try:
        resolved, base = (root / candidate).resolve(), root.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of symbolic links, a null byte
        raise InputError(f"path {relative!r} under {root} cannot be followed") from None
    if not resolved.is_relative_to(base):
        raise InputError(f"path '{relative}' leaves the data root {root} through a symbolic link")
    return root / candidate


def sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes. Raises InputError where it cannot be read."""
    try:
        with Path(path).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


CHECKSUMS = "SHA256SUMS"
"""The file of a built folder that holds the checksum of every other, in the form that `sha256sum -c` reads."""


def check_sums(root: Path, files: Iterable[Path]) -> None:
    """Raise InputError where one of `files` is not as it was when the folder `root` was built.

    Files that SHA256SUMS does not name pass, and all of them where a folder has none.
    """
    path = root / CHECKSUMS
    if not path.is_file():
        return
    sums = {name: digest for line in read_text(path).split("\n") for digest, _, name in [line.partition("  ")]}
    for file in files:
        name = file.relative_to(root).as_posix()
        if name in sums and sha256(file) != sums[name]:
            raise InputError(
                f"{file}: is not the file that was built (by {path}): damaged or edited; build it again, or take its "
                f"line out of {CHECKSUMS} if it was you who edited it"
            )


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """The folder is this process's to write to while the block runs; a second process is refused with InputError.

    The lock is the system's, on the file `.lock`: whatever ends the process ends it, and processes that it started do
    not hold it.
    """
    path = folder / ".lock"
    with _writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EAGAIN}:
                raise InputError(f"{folder}: is in use by another run") from None
            if error.errno not in {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}:  # a file system without locks
                raise
        yield
    finally:
        os.close(handle)


def link_or_copy(source: Path, target: Path) -> None:
    """Put the file `source` at `target`: a hard link where the file system allows one, else a whole copy.

    Does nothing where `target` is there already with the same bytes; one of other bytes, left by an earlier run, is
    replaced. Links cost no space, so a built data set is a folder of its own.
    """
    if target.exists():
        if target.samefile(source) or filecmp.cmp(source, target, shallow=False):
            return
        target.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except FileExistsError:
        pass
    except OSError:
        with atomic_write(target, "wb") as handle, source.open("rb") as origin:
            shutil.copyfileobj(origin, handle)
