"""``python -m sweeps`` is ``towersweep``."""

from sweeps.cli import main

main()
