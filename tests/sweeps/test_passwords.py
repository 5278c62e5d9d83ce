"""A password is never in a text that somebody may read, in whatever shape it got there."""

import logging

import pytest
from sqlalchemy.engine import make_url

from sweeps import config
from sweeps.driver_log import DriverLog
from sweeps.errors import SettingsError, without_passwords
from sweeps.passwords import Passwords, url_without_password

SECRET = "s3c/r@t %+'x"
ENCODED = "s3c%2Fr%40t%20%25%2B%27x"
BASE = "postgresql+psycopg://me{}@db.example:5432/studies"


def holds_it(text):
    return any(shape in text for shape in (SECRET, ENCODED, "s3c/r", "s3c%2Fr", "s3c%2fr"))


@pytest.mark.parametrize("url", [BASE.format(f":{ENCODED}"), BASE.format("") + f"?password={ENCODED}"])
@pytest.mark.parametrize(
    "text", ["{url}", "bad url '{url}'", "password={secret} host=x", "{encoded}", "{secret!r}", "x {plus}"]
)
def test_known_passwords_are_hidden_in_every_shape(url, text):
    shown = text.format(url=url, secret=SECRET, encoded=ENCODED, plus=ENCODED.replace("%20", "+"))
    hidden = Passwords.of(url).hidden_in(shown)
    assert not holds_it(hidden)
    assert "***" in hidden
    assert not holds_it(repr(Passwords.of(url)))


def test_the_one_in_the_environment_is_hidden(monkeypatch):
    monkeypatch.setenv("TOWERSWEEP_STORAGE_PASSWORD", SECRET)
    assert Passwords.of("").hidden_in(f"login {SECRET}!") == "login ***!"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("see http://host:80/x and a@b.c", "see http://host:80/x and a@b.c"),
        ("postgresql://me:pw@host/db", "postgresql://me:***@host/db"),
        ("a 'mysql://me:p:w@x@host/db', b", "a 'mysql://me:***@host/db', b"),
        ("postgresql:///db?user=me&Password=pw&x=1", "postgresql:///db?user=me&Password=***&x=1"),
        ("no url at all: me@host", "no url at all: me@host"),
    ],
)
def test_any_url_s_password_is_hidden(text, hidden):
    assert without_passwords(text) == hidden


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("postgresql://me:pw@host/db", "postgresql://me@host/db"),
        ("postgresql://me@host/db?password=pw", "postgresql://me@host/db"),
        ("mysql://me:p%40w@host/db?passwd=pw&charset=utf8", "mysql://me@host/db?charset=utf8"),
        ("postgresql://host/db?a=1&b=2", "postgresql://host/db?a=1&b=2"),
        ("postgresql://me:p?w@host/db?x=a@b", "postgresql://me@host/db?x=a@b"),
        ("sqlite:////tmp/study.db", "sqlite:////tmp/study.db"),
        ("", ""),
    ],
)
def test_a_url_is_kept_without_its_password(url, kept):
    assert url_without_password(url) == kept
    if url:
        assert make_url(kept).host == make_url(url).host
        assert make_url(kept).password is None


@pytest.mark.parametrize(
    "overrides",
    [
        ["storage.urll={url}"],
        ["storage.patience={url}"],
        ["storage={url}"],
        ["search.sampler={url}"],
        ["storage.url={url}", "storage.patience=0"],
        ["storage.url.more={url}"],
    ],
)
def test_a_settings_error_about_a_url_tells_no_password(overrides):
    url = BASE.format(f":{ENCODED}")
    with pytest.raises(SettingsError) as caught:
        config.from_mapping({"name": "x"}, "my.toml", [each.format(url=url) for each in overrides])
    assert not holds_it(str(caught.value))


def test_the_driver_s_log_holds_none_and_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("sweeps.driver_log.MAX_BYTES", 4000)
    log = DriverLog(tmp_path / "driver.log", Passwords.of(BASE.format(f":{ENCODED}")))
    for number in range(300):
        try:
            raise ConnectionError(f"cannot log in as {SECRET} at {BASE.format(':' + ENCODED)} ({number})")
        except ConnectionError:
            record = logging.LogRecord("sweeps", logging.ERROR, __file__, 1, "told %s", (SECRET,), None)
            record.exc_info = __import__("sys").exc_info()
            log.handle(record)
    log.close()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"driver.log", "driver.log.1"}
    texts = [(tmp_path / name).read_text() for name in names]
    assert "(299)" in "".join(texts)
    assert not any(holds_it(text) for text in texts)
    assert sum(map(len, texts)) < 10_000
