"""TensorFlow fixes its devices once a process: two logical CPU devices for all tests of the model."""

import pytest

from model.config import DataSettings, ModelSettings, TrainSettings, TrialSettings
from model.trial import ToweredCNN
from sweeps.trainable import Devices

ONE, TWO = Devices(num_towers=1, threads=2), Devices(num_towers=2, threads=2)


@pytest.fixture(scope="session", autouse=True)
def two_devices():
    ToweredCNN(TrialSettings()).prepare(TWO)


def make_trainable(data=None, train=None, **model):
    """A trainable with small layers."""
    model = {"conv_widths": (4, 6), "fc_widths": (10, 8), "kernel_size": 3, **model}
    return ToweredCNN(
        TrialSettings(
            data=data or DataSettings(),
            model=ModelSettings(**model),
            train=train or TrainSettings(batch_size=16, steps=60),
        )
    )
