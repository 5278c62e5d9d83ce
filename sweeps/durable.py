"""Files that survive: atomic writes, synced folders, sealed content, and a full disk told in one line.

A file is durable when its bytes and the folder's entry for it are on the disk; both are synced here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeps.errors import DamagedFileError, StorageFullError

# No room on the device, no room in the user's quota, or past the largest size that a file may have.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
TEMPORARY = ".tmp"

_SEAL = b"towersweep sealed 1"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within: ``path`` is written. Raises StorageFullError if there is no room for it."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFullError(
                f"{path} cannot be written: {os.strerror(error.errno or 0)}; what was there before is whole: "
                f"make room, then go on with towersweep resume"
            ) from error
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` so that ``path`` holds either the old bytes or all of the new, whatever happens.

    It is durable when this returns. Raises StorageFullError.
    """
    with writing(path):
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the entries of ``folder`` durable: files made, renamed or removed in it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_whole(handle: int, content: bytes) -> None:
    """Append all of ``content`` to an open file, or nothing of it: what a failed write left behind is cut off."""
    end = os.fstat(handle).st_size
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(handle, left) :]
    except OSError:
        os.ftruncate(handle, end)
        raise


def sealed(content: bytes) -> bytes:
    """``content`` behind a line that tells its length and its checksum."""
    return b"%s %d %s\n%s" % (_SEAL, len(content), hashlib.sha256(content).hexdigest().encode(), content)


def read_sealed(path: Path) -> bytes:
    """What was sealed in the file at ``path``. Raises DamagedFileError if it is not what was written."""
    raw = path.read_bytes()
    first, newline, content = raw.partition(b"\n")
    seal, _, told = first.rpartition(b" ")
    if not newline or not seal.startswith(_SEAL + b" "):
        raise DamagedFileError(f"{path}: line 1 is damaged, but must tell length and checksum ({_advice(path)})")
    length = seal.removeprefix(_SEAL + b" ").decode("ascii", "replace")
    if length != str(len(content)):
        raise DamagedFileError(f"{path}: holds {len(content)} bytes, but must hold {length} ({_advice(path)})")
    if told != hashlib.sha256(content).hexdigest().encode():
        raise DamagedFileError(f"{path}: its content is damaged: the checksum does not fit ({_advice(path)})")
    return content


def _advice(path: Path) -> str:
    return f"to go on without it, remove {path.name}"


def torn_bytes(content: bytes) -> int:
    """How many bytes at the end of ``content``, lines of text, a write left there that was cut short.

    They end no line. A loss of power may leave zeros where a file had grown already.
    """
    return len(content) - (content.rfind(b"\n") + 1)
