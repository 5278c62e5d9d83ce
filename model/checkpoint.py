"""A run's whole state as bytes, and back. The bytes are an .npz archive; nothing in them is ever unpickled."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict

import numpy as np

from model.training import Snapshot

FORMAT = 1


class CheckpointError(ValueError):
    """These bytes are not a checkpoint, are damaged, or belong to another trial."""


def dump(snapshot: Snapshot, step: int, key: str) -> bytes:
    """``key`` says what the state belongs to: parameters, readouts and seed; ``load`` wants the same."""
    stream = io.BytesIO()
    header = json.dumps({"format": FORMAT, "step": step, "key": key})
    np.savez(stream, header=np.frombuffer(header.encode(), np.uint8), **asdict(snapshot))
    return stream.getvalue()


def load(state: bytes, key: str) -> tuple[Snapshot, int]:
    """The snapshot and its step. Raises CheckpointError."""
    try:
        with np.load(io.BytesIO(state), allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            arrays = {name: archive[name] for name in archive.files if name != "header"}
            snapshot = Snapshot(**arrays)
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"checkpoint is damaged, but must be a towersweep checkpoint ({error})") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint has format {header.get('format')}, but must have {FORMAT}")
    if header["key"] != key:
        raise CheckpointError(f"checkpoint belongs to {header['key']}, but must belong to {key}")
    return snapshot, int(header["step"])
