"""Archives of one's own: parts given or split off, and every kind of bad array refused by name."""

import numpy as np
import pytest

from model.checks import SettingError
from model.config import DataSettings, ModelSettings, TrainSettings, TrialSettings
from model.data import load
from model.trial import ToweredCNN

RNG = np.random.default_rng()
X = RNG.normal(size=(100, 8, 6, 2)).astype(np.float32)
Y = np.arange(100) % 4


def written(tmp_path, **arrays):
    path = tmp_path / "images.npz"
    np.savez(path, **arrays)
    return path


def loaded(path, **settings):
    return load(DataSettings("npz", str(path), **settings))


def test_parts_that_are_missing_are_split_off(tmp_path):
    data = loaded(written(tmp_path, x=X, y=Y), eval_fraction=0.1, test_fraction=0.2)
    assert [len(part.labels) for part in (data.train, data.eval, data.test)] == [70, 10, 20]
    together = np.concatenate([data.train.images, data.eval.images, data.test.images])
    assert {image.tobytes() for image in together} == {image.tobytes() for image in X}
    assert data.num_classes == 4


def test_parts_that_are_given_are_kept(tmp_path):
    path = written(tmp_path, x=X[:60], y=Y[:60], x_eval=X[60:80], y_eval=Y[60:80], x_test=X[80:], y_test=Y[80:])
    data = loaded(path)
    for part, cut in ((data.train, slice(60)), (data.eval, slice(60, 80)), (data.test, slice(80, 100))):
        np.testing.assert_array_equal(part.images, X[cut])
        np.testing.assert_array_equal(part.labels, Y[cut])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, np.float16])
def test_number_types(tmp_path, dtype):
    images = RNG.integers(0, 100, (50, 5, 5)).astype(dtype)
    data = loaded(written(tmp_path, x=images, y=(np.arange(50) % 2).astype(np.float64)))
    assert data.train.images.dtype == (np.uint8 if dtype is np.uint8 else np.float32)
    assert data.image_shape == (5, 5, 1)
    assert data.train.labels.dtype == np.int32


def with_nan():
    x = X.copy()
    x[3, 2, 1, 0] = np.nan
    return x


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": with_nan(), "y": Y}, r"images\.npz: x is 'not finite', but must be free of NaN and infinity"),
        ({"x": X, "y": Y - 1}, r"images\.npz: y is 'from -1 to 2', but must be from 0 to"),
        ({"x": X, "y": Y + 0.5}, r"images\.npz: y is 'not whole', but must be of whole numbers"),
        ({"x": X, "y": np.where(Y, np.nan, 0)}, r"images\.npz: y is 'not whole'"),
        ({"x": X, "y": Y * 10**6}, r"images\.npz: y is 'from 0 to 3000000', but must be from 0 to 99,999"),
        ({"x": X, "y": np.zeros(100, int)}, r"data\.train labels is 'all 0', but must be of at least two classes"),
        ({"x": X, "y": Y[:99]}, r"images\.npz: x is 'of length 100', but must be as long as its labels, 99"),
        ({"x": X, "y": np.array(["a"] * 100)}, r"images\.npz: y is '<U1', but must be of whole numbers"),
        ({"x": X, "y": np.eye(4)[Y]}, r"images\.npz: y is 'of shape \(100, 4\)', but must be \[N\]"),
        ({"x": X.reshape(100, -1), "y": Y}, r"images\.npz: x is 'of shape \(100, 96\)', but must be \[N, H, W\]"),
        ({"x": X[:0], "y": Y[:0]}, r"images\.npz: x is 'of shape \(0, 8, 6, 2\)', but must be .* not empty"),
        ({"x": X.astype(complex), "y": Y}, r"images\.npz: x is 'complex128', but must be of real numbers"),
        ({"x": X.astype(np.float64) * 1e300, "y": Y}, r"data\.\w+ images is 'not finite'"),
        ({"x": X}, r"images\.npz, without y', but must be an \.npz archive with both x and y"),
        ({"y": Y}, r"images\.npz, without x'"),
        ({"x": X, "y": Y, "x_eval": X}, r"images\.npz, without y_eval'"),
        ({"x": X, "y": Y, "y_test": Y}, r"images\.npz, without x_test'"),
        ({"x": np.array([{}] * 100), "y": Y}, r"whole \.npz archive of plain arrays \(Object arrays cannot be"),
        ({"x": X[:3], "y": Y[:3]}, r"images\.npz, with 3 images', but must be a file with enough images to split"),
        (
            {"x": X, "y": Y, "x_eval": X[:, :5], "y_eval": Y},
            r"data\.eval images is 'of shape \(5, 6, 2\)', but must be as large as training images",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_bad_arrays_are_refused_by_name(tmp_path, arrays, message):
    with pytest.raises(SettingError, match=message):
        loaded(written(tmp_path, **arrays))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"hello", None])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "broken.npz"
    if content is None:
        with path.open("wb") as stream:
            np.save(stream, X)
    else:
        path.write_bytes(content)
    with pytest.raises(SettingError, match=r"data\.path is .*broken\.npz', but must be a"):
        loaded(path)


def test_a_truncated_archive_is_refused(tmp_path):
    path = written(tmp_path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SettingError, match=r"must be a whole \.npz archive"):
        loaded(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingError, match=r"nothing\.npz', but must be .* \(.*No such file"):
        loaded(tmp_path / "nothing.npz")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": TrainSettings(batch_size=64)}, "train.batch_size is 64, but must be at most the 60 training"),
        ({"data": {"crop_size": 7}}, "data.crop_size is 7, but must be at most 6, as images are 8x6"),
        ({"model": ModelSettings(kernel_size=12)}, "model.kernel_size is 12, but must be at most 11"),
        ({"model": ModelSettings(conv_widths=(4, 4, 4), kernel_size=1)}, "model.conv_widths is "),
    ],
)
def test_settings_that_do_not_fit_the_file_are_refused_before_training(tmp_path, settings, message):
    path = written(tmp_path, x=X, y=Y)
    data = DataSettings("npz", str(path), **settings.get("data", {}))
    trial = TrialSettings(
        data, settings.get("model", ModelSettings()), settings.get("train", TrainSettings(batch_size=16))
    )
    with pytest.raises(SettingError) as caught:
        ToweredCNN(trial).check_data()
    assert str(caught.value).startswith(message)
