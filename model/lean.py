"""TensorFlow without Keras: what a trial needs of it, a second sooner."""

from __future__ import annotations

import sys


def import_tensorflow() -> None:
    """Import TensorFlow for the first time in this process, but not Keras, which TensorFlow would load with it.

    TensorFlow's last act of importing is to try for Keras; where there is none, it goes on. Keras brings pandas,
    scikit-learn and SciPy's statistics: 1.3 of 3.7 s of every worker's start. Keras is hidden only meanwhile, so
    ``tf.keras`` and ``import keras`` work afterwards, and load it then. Where TensorFlow or Keras is loaded
    already, nothing is done.
    """
    if "tensorflow" in sys.modules or "keras" in sys.modules:
        return
    sys.modules["keras"] = None  # type: ignore[assignment]  # What Python itself takes for "cannot be imported".
    try:
        import tensorflow  # noqa: F401  To have it loaded is all that is wanted.
    finally:
        del sys.modules["keras"]
