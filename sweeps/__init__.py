"""towersweep: sweep a towered batch-norm CNN, and learn why training stalls.

    from sweeps import launch, resume, load_report

    result = launch("quick", out="runs/demo")
    print(result.record.best())
    print(load_report("runs/demo")["best"])

Nothing heavy is imported until a sweep runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.api import SweepResult, launch, resume
    from sweeps.report import load_report

__all__ = ["SweepResult", "launch", "load_report", "resume"]


def __getattr__(name: str) -> Any:
    """Import the API's names when they are first asked for (PEP 562)."""
    if name in {"SweepResult", "launch", "resume"}:
        from sweeps import api

        return getattr(api, name)
    if name == "load_report":
        from sweeps import report

        return report.load_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
