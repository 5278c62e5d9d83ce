"""A sweep's report: report.json for programs, trials.csv for spreadsheets, report.html for people.

All three are made from a SweepRecord alone; nothing here asks the study, Ray or the trainable.
"""

from __future__ import annotations

from pathlib import Path

from sweeps.errors import RunFolderError
from sweeps.records import SweepRecord
from sweeps.report.as_json import Report, load_report

JSON_NAME = "report.json"
CSV_NAME = "trials.csv"
HTML_NAME = "report.html"

__all__ = ["CSV_NAME", "HTML_NAME", "JSON_NAME", "Report", "load_report", "write"]


def write(record: SweepRecord, folder: Path) -> None:
    """Write the three files into ``folder``; each is either the old one or the whole new one at any moment.

    Raises RunFolderError if the folder is missing or cannot be written.
    """
    from sweeps.report import as_csv, as_html, as_json
    from sweeps.run_folder import write_atomically

    contents = {
        JSON_NAME: as_json.render(record),
        CSV_NAME: as_csv.render(record),
        HTML_NAME: as_html.render(record, csv_name=CSV_NAME),
    }
    try:
        for name, text in contents.items():
            write_atomically(folder / name, text.encode("utf-8"))
    except OSError as error:
        raise RunFolderError(
            f"run folder is {str(folder)!r}, but must be a folder that can be written ({error.strerror})"
        ) from error
