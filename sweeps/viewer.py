"""The Optuna study viewer: optuna-dashboard on loopback, read-only unless asked otherwise.

The dashboard has neither authentication nor a check against forged requests, so what stands in front of it decides
what may pass. Three things are refused: methods that could change something (unless ``writable``), a Host header
that is not this machine's loopback name with this port (a page elsewhere could otherwise reach the viewer by DNS
rebinding), and changes that a page of another origin asks for.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from sweeps.errors import InputError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from optuna.storages import BaseStorage

LOOPBACK = "127.0.0.1"
READING = ("GET", "HEAD")

# How often a server without traffic looks whether it was asked to stop.
STOP_CHECK_SECONDS = 0.2

_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "same-origin"),
]


def make_app(
    storage: BaseStorage, *, writable: bool = False, host: str = LOOPBACK, port: int = 8080
) -> WSGIApplication:
    """The dashboard over ``storage``, guarded. ``host`` and ``port`` are where it will be served.

    Answers 403 to a Host that is not a loopback name (or ``host``) with ``port``; 405 to anything but GET and HEAD
    unless ``writable``; 403 to changes from another origin.
    """
    from optuna_dashboard import wsgi

    dashboard: WSGIApplication = wsgi(storage)
    allowed = _authorities(host, port)

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        refusal = _refusal(environ, allowed, writable=writable)
        if refusal is not None:
            return _answer(start_response, *refusal, head=environ["REQUEST_METHOD"] == "HEAD")

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, headers + _HEADERS, *rest)

        return dashboard(environ, start)

    return guarded


def serve(
    storage: BaseStorage,
    *,
    port: int = 8080,
    writable: bool = False,
    ready: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Serve the viewer on 127.0.0.1 until ``stop`` is set or the process is interrupted (Ctrl-C).

    ``port`` 0 takes any free one. ``ready`` is called with the viewer's address once connections are accepted.
    Raises InputError if the port is in use or may not be opened.
    """
    from waitress import create_server, wasyncore

    # Waitress warns through logging when requests queue up, which a browser's burst always does; say nothing.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    with _listen(port) as listener:
        port = listener.getsockname()[1]
        app = make_app(storage, writable=writable, port=port)
        channels: dict[int, Any] = {}
        server = create_server(app, map=channels, sockets=[listener], threads=4, ident=None)
        try:
            if ready is not None:
                ready(f"http://{LOOPBACK}:{port}/")
            while stop is None or not stop.is_set():
                wasyncore.loop(timeout=STOP_CHECK_SECONDS, map=channels, count=1)
        except KeyboardInterrupt:
            pass
        finally:
            server.task_dispatcher.shutdown()
            wasyncore.close_all(channels)


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise InputError(_port_message(port, error)) from error
    return listener


def _port_message(port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port is {port}, but must be free (0 takes any free port)"
    if error.errno == errno.EACCES:
        return f"port is {port}, but must be one that this user may open (1024 or above)"
    return f"port is {port}, but must be one that can be opened ({error.strerror})"


def _authorities(host: str, port: int) -> frozenset[str]:
    names = {host.lower(), LOOPBACK, "localhost", "[::1]"}
    with_port = {f"{name}:{port}" for name in names}
    return frozenset(with_port | names if port == 80 else with_port)


def _refusal(
    environ: WSGIEnvironment, allowed: frozenset[str], *, writable: bool
) -> tuple[HTTPStatus, str, list[tuple[str, str]]] | None:
    """Why a request may not pass: status, message, headers. None lets it pass."""
    host, method = environ.get("HTTP_HOST", ""), environ["REQUEST_METHOD"]
    if host.lower() not in allowed:
        names = ", ".join(sorted(allowed))
        return HTTPStatus.FORBIDDEN, f"Host is {host!r}, but must be one of {names}", []
    if method in READING:
        return None
    if not writable:
        message = "This viewer is read-only (to allow changes: towersweep view --writable)"
        return HTTPStatus.METHOD_NOT_ALLOWED, message, [("Allow", ", ".join(READING))]
    if not _same_origin(environ, host):
        return HTTPStatus.FORBIDDEN, "Changes must come from the viewer's own pages", []
    return None


def _same_origin(environ: WSGIEnvironment, host: str) -> bool:
    """Browsers name the asking page's origin with every change; programs such as curl name none."""
    if environ.get("HTTP_SEC_FETCH_SITE", "same-origin") not in ("same-origin", "none"):
        return False
    origin = environ.get("HTTP_ORIGIN")
    if origin is None:
        return True
    return bool(origin.lower() == f"http://{host.lower()}")


def _answer(
    start_response: StartResponse, status: HTTPStatus, message: str, headers: list[tuple[str, str]], *, head: bool
) -> Iterable[bytes]:
    body = f"{message}\n".encode()
    plain = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start_response(f"{status.value} {status.phrase}", plain + headers + _HEADERS)
    return [] if head else [body]
