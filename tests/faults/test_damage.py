"""A run folder with a damaged file: what can be saved goes on, the rest is named in one line, nothing is lost.

The folder is a real one, of a sweep that Ctrl-C interrupted; every case damages a copy of it.
"""

import re
import shutil
import signal

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweeps import inspection, launch, resume
from sweeps.api import load_record, write_report
from sweeps.errors import DamagedFileError, InputError, RunFolderError, TowersweepError
from sweeps.progress import Together
from sweeps.run_folder import RunFolder, read_checkpoint, read_entries
from tests.faults.sweeping import essence

SWEEP = {
    "name": "faulty",
    "trainable": "tests.support.trainables:Quadratic",
    "space": {
        "parameters": {
            "rate": {"type": "float", "low": 0.001, "high": 0.5, "log": True},
            "offset": {"type": "categorical", "choices": [0.0, 0.125, 0.25]},
        }
    },
    "search": {"trajectories": 12, "readouts_per_trajectory": 2},
}


class StopAfter(Together):
    """A listener that sends this process SIGINT after so many measurements: what Ctrl-C does."""

    def __init__(self, measurements):
        super().__init__(())
        self.left = measurements

    def measured(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """One that was told to stop between two rungs of a trajectory, some others having ended."""
    for measurements in range(8, 20):
        out = tmp_path_factory.mktemp("damage") / "run"
        assert launch(SWEEP, out=out, backend="inline", listener=StopAfter(measurements)).interrupted
        if {trial.state.name for trial in trials(out)} == {"RUNNING", "COMPLETE", "PRUNED"}:
            return out
    raise AssertionError("it never stood between two rungs")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    launch(SWEEP, out=out, backend="inline")
    return essence(trials(out))


@pytest.fixture
def folder(interrupted, tmp_path):
    return RunFolder.open(shutil.copytree(interrupted, tmp_path / "run"))


def trials(path):
    """As any other Optuna program reads them."""
    storage = JournalStorage(JournalFileBackend(str(path / "study.journal")))
    return optuna.load_study(study_name="faulty", storage=storage).trials


def everything(folder):
    return {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


def go_on(path):
    return resume(path, backend="inline")


COMMANDS = {
    "status": load_record,
    "report": write_report,
    "view": inspection.study_storage,
    "evaluate": inspection.evaluate,
    "resume": go_on,
}


def test_the_folder_is_in_the_middle_of_a_sweep(folder):
    states = [trial.state.name for trial in trials(folder.path)]
    assert {"RUNNING", "COMPLETE", "PRUNED"} == set(states)
    assert list((folder.path / "checkpoints").iterdir())


TORN_CURVES = [b'{"kind":"measurement","trajec', b"\0" * 4096, b'{"kind":"end"\0\0\0', b"\xff\xfe", b"{"]
TORN_JOURNALS = [b'{"op_code":4,"worker_id":"a', b"\0" * 4096, b'{"op_c\0\0\0', b"\xff\xfe"]


@pytest.mark.parametrize("torn", TORN_CURVES, ids=repr)
def test_curves_with_a_torn_end_go_on(folder, undisturbed, torn):
    whole = list(read_entries(folder.curves))
    with folder.curves.open("ab") as stream:
        stream.write(torn)
    load_record(folder.path)
    write_report(folder.path)
    go_on(folder.path)
    assert list(read_entries(folder.curves))[: len(whole)] == whole
    assert essence(trials(folder.path)) == undisturbed


@pytest.mark.parametrize("torn", TORN_JOURNALS, ids=repr)
def test_a_study_with_a_torn_end_goes_on_and_keeps_what_was_torn(folder, undisturbed, torn):
    with folder.journal.open("ab") as stream:
        stream.write(torn)
    load_record(folder.path)
    write_report(folder.path)
    go_on(folder.path)
    assert essence(trials(folder.path)) == undisturbed
    assert (folder.path / "study.journal.torn-1").read_bytes() == torn


@pytest.mark.parametrize("share", range(1, 12))
def test_a_power_loss_costs_what_was_not_durable_and_no_more(folder, undisturbed, share):
    """The study's file lags behind the curves: cut anywhere in what came last, it is made whole."""
    content = folder.journal.read_bytes()
    begun = content.rindex(
        b'{"op_code":4'
    )  # The making of the last trial: durable, before anything was run for it.
    end_of_asking = content.index(b"\n", begun) + 1
    folder.journal.write_bytes(content[: end_of_asking + (len(content) - end_of_asking) * share // 12])
    go_on(folder.path)
    assert essence(trials(folder.path)) == undisturbed


def first_line_of(path):
    return path.read_bytes().index(b"\n")


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


def overwrite(path, at, new):
    content = path.read_bytes()
    path.write_bytes(content[:at] + new + content[at + len(new) :])


SETTINGS, CURVES, JOURNAL = "sweep.toml", "curves/curves.jsonl", "study.journal"
# file, how it is damaged, what the one line says
REFUSED = {
    "settings emptied": (SETTINGS, lambda p: cut(p, 0), "sweep.toml: holds nothing"),
    "settings cut short": (SETTINGS, lambda p: cut(p, 400), "sweep.toml: is not as it was written"),
    "settings, one bit": (SETTINGS, lambda p: flip(p, 300), "sweep.toml: is not as it was written"),
    "settings, zeros": (SETTINGS, lambda p: p.write_bytes(b"\0" * 900), "sweep.toml: holds nothing"),
    "settings, foreign": (SETTINGS, lambda p: p.write_bytes(b"\x7fELF\xff"), "sweep.toml: cannot be read"),
    "curves, one digit": (CURVES, lambda p: flip(p, p.read_bytes().index(b'"time":') + 7), "line 1 is damaged"),
    "curves, zeros": (CURVES, lambda p: overwrite(p, first_line_of(p) + 9, b"\0" * 20), "line 2 is damaged"),
    "curves, foreign": (CURVES, lambda p: p.write_bytes(b"PK\x03\x04\n"), "line 1 is damaged: it is not JSON"),
    "curves, a line of something else": (CURVES, lambda p: p.write_bytes(b"[]\n" + p.read_bytes()), "line 1 is"),
    "study, zeros": (JOURNAL, lambda p: overwrite(p, first_line_of(p) + 9, b"\0" * 20), "line 2 is damaged"),
    "study, not UTF-8": (JOURNAL, lambda p: overwrite(p, first_line_of(p) + 9, b"\xff"), "line 2 is damaged"),
    "study, foreign": (JOURNAL, lambda p: p.write_bytes(b"SQLite format 3\0\n"), "line 1 is damaged: it is not"),
    "study, other JSON": (
        JOURNAL,
        lambda p: p.write_bytes(b'{"a": 1}\n'),
        "line 1 is damaged: it is no operation",
    ),
    "study, half an operation": (
        JOURNAL,
        lambda p: p.write_bytes(b'{"op_code": 4}\n'),
        "line 1 is damaged: it is",
    ),
    "study, its last line": (JOURNAL, lambda p: overwrite(p, len(p.read_bytes()) - 9, b"\xff"), "is damaged"),
    "study emptied": (JOURNAL, lambda p: cut(p, 0), "study.journal holds no study 'faulty'"),
    "study removed": (JOURNAL, lambda p: p.unlink(), "study.journal holds no study 'faulty'"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("command", COMMANDS)
def test_damage_is_named_and_nothing_is_thrown_away(folder, case, command):
    name, damage, says = REFUSED[case]
    damage(folder.path / name)
    if command == "view" and (name == CURVES or "holds no study" in says):
        COMMANDS[command](folder.path)  # It shows what the storage holds, and reads nothing else.
        return
    before = everything(folder)
    with pytest.raises(InputError) as caught:
        COMMANDS[command](folder.path)
    message = str(caught.value)
    assert says in message
    assert str(folder.path) in message
    assert "\n" not in message
    after = everything(folder)
    for path, content in before.items():
        if path.name != "driver.json":
            assert after[path] == content, path
    assert {path.name for path in set(after) - set(before)} <= {"driver.json", "study.journal"}


@pytest.mark.parametrize("damage", [lambda p: cut(p, 30), lambda p: flip(p, -1), lambda p: p.write_bytes(b"")])
def test_a_damaged_checkpoint_is_named_and_costs_itself_alone(folder, undisturbed, damage):
    checkpoint = min((folder.path / "checkpoints").iterdir())
    damage(checkpoint)
    with pytest.raises(DamagedFileError, match=rf"{checkpoint.name}: .* \(to go on without it, remove"):
        read_checkpoint(checkpoint)
    load_record(folder.path)
    go_on(folder.path)
    assert essence(trials(folder.path)) == undisturbed


def test_an_evaluation_of_a_damaged_checkpoint_is_refused_by_name(folder):
    record, _ = load_record(folder.path)
    checkpoint = folder.checkpoint(record.best().trajectory)
    flip(checkpoint, -1)
    with pytest.raises(TowersweepError) as caught:
        inspection.evaluate(folder.path)
    # This trainable evaluates nothing; a damaged state is found before it is asked to.
    assert re.search(r"the checksum does not fit|one that can evaluate", str(caught.value))


@pytest.mark.parametrize("name", ["driver.json", ".lock"])
@pytest.mark.parametrize("content", [b"", b"\0" * 300, b"{", b"\xff garbage"])
def test_a_damaged_lock_or_holder_holds_nobody_up(folder, undisturbed, name, content):
    (folder.path / name).write_bytes(content)
    load_record(folder.path)
    go_on(folder.path)
    assert essence(trials(folder.path)) == undisturbed


def test_a_lock_that_optuna_left_on_the_journal_is_taken_away(folder, undisturbed, monkeypatch):
    """What a driver leaves that was killed in the middle of an append; made with a path that leads nowhere."""
    monkeypatch.setattr("sweeps.embedded.LEFTOVER_SECONDS", 0.1)
    (folder.path / "study.journal.lock").symlink_to("run/study.journal")
    go_on(folder.path)
    assert essence(trials(folder.path)) == undisturbed
    assert not (folder.path / "study.journal.lock").is_symlink()


def test_curves_that_are_gone_are_begun_again(folder):
    """The study holds every value; what only the curves tell is lost with them."""
    ended = [trial for trial in trials(folder.path) if trial.state.is_finished()]
    folder.curves.unlink()
    load_record(folder.path)
    go_on(folder.path)
    assert essence(trials(folder.path))[: len(ended)] == essence(ended)
    assert {trial.state.name for trial in trials(folder.path)} == {"COMPLETE", "PRUNED"}


def test_a_launch_that_died_before_it_made_the_study_is_resumed(folder, undisturbed):
    shutil.rmtree(folder.path / "curves")
    (folder.path / "curves").mkdir()
    for checkpoint in (folder.path / "checkpoints").iterdir():
        checkpoint.unlink()
    folder.journal.unlink()
    go_on(folder.path)
    assert essence(trials(folder.path)) == undisturbed


def test_a_folder_whose_settings_are_gone_is_no_run_folder(folder):
    folder.settings.unlink()
    for command in COMMANDS.values():
        with pytest.raises(RunFolderError, match=r"must be a folder that holds a sweep\.toml"):
            command(folder.path)
