"""Keeps Ray's own messages off stdout, which belongs to results. To be imported before Ray, which reads this once.

``log_to_driver=False`` silences workers alone: what the raylet says of each worker that died would still be
printed. The driver's log has it in other words.
"""

import os

os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
