"""Images of one's own, from a NumPy archive: x, y, and optionally x_eval, y_eval, x_test, y_test.

Images are [N, H, W] or [N, H, W, C], of uint8 or of real numbers; labels [N] are whole numbers from 0. Nothing in
the file is ever unpickled. Parts that the file does not have are split off from x.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.checks import SettingError
from model.config import DataSettings
from model.data.dataset import Dataset, Part
from model.data.splitting import split_off

ARRAYS = ("x", "y", "x_eval", "y_eval", "x_test", "y_test")
MAX_CLASSES = 100_000  # Far more is a mistake, such as pixels for labels, and would ask for endless memory.
# What zipfile and NumPy raise for what is no archive, or a damaged one.
DAMAGE = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def load_npz(settings: DataSettings) -> Dataset:
    """The data set in the file ``data.path``. Raises SettingError naming the array and the rule that it breaks."""
    path = Path(settings.path)
    arrays = _arrays(path)
    train = _part(path, arrays, "")
    test = _part(path, arrays, "_test") if "x_test" in arrays else None
    held_out = _part(path, arrays, "_eval") if "x_eval" in arrays else None
    whole = len(train.labels)
    for part, fraction in ((test, settings.test_fraction), (held_out, settings.eval_fraction)):
        if part is None and (whole < 5 or round(fraction * whole) < 1):
            raise SettingError("data.path", f"{path}, with {whole} images", "a file with enough images to split")
    # Fractions are of the whole, so the second cut is of what the first has left.
    if test is None:
        train, test = split_off(train, settings.test_fraction, settings.seed)
    if held_out is None:
        share = min(settings.eval_fraction * whole / len(train.labels), 0.5)
        train, held_out = split_off(train, share, settings.seed)
    num_classes = 1 + max(int(part.labels.max()) for part in (train, held_out, test))
    return Dataset(train, held_out, test, num_classes)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise SettingError("data.path", str(path), "an .npz archive, not a single array")
            names = [name for name in ARRAYS if name in archive.files]
            arrays = {name: archive[name] for name in names}
    except SettingError:
        raise
    except DAMAGE as error:
        raise SettingError("data.path", str(path), f"a whole .npz archive of plain arrays ({error})") from error
    for suffix in ("", "_eval", "_test"):
        missing = [name for name in (f"x{suffix}", f"y{suffix}") if name not in arrays]
        if missing and (suffix == "" or len(missing) == 1):
            raise SettingError("data.path", f"{path}, without {missing[0]}", "an .npz archive with both x and y")
    return arrays


def _part(path: Path, arrays: dict[str, NDArray[Any]], suffix: str) -> Part:
    return Part(
        _images(f"{path}: x{suffix}", arrays[f"x{suffix}"], arrays[f"y{suffix}"]),
        _labels(f"{path}: y{suffix}", arrays[f"y{suffix}"]),
    )


def _images(name: str, images: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or not images.size:
        raise SettingError(name, f"of shape {images.shape}", "[N, H, W] or [N, H, W, C] and not empty")
    if len(images) != len(labels):
        raise SettingError(name, f"of length {len(images)}", f"as long as its labels, {len(labels)}")
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "iuf":
        raise SettingError(name, str(images.dtype), "of real numbers")
    if not np.isfinite(images).all():
        raise SettingError(name, "not finite", "free of NaN and infinity")
    return images.astype(np.float32)


def _labels(name: str, labels: NDArray[Any]) -> NDArray[np.int32]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise SettingError(name, f"of shape {labels.shape}", "[N], one label an image")
    if labels.dtype.kind not in "iuf":
        raise SettingError(name, str(labels.dtype), "of whole numbers")
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.floor(labels)).all()):
        raise SettingError(name, "not whole", "of whole numbers")
    if labels.min() < 0 or labels.max() >= MAX_CLASSES:
        raise SettingError(name, f"from {labels.min()} to {labels.max()}", f"from 0 to {MAX_CLASSES - 1:,}")
    return labels.astype(np.int32)
