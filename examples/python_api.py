"""Run a small sweep from Python and look at what it found.

.venv/bin/python examples/python_api.py
"""

import tempfile
from pathlib import Path

from sweeps import launch, load_report, resume


def main() -> None:
    """Launch, extend, and read the report."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "demo"
        result = launch("quick", out=run, trajectories=2, backend="inline")
        print("trajectories:", load_report(run)["counts"]["trajectories"])

        result = resume(run, trajectories="+1", backend="inline")
        print("trajectories:", load_report(run)["counts"]["trajectories"])

        best = result.record.best()
        assert best is not None
        print(f"best: trial {best.number}, eval_loss {best.value:.3f}, {dict(best.params)}")


if __name__ == "__main__":
    main()
