"""After a death at any moment, curves and study tell the same again."""

from dataclasses import replace

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search_spaces import Categorical, Float, Space
from sweeps import moves, step
from sweeps.history import end_entry, generation_entry, lost_entry, measurement_entry, read_history, start_entry
from sweeps.pruning import Arrival
from sweeps.records import CurvePoint, Failure, FailureKind, Measurement, Outcome, Score, TrialState
from sweeps.recovery import recover
from sweeps.run_folder import RunFolder
from sweeps.storage import open_storage
from sweeps.study import SamplerSettings, Study, quiet

SPACE = Space.of(
    [Float("rate", 0.1, 1.0), Categorical("d", (0.0, 0.9, 0.99, 0.999))], {"rate": "trajectory", "d": "readout"}
)
PLAN = moves.Plan(rungs=(10, 30), max_trajectories=9, devices_per_trajectory=2)
SETTINGS = SamplerSettings("random", readouts_per_trajectory=2, lattice=True)
COMPLETE = Outcome(TrialState.COMPLETE, "reached its last step, 30")
LOST = Failure(FailureKind.WORKER_LOST, "gone")


@pytest.fixture
def folder(tmp_path):
    quiet()
    return RunFolder.create(tmp_path / "run", "")


@pytest.fixture
def study(folder):
    return Study.create(open_storage("", folder.journal), "s", SPACE, SETTINGS)


def measured(at, loss, cells=()):
    scores = (Score(loss, 0.5), Score(loss + 0.1, 0.5))
    return Measurement(at, (CurvePoint(at, 1.0, scores[0]),), scores, 1.0, lattice_scores=cells)


def restart(folder, entries):
    """What a new driver finds, whose predecessor never flushed; and Optuna's view once ends are told."""
    study = Study.load(open_storage("", folder.journal), "s", SPACE, SETTINGS)
    state = recover(PLAN, study, read_history(entries), folder)
    for action in step.on_event(PLAN, state, moves.Tick(0.0))[1]:
        if isinstance(action, moves.Tell):
            attributes = {"verdict": "improving", "attempts": action.attempt}
            study.tell(action.trajectory, action.outcome, action.measurement, attributes)
    study.flush()
    storage = JournalStorage(JournalFileBackend(str(folder.journal)))
    return state, optuna.load_study(study_name="s", storage=storage).trials


def test_measurements_that_never_reached_the_study_are_reported_again(folder, study):
    trajectory = study.ask(0)
    first = measured(10, 0.5)
    study.report(trajectory, first)  # Waits, and dies with the driver.
    entries = [start_entry(trajectory, 1, 0.0), measurement_entry(trajectory, 1, first, 4.0)]
    state, trials = restart(folder, entries)
    assert [trial.intermediate_values for trial in trials] == [{10: 0.5}, {10: 0.6}]
    assert {trial.state.name for trial in trials} == {"RUNNING"}
    past = moves.Past(competed=10, best=0.5, final=state.waiting[0].past.final)
    assert state.waiting == (moves.Waiting(trajectory, 2, past),)
    assert past.final.scores == first.scores
    assert state.rungs.values == {(0, 10): ((0, 0.5),)}
    assert (state.num_asked, state.num_trials, state.device_seconds) == (1, 2, 8.0)


@pytest.mark.parametrize("winning", [False, True])
def test_an_end_that_never_reached_the_study_is_told_again(folder, study, winning):
    trajectory = study.ask(0)
    last = measured(30, 0.5, (Score(0.2 if winning else 2.0, 0.9), Score(3.0, 0.9)))
    entries = [
        start_entry(trajectory, 1, 0.0),
        measurement_entry(trajectory, 1, measured(10, 0.7), 1.0),
        measurement_entry(trajectory, 1, last, 2.0),
        end_entry(trajectory, 1, COMPLETE, 2.0),
    ]
    state, trials = restart(folder, entries)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * (2 + winning)
    assert [trial.value for trial in trials] == [0.5, 0.6] + [0.2] * winning
    assert trials[0].intermediate_values == {10: 0.7, 30: 0.5}
    assert trials[0].user_attrs["reason"] == COMPLETE.reason
    assert (state.waiting, state.num_trials) == ((), 2)
    again, same = restart(folder, entries)
    assert again == replace(state, untold={}, told=1, has_succeeded=True)
    assert [trial.number for trial in same] == list(range(2 + winning))


def test_a_death_between_a_cell_and_its_siblings_makes_no_second_cell(folder, study):
    trajectory = study.ask(0)
    last = measured(30, 0.5, (Score(0.2, 0.9), Score(3.0, 0.9)))
    study.tell(trajectory, COMPLETE, last, {})  # The cell is written at once, the siblings' end waits and is lost.
    entries = [
        start_entry(trajectory, 1, 0.0),
        measurement_entry(trajectory, 1, last, 2.0),
        end_entry(trajectory, 1, COMPLETE, 2.0),
    ]
    _, trials = restart(folder, entries)
    assert [(trial.state.name, trial.value) for trial in trials] == [
        ("COMPLETE", 0.5),
        ("COMPLETE", 0.6),
        ("COMPLETE", 0.2),
    ]


def test_a_failure_is_told_with_its_kind(folder, study):
    trajectory = study.ask(0)
    outcome = Outcome(TrialState.FAILED, "worker lost: gone", LOST)
    state, trials = restart(folder, [start_entry(trajectory, 2, 0.0), end_entry(trajectory, 2, outcome, 1.0)])
    assert {trial.state.name for trial in trials} == {"FAIL"}
    assert trials[0].user_attrs == {
        "trajectory": 0,
        "verdict": "improving",
        "attempts": 2,
        "reason": "worker lost: gone",
    }
    assert state.waiting == ()


def test_a_trajectory_that_was_asked_for_and_never_started_waits(folder, study):
    trajectory = study.ask(0)
    state, _ = restart(folder, [])
    assert state.waiting == (moves.Waiting(trajectory, 1),)


def test_a_saved_state_is_gone_on_from_if_its_rung_is_on_record(folder, study):
    trajectory = study.ask(0)
    entries = [start_entry(trajectory, 1, 0.0), measurement_entry(trajectory, 1, measured(10, 0.5), 4.0)]
    folder.save_state(0, 10, b"at 10")
    assert restart(folder, entries)[0].waiting[0].past.saved == 10
    assert restart(folder, entries[:1])[0].waiting[0].past.saved is None  # Power was lost before the record was.
    folder.save_state(0, 0, b"on the way")
    assert restart(folder, entries[:1])[0].waiting[0].past.saved == 0


def test_attempts_that_were_lost_still_count(folder, study):
    trajectory = study.ask(0)
    short = Failure(FailureKind.HOST_OUT_OF_MEMORY, "too large")
    entries = [lost_entry(trajectory, 1, LOST, 0.0), lost_entry(trajectory, 2, short, 0.0)]
    (waiting,) = restart(folder, [start_entry(trajectory, 1, 0.0), *entries])[0].waiting
    assert (waiting.attempt, waiting.past.failures, waiting.alone) == (3, 1, True)


def test_siblings_that_were_not_made_any_more_are_made_now(folder, study):
    """Death came after the first of them; what is made now is what would have been."""
    other = RunFolder.create(folder.path.parent / "other", "")
    whole = Study.create(open_storage("", other.journal), "s", SPACE, SETTINGS).ask(0)
    study._make(0, whole.params, whole.readouts[:1])
    state, trials = restart(folder, [])
    assert state.waiting[0].trajectory == whole
    assert [trial.params for trial in trials] == [{**whole.params, **readout} for readout in whole.readouts]


def test_in_a_deterministic_sweep_the_values_of_a_generation_wait_for_its_end(folder, study):
    plan = replace(PLAN, generation=1)
    for number in range(3):
        study.ask(number)
    entries = [generation_entry(0, 0.0)]
    for number in range(2):
        trajectory = study.trajectory(number)
        entries.append(measurement_entry(trajectory, 1, measured(10, 0.5 + number), 1.0))
        entries.append(generation_entry(number + 1, 1.0))
    entries.append(measurement_entry(study.trajectory(2), 1, measured(10, 0.2), 1.0))
    loaded = Study.load(open_storage("", folder.journal), "s", SPACE, SETTINGS)
    state = recover(plan, loaded, read_history(entries), folder)
    assert state.rungs.values == {(0, 10): ((0, 0.5), (1, 1.5))}
    assert state.arrivals == (Arrival(2, 0, 0, 10, 0.2),)
    assert state.generation_first == 2
