"""report.html as a parser sees it: whole, safe, telling the truth, and made from nothing outside itself."""

import re
from html.parser import HTMLParser

import pytest

from sweeps import report
from sweeps.records import Failure, FailureKind, Plateau, Score, TrialState, Verdict
from sweeps.report.as_html import MAX_ROWS, duration, render, value_range
from tests.support.records import cell, large_sweep, mixed_sweep, shared_sweep, sweep, trial

VOID = {"meta", "link", "br", "img", "hr", "input"}
LOADING = {"src", "srcset", "data", "poster", "action", "formaction", "background", "ping", "xlink:href"}


class Page(HTMLParser):
    """Checks that tags match, and gathers text, attributes and table rows."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.attributes, self.rows, self.scripts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.text.append(data)
            if "td" in self.open:
                self.rows[-1][-1] += data

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def page(record):
    return Page(render(record, csv_name="trials.csv"))


RECORDS = {
    "mixed": mixed_sweep(),
    "large": large_sweep(30),
    "shared": shared_sweep(),
    "none": sweep(),
    "none complete": sweep(trial(state=TrialState.PRUNED, verdict=Verdict.STALLED), trial(1, value=float("nan"))),
    "no parameters": sweep(trial(params={}), roles={}),
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_the_page_is_well_formed_and_loads_nothing(record):
    found = page(record)
    for tag, name, value in found.attributes:
        assert name not in LOADING, f"<{tag} {name}={value}> loads something"
        if name == "href":
            assert value in ("data:,", "trials.csv", "report.json")
    policy = next(v for t, n, v in found.attributes if (t, n) == ("meta", "content") and "default-src" in v)
    assert "default-src 'none'" in policy, "the browser itself refuses any request"
    assert "http" not in policy


def test_no_style_or_script_of_ours_names_an_address():
    from sweeps.report.as_html import _assets

    for text in _assets().values():
        assert not re.search(r"https?:|//[a-z]|@import|url\(", text.replace("// ", ""))


def test_plotly_is_inside_once_and_left_out_where_nothing_is_drawn():
    drawn, empty = page(mixed_sweep()), page(sweep())
    assert sum(len(script) > 1_000_000 for script in drawn.scripts) == 1
    assert not any(len(script) > 1_000_000 for script in empty.scripts)


def test_the_top_says_what_came_out():
    words = page(mixed_sweep()).words
    assert "The best eval loss is 0.02 (accuracy 97.00%): trial 0 at step 300" in words
    assert "learning_rate 0.003, bn_placement conv, bn_order before, bn_momentum 0.99" in words
    for part in ("1 converged", "2 stalled", "2 diverged", "1 undetermined"):
        assert part in words
    assert "Stalls with bn_placement logits (2 of 4); all others: 0 of 1. 1 of 6 ended too early to tell." in words
    assert "1 × worker lost: the worker <b>died</b>" in words
    assert "not finished when this was written" in words


def test_the_top_tells_the_test_part_if_there_is_one():
    assert "its loss is 0.2 (accuracy 95.00%)" in render(sweep(trial(0, test=Score(0.2, 0.95))), "trials.csv")
    assert "test part" not in render(sweep(trial(0)), "trials.csv")


def test_the_page_says_which_losses_are_stalled_at():
    places = [Plateau(5.4, "ln C", 6.5), Plateau(6.1, "ln C", 6.5), Plateau(1.4, "logits-BN floor", 1.3)]
    stalled = [trial(n, verdict=Verdict.STALLED, plateau=place) for n, place in enumerate(places)]
    assert "2 nearest to ln C (6.5), at 5.4 to 6.1; 1 nearest to logits-BN floor (1.3), at 1.4" in render(
        sweep(*stalled), "trials.csv"
    )


def test_without_trials_the_page_says_so():
    words = page(sweep()).words
    assert "No trial has been started." in words
    assert "Nothing has been measured yet." in words
    assert "There are no trials." in words


def test_without_a_completed_trial_the_page_says_so():
    assert "No trial has completed with a finite eval loss." in page(RECORDS["none complete"]).words


def test_the_table_has_every_trial_best_first():
    rows = [row for row in page(mixed_sweep()).rows if len(row) > 8]
    assert [row[0] for row in rows] == ["0", "1", "4", "5", "7", "2", "3", "6"]
    assert rows[0][2:6] == ["complete", "converged", "0.02", "0.003"]
    assert rows[6][-1] == "worker lost: the worker <b>died</b>"


def test_a_long_table_is_capped_and_points_to_the_csv():
    record = sweep(*(trial(i, value=1 / (i + 1)) for i in range(MAX_ROWS + 100)))
    found = page(record)
    numbers = [int(row[0]) for row in found.rows if len(row) > 8]
    assert numbers == list(range(MAX_ROWS + 99, 99, -1)), "the best ones"
    assert f"The best {MAX_ROWS} of {MAX_ROWS + 100} trials; all are in trials.csv" in found.words


ATTACK = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'


def test_names_and_messages_cannot_break_out():
    record = sweep(
        *(
            trial(i, params={ATTACK: f"{ATTACK}{i % 2}", "learning_rate": 0.01 * (i + 1)}, verdict=Verdict.STALLED)
            for i in range(12)
        ),
        trial(50, state=TrialState.FAILED, reason=ATTACK, failure=Failure(FailureKind.TRIAL_ERROR, ATTACK)),
        name=ATTACK,
        config_digest=ATTACK,
        versions={ATTACK: ATTACK},
        roles={ATTACK: ATTACK},
        lattices={3: tuple(cell(0.1, **{ATTACK: f"{ATTACK}{i}"}) for i in range(3))},
    )
    found = page(record)
    plain = page(RECORDS["shared"])
    assert len(found.scripts) == len(plain.scripts)
    assert not any(tag == "img" or name.startswith("on") for tag, name, _ in found.attributes)
    assert ATTACK in found.words


def test_the_page_says_what_sharing_was_worth():
    words = page(shared_sweep()).words
    assert "6 training runs scored 51 trials; training each trial alone would have taken about 450 more" in words
    assert "Lattice of trajectory 0: lowest loss 0.01415, holds the best trial, 8" in words


@pytest.mark.parametrize("record", [sweep(), sweep(trial(0), trial(1), lattices={0: (cell(0.1, 0),)})])
def test_without_siblings_or_lattices_there_is_no_word_of_sharing(record):
    assert ("section", "id", "readouts") not in page(record).attributes


def test_siblings_without_a_lattice_have_the_sentence_but_no_map():
    found = page(sweep(trial(0), trial(1, trajectory=0)))
    assert "1 training run scored 2 trials." in found.words
    assert ("select", "id", "lattice-choice") not in found.attributes


def test_the_files_are_written_together(tmp_path):
    report.write(large_sweep(10), tmp_path)
    Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "trials.csv"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (11220, "3 h 07 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "never active"),
        (["b", "a", "b"], "a, b"),
        ([True, False], "no, yes"),
        (["off", 0.99, 0.9], "0.9, 0.99, off"),
        ([i / 10 for i in range(1, 11)], "0.1 to 1"),
        ([10.0**-i for i in range(9)], "1e-08 to 1 (log)"),
        ([f"c{i:02d}" for i in range(25)], ", ".join(f"c{i:02d}" for i in range(20)) + ", …"),
    ],
)
def test_ranges_in_words(values, text):
    assert value_range(values) == text
