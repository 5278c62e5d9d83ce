"""The study viewer on a real port, in a thread of the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweeps import viewer

PATIENCE_SECONDS = 60


@contextmanager
def served(journal: Path, **options: Any) -> Iterator[int]:
    """The port of a viewer over the study in ``journal``; ``options`` are those of ``viewer.serve``."""
    stop, ready, urls = threading.Event(), threading.Event(), []

    def announce(url: str) -> None:
        urls.append(url)
        ready.set()

    storage = JournalStorage(JournalFileBackend(str(journal)))
    arguments = {"port": 0, "ready": announce, "stop": stop, **options}
    thread = threading.Thread(target=viewer.serve, args=(storage,), kwargs=arguments)
    thread.start()
    try:
        assert ready.wait(PATIENCE_SECONDS), "the viewer never said that it is ready"
        yield int(urls[0].removeprefix("http://127.0.0.1:").removesuffix("/"))
    finally:
        stop.set()
        thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive(), "the viewer went on after it was asked to stop"
