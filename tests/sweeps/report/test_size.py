"""A large sweep's report stays usable: bounded drawing, bounded page, every trial in the data files."""

import csv

from sweeps import report
from tests.support.records import large_sweep

PLOTLY_BYTES = 5_500_000


def test_three_thousand_trials_of_thirty_points(tmp_path):
    record = large_sweep(trajectories=375, siblings=8, points=30)
    report.write(record, tmp_path)
    assert len(record.trials) == 3000
    assert len(report.load_report(tmp_path)["trials"]) == 3000
    with (tmp_path / "trials.csv").open(newline="") as stream:
        assert sum(1 for _ in csv.DictReader(stream)) == 3000
    assert (tmp_path / "report.html").stat().st_size < PLOTLY_BYTES + 1_500_000
