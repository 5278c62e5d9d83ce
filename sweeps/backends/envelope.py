"""What a worker hands out as a run's state: the run's own bytes, and what was measured since the last rung.

A line of text, a JSON table, then the run's own state, which nothing here looks into:

    towersweep-state 1 CRC32 TABLE_BYTES STATE_BYTES\\n{"step": ..., "seconds": ..., "curve": [...]}...
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.errors import TrainableError
from sweeps.records import CurvePoint, Measurement, Score

MAGIC, FORMAT = b"towersweep-state ", 1


@dataclass(frozen=True)
class Partial:
    """Where a run stands (``step``), and what was measured since its last rung: points, worker's seconds."""

    step: int = 0
    curve: tuple[CurvePoint, ...] = ()
    seconds: float = 0.0

    def plus(self, leg: Measurement) -> Partial:
        """With one more leg."""
        return Partial(leg.step, (*self.curve, *leg.curve), self.seconds + leg.seconds)


def wrap(partial: Partial, state: bytes) -> bytes:
    """The envelope. Floats in it are exact."""
    table = {"step": partial.step, "seconds": partial.seconds, "curve": [_entry(p) for p in partial.curve]}
    body = json.dumps(table, separators=(",", ":")).encode()
    head = b"%s%d %d %d %d\n" % (MAGIC, FORMAT, zlib.crc32(state, zlib.crc32(body)), len(body), len(state))
    return head + body + state


def unwrap(envelope: bytes) -> tuple[Partial, bytes]:
    """What ``wrap`` was given. Raises TrainableError if the bytes are damaged or no envelope."""
    head, _, rest = envelope.partition(b"\n") if envelope.startswith(MAGIC) else (b"", b"", b"")
    try:
        version, checksum, table_bytes, state_bytes = map(int, head[len(MAGIC) :].split())
    except ValueError as error:
        raise _damaged("it does not begin as one") from error
    if version != FORMAT:
        raise TrainableError(f"the run's state has format {version}, but must have {FORMAT}")
    if len(rest) != table_bytes + state_bytes:
        raise _damaged(f"{len(rest)} bytes of {table_bytes + state_bytes} are there")
    if zlib.crc32(rest) != checksum:
        raise _damaged("its checksum is another")
    table = json.loads(rest[:table_bytes])
    curve = tuple(_point(entry) for entry in table["curve"])
    return Partial(table["step"], curve, table["seconds"]), rest[table_bytes:]


def run_state(stored: bytes) -> bytes:
    """The run's own bytes; those that are in no envelope, as version 1 kept them, are returned as they are."""
    return unwrap(stored)[1] if stored.startswith(MAGIC) else stored


def _damaged(how: str) -> TrainableError:
    return TrainableError(f"the run's state is damaged, but must be whole ({how})")


def _entry(point: CurvePoint) -> list[Any]:
    score = None if point.score is None else [point.score.eval_loss, point.score.eval_accuracy]
    return [point.step, point.train_loss, score, dict(point.metrics)]


def _point(entry: Sequence[Any]) -> CurvePoint:
    step, train_loss, score, metrics = entry
    return CurvePoint(step, train_loss, None if score is None else Score(*score), metrics)
