"""The curves: every measurement of a sweep, a JSON object a line, only ever appended to.

Each line ends with a checksum of the rest, so that a single changed digit is noticed.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeps.durable import append_whole, sync_folder, torn_bytes, writing
from sweeps.errors import DamagedFileError

_CHECKSUM = "crc"


class CurveLog:
    """Appends to ``curves.jsonl``; durable entries are on the disk when ``append`` returns. A context manager.

    ``check`` is called before anything is made durable, and raises if this driver must not write any more.
    """

    def __init__(self, path: Path, check: Callable[[], None] = lambda: None) -> None:
        self._path, self._check = path, check
        self._dirty = False
        with writing(path):
            _end_last_line(path)
            self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            sync_folder(path.parent)

    def append(self, *entries: Mapping[str, Any], durable: bool = True) -> None:
        """Append entries: all, or none if there is no room for them (StorageFullError).

        Those that are not to be ``durable`` by themselves are so with the next that are; until then they outlive
        this process, but not a loss of power.
        """
        if not entries:
            return
        if durable:
            self._check()
        with writing(self._path):
            append_whole(self._handle, b"".join(map(_line, entries)))
            self._dirty = True
            if durable:
                self._sync()

    def sync(self) -> None:
        """Make all entries durable."""
        if self._dirty:
            self._check()
            with writing(self._path):
                self._sync()

    def _sync(self) -> None:
        os.fsync(self._handle)
        self._dirty = False

    def __enter__(self) -> CurveLog:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._handle)


def read_entries(path: Path) -> Iterator[dict[str, Any]]:
    """All whole entries. A last line cut short by a crash was never acted on, and is passed over.

    Raises DamagedFileError, naming the line, if any other line is not as it was written.
    """
    if not path.exists():
        return
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            problem, entry = _parsed(line)
            if not problem:
                yield entry
            elif line.endswith(b"\n"):
                advice = f"to go on without what it tells, delete the line: sed -i {number}d '{path}'"
                raise DamagedFileError(f"{path}: line {number} is damaged: {problem} ({advice})")


def _line(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(entry, separators=(",", ":"))
    return f'{text[:-1]},"{_CHECKSUM}":"{zlib.crc32(text.encode()):08x}"}}\n'.encode()


def _parsed(line: bytes) -> tuple[str, dict[str, Any]]:
    """What is wrong with a line, if anything, and the entry in it."""
    try:
        entry = json.loads(line)
    except ValueError:  # That of a byte which is not UTF-8 included.
        return "it is not JSON", {}
    if not isinstance(entry, dict):
        return "it is no JSON object", {}
    told = entry.pop(_CHECKSUM, None)
    if told is None:  # Of a version that wrote none.
        return ("", entry) if "kind" in entry else ("it is no entry of a sweep", {})
    written = line.rpartition(f',"{_CHECKSUM}":'.encode())[0] + b"}"
    return ("" if told == f"{zlib.crc32(written):08x}" else "its checksum does not fit"), entry


def _end_last_line(path: Path) -> None:
    """After a crash the last line may lack its end: a whole one gets it, anything else is cut off."""
    content = path.read_bytes() if path.exists() else b""
    torn = torn_bytes(content)
    if not torn:
        return
    problem, _ = _parsed(content[-torn:])
    with path.open("rb+") as stream:
        stream.seek(0, os.SEEK_END)
        if problem:
            stream.truncate(len(content) - torn)
        else:
            stream.write(b"\n")
        stream.flush()
        os.fsync(stream.fileno())
