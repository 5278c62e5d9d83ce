"""The CIFAR readers on files written byte by byte to the published layout, and on eight kinds of damage."""

import shutil

import numpy as np
import pytest

from model.checks import SettingError
from model.config import DataSettings, ModelSettings, TrainSettings, TrialSettings
from model.data import load
from model.data.cifar import LAYOUTS
from model.trial import ToweredCNN

TRAIN_10 = [f"data_batch_{number}.bin" for number in range(1, 6)]


def write_cifar10(folder, rng):
    """3,073 bytes a record: the label, then 1,024 each of red, green, blue, row by row."""
    written = {}
    for name in (*TRAIN_10, "test_batch.bin"):
        labels = rng.integers(0, 10, 10_000, dtype=np.uint8)
        images = rng.integers(0, 256, (10_000, 32, 32, 3), dtype=np.uint8)
        with (folder / name).open("wb") as stream:
            for label, image in zip(labels, images, strict=True):
                stream.write(bytes([label]))
                for colour in range(3):
                    stream.write(image[:, :, colour].tobytes())
        written[name] = images, labels
    return written


def write_cifar100(folder, rng):
    """3,074 bytes a record: the coarse label, the fine label, and the pixels."""
    written = {}
    for name, count in (("train.bin", 50_000), ("test.bin", 10_000)):
        fine = rng.integers(0, 100, count, dtype=np.uint8)
        images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        with (folder / name).open("wb") as stream:
            for label, image in zip(fine, images, strict=True):
                stream.write(bytes([label // 5, label]))
                for colour in range(3):
                    stream.write(image[:, :, colour].tobytes())
        written[name] = images, fine
    return written


@pytest.fixture(scope="module")
def folder10(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar10")
    return folder, write_cifar10(folder, np.random.default_rng())


def same_images(part, images, labels):
    """Whether a part is a permutation of these images with their labels; all are different."""
    ours = {image.tobytes(): label for image, label in zip(part.images, part.labels, strict=True)}
    theirs = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    return ours.items() <= theirs.items() and len(ours) == len(part.labels)


def test_cifar10_is_read_as_it_was_written(folder10):
    folder, written = folder10
    data = load(DataSettings("cifar10", str(folder)))
    assert [len(part.labels) for part in (data.train, data.eval, data.test)] == [40_000, 10_000, 10_000]
    assert (data.image_shape, data.num_classes, data.train.images.dtype) == ((32, 32, 3), 10, np.uint8)
    images = np.concatenate([written[name][0] for name in TRAIN_10])
    labels = np.concatenate([written[name][1] for name in TRAIN_10])
    assert same_images(data.train, images, labels)
    assert same_images(data.eval, images, labels)
    assert not {i.tobytes() for i in data.train.images} & {i.tobytes() for i in data.eval.images}
    np.testing.assert_array_equal(data.test.images, written["test_batch.bin"][0])
    np.testing.assert_array_equal(data.test.labels, written["test_batch.bin"][1])


def test_the_folder_above_is_found_as_well(folder10, tmp_path):
    (tmp_path / "cifar-10-batches-bin").symlink_to(folder10[0])
    data = load(DataSettings("cifar10", str(tmp_path)))
    np.testing.assert_array_equal(data.test.labels, folder10[1]["test_batch.bin"][1])


def test_cifar100_learns_the_fine_labels(tmp_path):
    written = write_cifar100(tmp_path, np.random.default_rng())
    data = load(DataSettings("cifar100", str(tmp_path)))
    assert (len(data.train.labels), len(data.eval.labels), data.num_classes) == (40_000, 10_000, 100)
    assert same_images(data.train, *written["train.bin"])
    np.testing.assert_array_equal(data.test.images, written["test.bin"][0])
    np.testing.assert_array_equal(data.test.labels, written["test.bin"][1])


def damaged(name):
    """Each takes the folder and leaves it damaged in one way."""

    def missing(folder):
        (folder / "data_batch_3.bin").unlink()

    def truncated(folder):
        path = folder / "data_batch_5.bin"
        path.write_bytes(path.read_bytes()[:-1])

    def empty(folder):
        (folder / "test_batch.bin").write_bytes(b"")

    def longer(folder):
        with (folder / "data_batch_1.bin").open("ab") as stream:
            stream.write(bytes(3073))

    def shifted(folder):
        path = folder / "data_batch_2.bin"
        path.write_bytes(bytes([200]) + path.read_bytes()[:-1])

    def foreign(folder):
        (folder / "data_batch_4.bin").write_bytes(b"<!DOCTYPE html><title>404</title>")

    def blank(folder):
        (folder / "data_batch_4.bin").write_bytes(bytes(30_730_000))

    def a_folder(folder):
        (folder / "test_batch.bin").unlink()
        (folder / "test_batch.bin").mkdir()

    return locals()[name]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"data_batch_3\.bin', but must be a file that can be read \(No such file"),
        (
            "truncated",
            r"data_batch_5\.bin of 30,729,999 bytes', but must be of 30,730,000 bytes, 10,000 records of",
        ),
        ("empty", r"test_batch\.bin of 0 bytes', but must be of 30,730,000 bytes"),
        ("longer", r"data_batch_1\.bin of 30,733,073 bytes', but must be of 30,730,000"),
        ("shifted", r"data_batch_2\.bin, whose record 0 has label 200', but must be .* labels from 0 to 9"),
        ("foreign", r"data_batch_4\.bin of 33 bytes', but must be of 30,730,000 bytes"),
        ("blank", r"data_batch_4\.bin, whose pixels are all 0', but must be a file of images"),
        ("a_folder", r"test_batch\.bin.*', but must be"),
    ],
)
def test_damage_is_refused_with_the_files_name(folder10, tmp_path, damage, message):
    folder = tmp_path / "copy"
    shutil.copytree(folder10[0], folder)
    damaged(damage)(folder)
    with pytest.raises(SettingError, match=message):
        load(DataSettings("cifar10", str(folder)))


def test_no_folder_is_no_cifar(tmp_path):
    with pytest.raises(
        SettingError, match=r"data\.path is .*nowhere', but must be a folder that holds data_batch"
    ):
        load(DataSettings("cifar10", str(tmp_path / "nowhere")))


def test_python_versions_folder_is_told_from_the_binary_one(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02}q\x01")
    with pytest.raises(SettingError, match=r"data_batch_1\.bin"):
        load(DataSettings("cifar10", str(tmp_path)))


def test_every_layout_adds_up_to_the_published_numbers():
    for layout in LAYOUTS.values():
        assert len(layout.train) * layout.records_a_train_file == 50_000
        assert len(layout.test) * layout.records_a_test_file == 10_000


def test_the_tutorial_trains_on_its_crops(folder10):
    """The whole path, from files to a step: uint8 on the device, 24x24 crops, the tutorial's network."""
    from tests.model.conftest import ONE

    data = DataSettings(
        "cifar10",
        str(folder10[0]),
        crop_size=24,
        flip=True,
        brightness=63.0,
        contrast=0.8,
        standardize="image",
    )
    model = ModelSettings(
        network="tutorial", initializer="tutorial", lrn=True, conv_widths=(8, 8), fc_widths=(16,)
    )
    trainable = ToweredCNN(TrialSettings(data, model, TrainSettings(batch_size=32, steps=4)))
    assert trainable.check_data().startswith(
        "train 40000, eval 10000, test 10000 images of 32x32x3 uint8, 10 class"
    )
    run = trainable.start({}, [{}], 0, ONE)
    measurement = run.advance(2)
    assert measurement.curve[-1].train_loss == pytest.approx(np.log(10), abs=0.3)
    assert measurement.scores[0].eval_loss == pytest.approx(np.log(10), abs=0.3)
