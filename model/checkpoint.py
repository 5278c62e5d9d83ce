"""A run's whole state as bytes, and back. The bytes are an .npz archive; nothing in them is ever unpickled."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.trajectory import Snapshot

FORMAT = 2

# What zipfile and NumPy raise for damaged archives. A damaged flag makes a member look encrypted, or
# packed in a way that zipfile lacks: RuntimeError and its heir.
DAMAGE = (ValueError, KeyError, TypeError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


class CheckpointError(ValueError):
    """These bytes are not a checkpoint, are damaged, or belong to another trial."""


def dump(snapshot: Snapshot, step: int, key: str) -> bytes:
    """``key`` (JSON) says what the state belongs to: settings, readouts and seed; ``load`` wants the same."""
    stream = io.BytesIO()
    header = json.dumps({"format": FORMAT, "step": step, "key": key})
    np.savez(stream, header=np.frombuffer(header.encode(), np.uint8), **asdict(snapshot))
    return stream.getvalue()


def load(state: bytes, key: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Snapshot, int]:
    """The snapshot, of float32 arrays in these ``shapes``, and its step. Raises CheckpointError."""
    try:
        with np.load(io.BytesIO(state), allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            arrays = {name: archive[name] for name in archive.files if name != "header"}
    except DAMAGE as error:
        raise CheckpointError(f"checkpoint is damaged, but must be a towersweep checkpoint ({error})") from error
    step = _checked_step(header, key)
    _check_arrays(arrays, shapes)
    return Snapshot(**arrays), step


def _checked_step(header: Any, key: str) -> int:
    """The step that the header tells. Its key is compared before anything that may differ for that reason."""
    if not isinstance(header, dict):
        raise CheckpointError("checkpoint's header is no table, but must be a towersweep checkpoint's")
    if header.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint has format {header.get('format')!r}, but must have {FORMAT}")
    if header.get("key") != key:
        theirs, ours = _difference(header.get("key"), key)
        raise CheckpointError(f"checkpoint belongs to a trial with {theirs}, but must belong to one with {ours}")
    step = header.get("step")
    if type(step) is not int or step < 0:
        raise CheckpointError(f"checkpoint's step is {step!r}, but must be a whole number of at least 0")
    return step


def _check_arrays(arrays: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    if arrays.keys() != shapes.keys():
        raise CheckpointError(f"checkpoint holds {sorted(arrays)}, but must hold {sorted(shapes)}")
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.shape != shapes[name]:
            rule = f"float32 of shape {shapes[name]}"
            raise CheckpointError(f"checkpoint's {name} is {array.dtype} of {array.shape}, but must be {rule}")


def _difference(theirs: object, ours: str) -> tuple[str, str]:
    """The first entry in which two keys differ, as each has it."""
    try:
        left = _flat(json.loads(str(theirs)))
    except ValueError:
        return f"key {theirs!r}", f"key {ours!r}"
    right = _flat(json.loads(ours))
    names = [name for name in sorted(left.keys() | right.keys()) if left.get(name) != right.get(name)]
    first = names[0] if names else "key"
    return f"{first}={left.get(first)!r}", f"{first}={right.get(first)!r}"


def _flat(value: object, name: str = "") -> dict[str, object]:
    """Nested tables as one, with dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    found: dict[str, object] = {}
    for key, inner in value.items():
        found.update(_flat(inner, f"{name}.{key}" if name else str(key)))
    return found
