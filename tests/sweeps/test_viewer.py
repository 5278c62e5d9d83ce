"""The viewer over a real port: what it serves, what it refuses, and that looking changes nothing."""

import hashlib
import http.client
import json
import socket
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweeps import viewer
from sweeps.errors import InputError
from tests.support.serving import PATIENCE_SECONDS, served
from tests.support.studies import STUDY_NAME, write_study


@pytest.fixture(scope="module")
def journal(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("study") / "study.journal"
    write_study(path, trials=12)
    return path


@pytest.fixture(scope="module")
def port(journal):
    with served(journal) as found:
        yield found


@pytest.fixture
def writable_port(journal, tmp_path):
    copy = tmp_path / "study.journal"
    copy.write_bytes(journal.read_bytes())
    with served(copy, writable=True) as found:
        yield found


def ask(port: int, path: str = "/", method: str = "GET", body: str | None = None, **headers: str):
    """Status, headers and body of one request; ``headers`` with _ for -."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read().decode(errors="replace")
    finally:
        connection.close()


def study_names(port: int) -> list[str]:
    status, _, body = ask(port, "/api/studies")
    assert status == 200
    return [study["study_name"] for study in json.loads(body)["study_summaries"]]


def test_the_root_leads_to_the_dashboard(port):
    status, headers, _ = ask(port)
    assert status in (302, 303)
    assert headers["Location"] == f"http://127.0.0.1:{port}/dashboard"
    status, _, body = ask(port, "/dashboard")
    assert status == 200
    assert "Optuna Dashboard" in body


def test_the_study_is_there_with_its_trials(port):
    assert study_names(port) == [STUDY_NAME]
    status, _, body = ask(port, "/api/studies/0?after=0")
    assert status == 200
    assert len(json.loads(body)["trials"]) == 12


def test_head_answers_without_a_body(port):
    status, _, body = ask(port, "/dashboard", "HEAD")
    assert (status, body) == (200, "")


CHANGES = [
    ("POST", "/api/studies"),
    ("DELETE", "/api/studies/0"),
    ("POST", "/api/studies/0/rename"),
    ("PUT", "/api/studies/0/note"),
    ("POST", "/api/trials/0/tell"),
    ("PATCH", "/dashboard"),
    ("OPTIONS", "/api/studies"),
    ("NONSENSE", "/"),
]


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_whatever_could_change_something_is_refused(port, journal, method, path):
    before = journal.read_bytes()
    status, headers, body = ask(port, path, method, "{}", Content_Type="application/json")
    assert status == 405
    assert headers["Allow"] == "GET, HEAD"
    assert "read-only" in body
    assert journal.read_bytes() == before


def test_a_method_cannot_be_smuggled_in_a_header(port):
    status, _, _ = ask(port, "/api/studies/0", "GET", X_HTTP_Method_Override="DELETE")
    assert status == 200
    assert study_names(port) == [STUDY_NAME]


@pytest.mark.parametrize("host", ["127.0.0.1:{}", "localhost:{}", "LOCALHOST:{}", "[::1]:{}"])
def test_loopback_names_are_let_in(port, host):
    assert ask(port, "/api/studies", Host=host.format(port))[0] == 200


FOREIGN = [
    "evil.example", "evil.example:{}", "127.0.0.1", "localhost", "127.0.0.1:1", "localhost.evil.example:{}",
    "127.0.0.1:{}.evil.example", "evil.example@127.0.0.1:{}", "0.0.0.0:{}", "",
]  # fmt: skip


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("path", ["/", "/api/studies", "/static/bundle.js"])
def test_a_foreign_host_is_refused(port, host, path):
    status, headers, body = ask(port, path, Host=host.format(port))
    assert status == 403
    assert headers["Content-Type"].startswith("text/plain")
    assert "but must be one of" in body


def test_a_request_without_a_host_is_refused(port):
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as raw:
        raw.sendall(b"GET /api/studies HTTP/1.0\r\n\r\n")
        assert raw.makefile("rb").readline().startswith(b"HTTP/1.0 403 ")


def test_it_listens_on_loopback_alone(journal, monkeypatch):
    bound = []
    original = socket.socket.bind
    monkeypatch.setattr(socket.socket, "bind", lambda self, at: (bound.append(at), original(self, at))[1])
    with served(journal):
        pass
    assert [address[0] for address in bound] == ["127.0.0.1"]


def test_looking_at_everything_writes_nothing(port, journal):
    """Every GET route that the dashboard has, asked for the study and for trials that are and are not there."""
    before = hashlib.sha256(journal.read_bytes()).hexdigest(), journal.stat().st_mtime_ns
    app = optuna_dashboard_app(journal)
    rules = {route.rule for route in app.routes if route.method == "GET"}
    assert "/api/studies/<study_id:int>/param_importances" in rules, "the routes are those of the dashboard"
    asked = 0
    for rule in sorted(rules):
        for number in ("0", "11", "99"):
            path = rule.replace("<:re:(/.*)?>", "/studies/0")
            for name in ("<study_id:int>", "<trial_id:int>"):
                path = path.replace(name, number)
            path = path.replace("<plot_type>", "optimization_history").replace("<filename:path>", "bundle.js")
            path = path.replace("<artifact_id:re:[0-9a-fA-F-]+>", "abc")
            assert "<" not in path
            status = ask(port, path)[0]
            assert number != "0" or status in (200, 302, 303, 400, 404), path
            asked += 1
    assert asked >= 30
    assert (hashlib.sha256(journal.read_bytes()).hexdigest(), journal.stat().st_mtime_ns) == before


def optuna_dashboard_app(journal: Path):
    import optuna_dashboard

    return optuna_dashboard.wsgi(JournalStorage(JournalFileBackend(str(journal))))


def test_a_study_that_is_still_written_is_shown_as_it_grows(tmp_path):
    path = tmp_path / "study.journal"
    study = write_study(path, trials=0)
    with served(path) as port:
        assert len(json.loads(ask(port, "/api/studies/0?after=0")[2])["trials"]) == 0
        assert study_names(port) == [STUDY_NAME]
        optuna.create_study(storage=JournalStorage(JournalFileBackend(str(path))), study_name="another")
        assert study_names(port) == [STUDY_NAME, "another"]
    assert study.trials == []


def test_writable_lets_the_viewers_own_pages_change_things(writable_port):
    origin = f"http://127.0.0.1:{writable_port}"
    body = json.dumps({"study_name": "made here", "directions": ["minimize"]})
    status, _, _ = ask(
        writable_port, "/api/studies", "POST", body, Origin=origin, Content_Type="application/json",
        Sec_Fetch_Site="same-origin",
    )  # fmt: skip
    assert status == 201
    assert "made here" in study_names(writable_port)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1:{}"},
        {"Origin": "http://localhost:{}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Host": "evil.example:{}"},
    ],
)
def test_writable_still_refuses_what_other_pages_ask_for(writable_port, headers):
    sent = {name: value.format(writable_port) for name, value in headers.items()}
    status, _, _ = ask(writable_port, "/api/studies/0", "DELETE", "{}", Content_Type="application/json", **sent)
    assert status == 403
    assert study_names(writable_port) == [STUDY_NAME]


def test_a_port_in_use_is_one_clear_error(journal, port):
    storage = JournalStorage(JournalFileBackend(str(journal)))
    with pytest.raises(InputError, match=f"^port is {port}, but must be free") as caught:
        viewer.serve(storage, port=port, ready=lambda url: pytest.fail("must not be served"))
    assert "\n" not in str(caught.value)


def test_a_port_can_be_used_again_at_once(journal):
    with served(journal) as first:
        assert ask(first, "/api/studies")[0] == 200
    with served(journal, port=first) as second:
        assert second == first
        assert ask(second, "/api/studies")[0] == 200


def test_nothing_is_printed(journal, capfd):
    with served(journal) as port:
        for _ in range(8):
            ask(port, "/api/studies")
        ask(port, "/nowhere")
        ask(port, "/api/studies", Host="evil.example")
    assert capfd.readouterr() == ("", "")
