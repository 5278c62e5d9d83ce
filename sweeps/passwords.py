"""Passwords of storages: where they come from, and how they are kept out of everything that is written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from sweeps.errors import without_passwords

PASSWORD_VARIABLE = "TOWERSWEEP_STORAGE_PASSWORD"


class Passwords:
    """Known passwords, and a text without them. Its ``repr`` tells none."""

    def __init__(self, secrets: Iterable[str | None]) -> None:
        shapes = {shape for secret in secrets if secret for shape in _shapes(secret)}
        # The longest first: one may be a part of another.
        self._pattern = "|".join(map(re.escape, sorted(shapes, key=len, reverse=True)))

    @classmethod
    def of(cls, url: str) -> Passwords:
        """Those in a storage's URL, and the one in the environment."""
        secrets = [os.environ.get(PASSWORD_VARIABLE), _password_in(url)]
        query = parse_qsl(url.partition("?")[2])
        return cls([*secrets, *(value for key, value in query if _names_a_password(key))])

    def hidden_in(self, text: str) -> str:
        """``text`` with stars for every password, percent-encoded or not, and without those of other URLs."""
        text = re.sub(self._pattern, "***", text) if self._pattern else text
        return without_passwords(text)

    def __repr__(self) -> str:
        return "Passwords(***)"


def url_without_password(url: str) -> str:
    """``scheme://me:secret@host/name?password=secret&x=1`` -> ``scheme://me@host/name?x=1``."""
    url = re.sub(r"(://[^:/@]*):(?:[^?]*|[^@]*)@", r"\1@", url, count=1)
    address, mark, query = url.partition("?")
    kept = [part for part in query.split("&") if part and not _names_a_password(part.partition("=")[0])]
    return address + (mark if kept else "") + "&".join(kept)


def _names_a_password(key: str) -> bool:
    return "passw" in key.lower()


def _password_in(url: str) -> str | None:
    try:
        password = urlsplit(url).password
    except ValueError:  # Brackets in the host that are none of an IPv6 address.
        return None
    return None if password is None else unquote(password)


def _shapes(secret: str) -> set[str]:
    return {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), repr(secret)[1:-1]}
