"""TensorFlow without what it can do without, each case in a process of its own."""

import json
import subprocess
import sys

import pytest

PACKAGES = ("h5py", "keras", "pandas", "scipy", "sklearn", "tensorflow")
TELL = f"print(json.dumps([name for name in {PACKAGES} if name in sys.modules]))"


def loaded_after(*lines):
    """Which of the packages a fresh interpreter has loaded after running ``lines``."""
    code = "\n".join(["import json, sys", *lines, TELL])
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(finished.stdout.splitlines()[-1])


def test_a_worker_that_is_prepared_has_tensorflow_alone():
    lines = [
        "from model.config import TrialSettings",
        "from model.trial import ToweredCNN",
        "from sweeps.trainable import Devices",
        "ToweredCNN(TrialSettings()).prepare(Devices(num_towers=1, threads=1))",
    ]
    assert loaded_after(*lines) == ["tensorflow"]


@pytest.mark.parametrize(
    "use",
    [
        "assert tf.keras.layers.Dense(2)(tf.zeros([1, 3])).shape == (1, 2)",
        "assert callable(tf.keras.datasets.cifar10.load_data)",
        "import keras; assert keras.backend.backend() == 'tensorflow'",
        "import h5py, scipy.stats, keras; assert scipy.stats.norm.cdf(0) == 0.5",
    ],
)
def test_keras_can_be_had_afterwards(use):
    lines = ["from model.lean import import_tensorflow", "import_tensorflow()", "import tensorflow as tf", use]
    assert {"keras", "tensorflow"} <= set(loaded_after(*lines))


@pytest.mark.parametrize("collects", [True, False])
def test_garbage_is_collected_afterwards_as_it_was_before(collects):
    lines = [
        "import gc",
        f"gc.{'enable' if collects else 'disable'}()",
        "from model.lean import import_tensorflow",
    ]
    assert "tensorflow" in loaded_after(*lines, "import_tensorflow()", f"assert gc.isenabled() is {collects}")


@pytest.mark.parametrize("first", ["keras", "tensorflow", "scipy"])
def test_what_is_loaded_already_stays(first):
    lines = [f"import {first}", "from model.lean import import_tensorflow", "import_tensorflow()", "import keras"]
    assert {"keras", "tensorflow"} <= set(loaded_after(*lines))
