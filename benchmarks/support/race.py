"""One contestant's side of ``peers.py``: how long it has, and the events by which it is judged.

The clock is the machine's monotonic one, which all processes share; it starts before a contestant's process does.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Race:
    """``began``: what the clock showed at the start. ``events``: a JSON object a line, in a folder of its own."""

    events: Path
    began: float
    seconds: float
    seed: int
    kernel_size: int
    split_seed: int
    variant: str = ""

    @classmethod
    def from_command_line(cls) -> Race:
        """As ``arguments`` of ``peers.py`` names it."""
        parser = argparse.ArgumentParser()
        parser.add_argument("events", type=Path)
        parser.add_argument("began", type=float)
        parser.add_argument("seconds", type=float)
        parser.add_argument("seed", type=int)
        parser.add_argument("kernel_size", type=int)
        parser.add_argument("split_seed", type=int)
        parser.add_argument("variant", nargs="?", default="")
        return cls(**vars(parser.parse_args()))

    @property
    def arguments(self) -> list[str]:
        """What ``from_command_line`` reads."""
        numbers = (repr(self.began), self.seconds, self.seed, self.kernel_size, self.split_seed)
        return [str(self.events), *map(str, numbers), self.variant]

    @property
    def left(self) -> float:
        """Seconds until the end, at least a second."""
        return max(1.0, self.seconds - self.now())

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def measured(self, eval_loss: float) -> None:
        """A rung was measured, and whoever decides knows of it."""
        if isfinite(eval_loss):
            self._note({"loss": eval_loss})

    def ended(self, trials: int = 1) -> None:
        """A training ended (stopped early or complete), and with it so many trials."""
        self._note({"trials": trials})

    def _note(self, event: dict[str, Any]) -> None:
        # Short lines, appended by one write each: two processes may share the file.
        with self.events.open("a") as file:
            file.write(json.dumps({"time": self.now(), **event}) + "\n")
