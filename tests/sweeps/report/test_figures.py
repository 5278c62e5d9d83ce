"""The figures: valid plotly, drawn from the right numbers, for any sweep."""

import json
import math
import random
from dataclasses import asdict

import plotly.graph_objects as go
import pytest

from sweeps.records import CurvePoint, Score, TrialState, Verdict
from sweeps.report.curves import MAX_CURVES, best_so_far, learning_curves
from sweeps.report.drawing import COLOURS
from sweeps.report.figures import figures, importances
from sweeps.report.scatter import MAX_PANELS, loss_over_parameter, main_parameter
from tests.support.records import large_sweep, mixed_sweep, sweep, trial


def lines(figure):
    """The traces that draw data, not the legend's empty ones."""
    return [trace for trace in figure.data if trace["x"] != [None]]


def any_trainable(count=30, names=("depth", "width")):
    draw = random.Random(3)
    return sweep(
        *(
            trial(i, params={name: draw.randint(1, 9) for name in names}, value=draw.uniform(-1, 1))
            for i in range(count)
        ),
        roles=dict.fromkeys(names, "trajectory"),
    )


SWEEPS = {
    "mixed": mixed_sweep(),
    "large": large_sweep(40),
    "none": sweep(),
    "all failed": sweep(*(trial(i, state=TrialState.FAILED, value=None, curve=()) for i in range(12))),
    "all NaN": sweep(*(trial(i, value=math.nan, curve=(CurvePoint(1, math.nan),)) for i in range(12))),
    "no parameters": sweep(*(trial(i, params={}) for i in range(12)), roles={}),
    "numbers only": any_trainable(),
    "names only": sweep(*(trial(i, params={"kind": "ab"[i % 2]}, value=i + 0.5) for i in range(12)), roles={}),
    "switches": sweep(*(trial(i, params={"on": i % 2 == 0}, value=i / 10) for i in range(12)), roles={}),
    "names and numbers in one": sweep(
        *(trial(i, params={"decay": ["off", 0.9, 1][i % 3]}, value=i + 1.0) for i in range(12)), roles={}
    ),
    "many placements": sweep(
        *(trial(i, params={"bn_placement": f"p{i // 2}", "learning_rate": 0.01 * (i + 1)}) for i in range(40))
    ),
    "HTML in a name": sweep(
        *(trial(i, params={"<i>n": f"</script>%{{x}}{i % 2}", "r": i + 0.5}, value=i + 1.0) for i in range(12))
    ),
    "a readout alone": sweep(
        *(trial(i, trajectory=i // 4, params={"ema": 0.9 + 0.001 * i}, value=i + 1.0) for i in range(60)),
        roles={"ema": "readout"},
    ),
    "infinite parameter": sweep(*(trial(i, params={"clip": [1.0, math.inf][i % 2]}, value=i) for i in range(12))),
}


@pytest.mark.parametrize("record", SWEEPS.values(), ids=SWEEPS)
def test_plotly_takes_every_figure_of_every_sweep(record):
    for figure in figures(record):
        for layout in (figure.layout, {**figure.layout, **figure.narrow}):
            go.Figure(figure.data, layout)  # Raises on anything that plotly does not know.
        json.dumps(asdict(figure), allow_nan=False)  # Raises on what a browser could not read.
        assert figure.note, "a figure says what it shows, or why it is not there"


def test_one_line_a_trajectory_in_its_verdicts_colour():
    record = mixed_sweep()
    drawn = {trace["name"]: trace for trace in lines(learning_curves(record))}
    assert set(drawn) == {f"trajectory {n}" for n in (0, 2, 4, 6, 7)}  # 3 has no curve, 5 no finite point
    assert drawn["trajectory 2"]["line"]["color"] == COLOURS[Verdict.STALLED]
    assert drawn["trajectory 0"]["x"] == [100, 300]
    assert drawn["trajectory 0"]["y"] == [1.0, 0.05]
    assert drawn["trajectory 4"]["y"] == [8.0, None]
    widths = {name: trace["line"]["width"] for name, trace in drawn.items()}
    assert max(widths, key=widths.get) == "trajectory 0", "the best is drawn bold"


def test_colours_are_one_a_verdict():
    assert set(COLOURS) == set(Verdict)
    assert len(set(COLOURS.values())) == len(Verdict)


def test_losses_are_drawn_on_a_log_axis_only_if_they_can_be():
    positive = learning_curves(sweep(trial()))
    negative = learning_curves(sweep(trial(curve=(CurvePoint(1, -0.5), CurvePoint(2, -0.7)))))
    assert (positive.layout["yaxis"]["type"], negative.layout["yaxis"]["type"]) == ("log", "linear")


def test_too_many_curves_are_thinned_over_every_verdict_and_the_page_says_so():
    rare = trial(500, verdict=Verdict.STALLED, value=3.0)
    best = trial(251, value=0.001)
    others = [trial(i) for i in range(500) if i != 251]
    figure = learning_curves(sweep(*others, best, rare))
    names = {trace["name"] for trace in lines(figure)}
    assert len(names) <= MAX_CURVES + 2
    assert {"trajectory 500", "trajectory 251"} <= names
    assert f"{len(names)} of 501" in figure.note


def test_the_scatter_has_one_panel_a_placement_and_one_mark_a_trajectory():
    figure = loss_over_parameter(mixed_sweep(), "learning_rate")
    titles = [note["text"] for note in figure.layout["annotations"]]
    assert titles == ["<b>conv</b>", "<b>logits</b>", "<b>none</b>"]
    marks = sorted((x, y) for trace in lines(figure) for x, y in zip(trace["x"], trace["y"], strict=True))
    assert marks[:4] == [(0.001, 1.2), (0.003, 0.02), (0.01, 1.9), (0.02, 1.8)]
    assert [x for x, _ in marks[4:]] == [0.3, 0.4]
    assert all(y > 1.9 for _, y in marks[4:]), "no finite loss: at the top edge"
    assert "without a finite loss: 2" in figure.note
    assert figure.layout["xaxis"]["type"] == figure.layout["yaxis"]["type"] == "log"


def test_hollow_marks_were_stopped_early():
    figure = loss_over_parameter(mixed_sweep(), "learning_rate")
    symbols = {
        x: symbol
        for trace in lines(figure)
        for x, symbol in zip(trace["x"], trace["marker"]["symbol"], strict=True)
    }
    assert symbols[0.003] == "circle"
    assert symbols[0.01] == symbols[0.02] == "square-open"


def test_many_placements_share_the_last_panel():
    figure = loss_over_parameter(SWEEPS["many placements"], "learning_rate")
    titles = [note["text"] for note in figure.layout["annotations"]]
    assert len(titles) == MAX_PANELS
    assert titles[-1] == "<b>all others</b>"
    assert sum(len(trace["x"]) for trace in lines(figure)) == 40


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (mixed_sweep(), "learning_rate"),
        (any_trainable(), "depth"),
        (SWEEPS["names only"], "kind"),
        (SWEEPS["no parameters"], None),
        (sweep(), None),
    ],
)
def test_the_main_parameter_falls_back_sensibly(record, name):
    assert main_parameter(record) == name


def test_the_most_important_number_leads_where_there_is_no_learning_rate():
    assert main_parameter(any_trainable(), ["width", "depth"]) == "width"


def test_best_so_far_is_the_running_minimum():
    values = [0.5, 0.7, 0.3, math.nan, 0.3, 0.2]
    trials = [trial(i, value=v, ended=10.0 * (i + 1)) for i, v in enumerate(values)]
    pruned = trial(9, value=0.01, state=TrialState.PRUNED, ended=5.0)
    step_line = next(
        t for t in lines(best_so_far(sweep(*reversed(trials), pruned, wall_seconds=100.0))) if "line" in t
    )
    assert list(zip(step_line["x"], step_line["y"], strict=True)) == [(10, 0.5), (30, 0.3), (60, 0.2), (100, 0.2)]
    assert step_line["line"]["shape"] == "hv"


def decided_by(make_loss, count=200):
    draw = random.Random(11)
    trials = []
    for i in range(count):
        params = {"rate": 10 ** draw.uniform(-4, -1), "noise": draw.uniform(0, 1), "kind": draw.choice("aabc")}
        if params["kind"] == "b":
            params["only_b"] = draw.uniform(0, 1)
        trials.append(trial(i, params=params, value=make_loss(params)))
    return sweep(*trials, roles=dict.fromkeys(("rate", "noise", "kind", "only_b"), "trajectory"))


@pytest.mark.parametrize(
    ("make_loss", "winner"),
    [
        (lambda p: abs(math.log10(p["rate"]) + 2), "rate"),
        (lambda p: p["noise"], "noise"),
        # The last digits of the noise break ties and explain nothing.
        (lambda p: (1 if p["kind"] == "a" else 20) + p["noise"] * 1e6 % 1, "kind"),
    ],
)
def test_importances_find_the_parameter_that_decides(make_loss, winner):
    found = importances(decided_by(make_loss)).shares
    assert next(iter(found)) == winner
    assert sum(found.values()) == pytest.approx(1)
    assert set(found) == {"rate", "noise", "kind", "only_b"}


def test_a_conditional_parameter_that_decides_where_it_is_active_is_found():
    found = importances(decided_by(lambda p: abs(p.get("only_b", 0.5) - 0.9))).shares
    assert next(iter(found)) == "only_b"


def test_stopped_and_diverged_trials_count_as_worse():
    """Were they left out, the rates that pruning removes would look harmless."""
    good = [
        trial(i, params={"rate": 0.01 + i / 1e4, "other": i % 7}, value=0.1 + (i % 5) / 1e3) for i in range(20)
    ]
    stopped = [
        trial(20 + i, params={"rate": 0.5 + i / 100, "other": i % 7}, value=[2.0, math.nan][i % 2],
              state=TrialState.PRUNED, curve=(CurvePoint(3, 2.0, Score(2.0, 0.1)),))
        for i in range(40)
    ]  # fmt: skip
    found = importances(sweep(*good, *stopped))
    assert found.num_trials == 60
    assert found.shares["rate"] > 0.8


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (mixed_sweep(), "Too few: 5 trajectories"),
        (sweep(*(trial(i, trajectory=0, params={"m": i / 9}) for i in range(50))), "Too few: 1 trajectories"),
        (sweep(*(trial(i, params={"m": i / 9}) for i in range(12))), "the same loss"),
        (sweep(*(trial(i, value=i + 1.0) for i in range(12))), "No parameter took more than one value"),
    ],
)
def test_where_importances_cannot_be_told_the_report_says_why(record, why):
    found = importances(record)
    assert not found.shares
    assert why in found.why_none


def test_importances_leave_optunas_log_and_the_terminal_as_they_were(capfd):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.INFO)
    optuna.logging.enable_default_handler()
    importances(decided_by(lambda p: p["noise"], 20))
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    assert capfd.readouterr() == ("", "")
