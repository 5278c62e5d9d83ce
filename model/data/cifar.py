"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), from a folder that holds the binary version.

The layout is that of https://www.cs.toronto.edu/~kriz/cifar.html: a record is one label byte (CIFAR-100: the
coarse label, then the fine one, which is what is learned here), then 3,072 bytes of pixels, 1,024 each of red,
green and blue, row by row. Files are taken as they are; nothing is unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.checks import SettingError
from model.config import DataSettings
from model.data.dataset import Dataset, Part
from model.data.splitting import split_off

SIDE, CHANNELS = 32, 3
PIXELS = SIDE * SIDE * CHANNELS


@dataclass(frozen=True)
class Layout:
    """The files of one version. ``label_classes`` has an entry for each label byte; the last is the label."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    records_a_train_file: int
    records_a_test_file: int
    label_classes: tuple[int, ...]


LAYOUTS = {
    "cifar10": Layout(
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test=("test_batch.bin",),
        records_a_train_file=10_000,
        records_a_test_file=10_000,
        label_classes=(10,),
    ),
    "cifar100": Layout(
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        records_a_train_file=50_000,
        records_a_test_file=10_000,
        label_classes=(20, 100),
    ),
}


def load_cifar(settings: DataSettings) -> Dataset:
    """Train and eval are split from the training files; test is the published test set.

    Raises SettingError that names the file which is missing, of a wrong size, or not of this layout.
    """
    layout = LAYOUTS[settings.dataset]
    if settings.path:
        train, test = _read(Path(settings.path), layout)
    else:
        train, test = _download(settings.dataset)
    rest, held_out = split_off(train, settings.eval_fraction, settings.seed)
    return Dataset(rest, held_out, test, layout.label_classes[-1])


def _read(folder: Path, layout: Layout) -> tuple[Part, Part]:
    if not folder.is_dir():
        raise SettingError("data.path", str(folder), f"a folder that holds {layout.train[0]} and the other files")
    inner = folder / layout.folder  # Where the archive was unpacked, rather than what was in it.
    folder = inner if inner.is_dir() and not (folder / layout.train[0]).exists() else folder
    train = [_read_file(folder / name, layout, layout.records_a_train_file) for name in layout.train]
    test = [_read_file(folder / name, layout, layout.records_a_test_file) for name in layout.test]
    return _joined(train), _joined(test)


def _read_file(path: Path, layout: Layout, records: int) -> Part:
    """One file: exactly ``records`` records, labels in range, and pixels that are no constant."""
    head = len(layout.label_classes)
    expected = records * (head + PIXELS)
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size == expected else b""
    except OSError as error:
        raise SettingError("data.path", str(path), f"a file that can be read ({error.strerror})") from error
    if not content:
        rule = f"of {expected:,} bytes, {records:,} records of {head + PIXELS:,}"
        raise SettingError("data.path", f"{path} of {size:,} bytes", rule)
    rows = np.frombuffer(content, np.uint8).reshape(records, head + PIXELS)
    for column, classes in enumerate(layout.label_classes):
        wrong = np.flatnonzero(rows[:, column] >= classes)
        if len(wrong):
            found = f"{path}, whose record {wrong[0]} has label {rows[wrong[0], column]}"
            raise SettingError("data.path", found, f"a file of this layout, with labels from 0 to {classes - 1}")
    pixels = rows[:, head:]
    if pixels.min() == pixels.max():
        raise SettingError("data.path", f"{path}, whose pixels are all {pixels.min()}", "a file of images")
    images = pixels.reshape(records, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Part(np.ascontiguousarray(images), rows[:, head - 1].astype(np.int32))


def _joined(parts: list[Part]) -> Part:
    return Part(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))


def _download(dataset: str) -> tuple[Part, Part]:
    """By Keras, into its own cache."""
    import tensorflow as tf

    try:
        found = getattr(tf.keras.datasets, dataset).load_data()
    except Exception as error:
        rule = f"the folder of the binary version, as it could not be downloaded ({error})"
        raise SettingError("data.path", "", rule) from error
    train, test = (Part(images, labels.reshape(-1).astype(np.int32)) for images, labels in found)
    return train, test
