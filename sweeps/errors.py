"""Every error that towersweep raises on purpose.

TowersweepError
├── InputError                what the user asked for cannot be: exit status 2, nothing written
│   ├── SettingsError         a field of a sweep file or an option: field, value, rule
│   ├── RunFolderError        a run folder that exists, is missing, is locked or is unreadable
│   │   └── DamagedFileError  a file of a run folder is not as it was written
│   ├── StorageError          a study storage that cannot be opened
│   └── ResourceError         a demand that this machine or cluster can never meet
├── HaltedError               a sweep that has begun cannot go on, until `resume`: exit status 1
│   ├── StorageFullError      there is no room for a file of the run folder
│   ├── StorageLostError      the study's storage went away, and was not back in time
│   └── WriterLostError       another driver has taken over
├── TrainableError            a trainable broke its protocol
└── SweepFailedError          the sweep ended, but no trial completed: exit status 1
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


class TowersweepError(Exception):
    """The root: catch this to catch everything towersweep raises on purpose."""


class InputError(TowersweepError):
    """What the user asked for cannot be. The message is one line, fit for a terminal."""


class SettingsError(InputError):
    """A setting breaks a rule.

    Attributes: ``source`` (file or option, may be empty), ``field`` (dotted), ``value``, ``rule``.
    """

    def __init__(self, field: str, value: object, rule: str, source: str = "") -> None:
        self.field, self.value, self.rule, self.source = field, value, rule, source
        super().__init__(field, value, rule, source)

    def __str__(self) -> str:
        where = f"{self.source}: " if self.source else ""
        return without_passwords(f"{where}{self.field} is {self.value!r}, but must be {self.rule}")

    def within(self, source: str, section: str = "") -> SettingsError:
        """The same error, told from further out: which file, and below which section."""
        field = f"{section}.{self.field}" if section else self.field
        return type(self)(field, self.value, self.rule, source or self.source)


class RunFolderError(InputError):
    """A run folder that exists, is missing, is in use, or cannot be written."""


class DamagedFileError(RunFolderError):
    """A file of a run folder is not as it was written; the message names file, place, and what to do."""


class StorageError(InputError):
    """A study storage that cannot be opened. The message never holds a password."""


class ResourceError(InputError):
    """A demand that this machine or cluster can never meet; the message names the shortage."""


class HaltedError(TowersweepError):
    """A sweep that has begun cannot go on. Everything that it has is kept, and ``resume`` goes on with it."""


class StorageFullError(HaltedError):
    """There is no room for a file of the run folder."""


class StorageLostError(HaltedError):
    """The study's storage went away, and was not back in time. The message never holds a password."""


class WriterLostError(HaltedError):
    """Another driver has taken over this run folder or study; this one must not write any more."""


class TrainableError(TowersweepError):
    """A trainable broke its protocol, for instance by reporting a step twice."""


class SweepFailedError(TowersweepError):
    """The sweep ended, but no trial completed."""


def without_passwords(text: str) -> str:
    """``text`` with stars for the password of every URL in it: ``scheme://me:secret@host`` -> ``scheme://me:***@host``.

    Passwords in a URL's query (``?password=...``) get them as well.
    """
    text = re.sub(r"(\w://[^:/@\s'\"]*):[^\s'\"]*@", r"\1:***@", text)
    return re.sub(r"([?&](?:password|passwd|sslpassword)=)[^&\s'\"]*", r"\1***", text, flags=re.IGNORECASE)


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` with the nearest of ``known``, or an empty string if nothing is near."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
