"""driver.log: bounded, without passwords, and no reason to stop a sweep when the disk is full."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from sweeps.durable import FULL
from sweeps.passwords import Passwords

MAX_BYTES = 8 * 2**20


class DriverLog(RotatingFileHandler):
    """At most two files of MAX_BYTES, the older one ``driver.log.1``.

    A line for which there is no room is left out: what a sweep needs is in its curves and its study.
    """

    def __init__(self, path: Path, passwords: Passwords) -> None:
        super().__init__(path, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._passwords = passwords

    def format(self, record: logging.LogRecord) -> str:
        """The line, with every known password and every URL's left out."""
        return self._passwords.hidden_in(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's own name
        """What could not be written for want of room is dropped, and what is buffered of it too."""
        error = sys.exception()
        if isinstance(error, OSError) and error.errno in FULL:
            self._drop()
        else:
            super().handleError(record)

    def close(self) -> None:
        """Close the file, whether or not there is room for its last line."""
        try:
            super().close()
        except OSError as error:
            if error.errno not in FULL:
                raise

    def _drop(self) -> None:
        stream, self.stream = self.stream, None  # Opened again for the next line.
        try:
            if stream is not None:
                stream.close()
        except OSError as error:
            if error.errno not in FULL:
                raise
