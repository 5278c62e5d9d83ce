"""TensorFlow without what a trial needs nothing of, two seconds sooner."""

from __future__ import annotations

import gc
import sys

# Each is taken by TensorFlow where it is there, and done without where it is not.
OPTIONAL = ("keras", "h5py", "scipy")


def import_tensorflow() -> None:
    """Import TensorFlow for the first time in this process, but not what it would try to load with it.

    TensorFlow's last act of importing is to try for Keras; where there is none, it goes on. Keras brings pandas,
    scikit-learn and SciPy's statistics: 1.3 of 3.7 s of every worker's start. An old Keras within TensorFlow tries
    for h5py and SciPy: .15 s. They are hidden only meanwhile, so ``tf.keras`` and ``import keras`` work
    afterwards, and load them then. What is loaded already stays so. Looking for garbage among all that is made and
    kept would take another .35 s. Where TensorFlow or Keras is loaded already, nothing is done.
    """
    if "tensorflow" in sys.modules or "keras" in sys.modules:
        return
    hidden = [name for name in OPTIONAL if name not in sys.modules]
    collected = gc.isenabled()
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # What Python itself takes for "cannot be imported".
    gc.disable()
    try:
        import tensorflow  # noqa: F401  To have it loaded is all that is wanted.
    finally:
        if collected:
            gc.enable()
        for name in hidden:
            del sys.modules[name]
