"""A large sweep's report stays usable: bounded drawing, bounded page, every trial in the data files."""

import csv
from dataclasses import replace

from sweeps import report
from sweeps.report.lattice import MAX_MAPS
from tests.support.records import cell, large_sweep

PLOTLY_BYTES = 5_500_000


def test_three_thousand_trials_of_thirty_points(tmp_path):
    record = large_sweep(trajectories=375, siblings=8, points=30)
    report.write(record, tmp_path)
    assert len(record.trials) == 3000
    assert len(report.load_report(tmp_path)["trials"]) == 3000
    with (tmp_path / "trials.csv").open(newline="") as stream:
        assert sum(1 for _ in csv.DictReader(stream)) == 3000
    assert (tmp_path / "report.html").stat().st_size < PLOTLY_BYTES + 1_500_000


def test_a_thousand_lattices_of_64_cells(tmp_path):
    record = large_sweep(trajectories=1000, siblings=2, points=3)
    lattice = tuple(cell(1 / (3 + m * d), m=0.9 + m / 97, d=0.99 + d / 907) for m in range(8) for d in range(8))
    report.write(replace(record, lattices=dict.fromkeys(range(1000), lattice)), tmp_path)
    assert len(report.load_report(tmp_path)["lattices"]) == 1000
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"The best {MAX_MAPS} lattices can be chosen; {1000 - MAX_MAPS} more are in" in text
    assert len(text) < PLOTLY_BYTES + 3_000_000
