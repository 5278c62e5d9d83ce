"""Images a second of one training step: ours against Keras, MirroredStrategy, and against ourselves.

    python benchmarks/tower_step.py [--rounds 9] [--network small|tutorial|both] [--profile]

Every contestant is a process of its own with two CPU threads, warmed up and then idle until its turn comes. Rounds
go through all of them in turn, so that what the machine does meanwhile hits all alike; ratios are taken within a
round, and their medians are printed. Same network, batch, optimizer (Adam) and EMA for all; Keras trains by
``fit`` on arrays in memory. BN stands on conv and fc unless said otherwise.

"measured" is a trajectory with everything that is reported at the default intervals, "bare" the same steps with
nothing measured at all. ``--profile`` prints where one step's time goes, by kind of operation, instead.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

THREADS, BATCH, DECAY = 2, 128, 0.99
EVAL_EVERY, EVAL_IMAGES = 100, 359  # The default, and digits' eval part.

# Kinds of operation in a profile: words, and what their names contain; the first that fits.
KINDS = {
    "convolutions": ("Conv2D",),
    "matrix products, small images' convolutions among them": ("MatMul",),
    "batch normalization (images)": ("FusedBatchNorm",),
    "pooling": ("MaxPool", "Maximum", "Unpack", "GreaterEqual", "Select", "Pack"),
    "ReLU, backward": ("ReluGrad",),
    "Adam": ("ResourceApplyAdam",),
    "all else: EMA, BN of features, loss, joins, gathers": ("",),
}
# What a profile lists besides operations, with the operations' time in it.
NOT_OPERATIONS = ("_train_steps", "Eager", "TFE_", "Run", "Process", "FunctionRun", "ParallelFor", "tf.constant")


@dataclass(frozen=True)
class Network:
    """A network and the images it is timed on; ``steps`` a round, so that a round takes about a second."""

    name: str
    image_shape: tuple[int, int, int]
    conv_widths: tuple[int, ...]
    fc_widths: tuple[int, ...]
    steps: int


SMALL = Network("small", (8, 8, 1), (32, 32), (128, 64), 200)
TUTORIAL = Network("tutorial", (24, 24, 3), (64, 64), (384, 192), 12)


@dataclass(frozen=True)
class Contestant:
    """``framework``: ours, measured, bare, keras, mirrored, or floor (the products alone, both ways)."""

    framework: str
    network: Network
    towers: int = 1
    bn: str = "conv+fc"

    @property
    def steps(self) -> int:
        """A round's. Where measuring is timed, a multiple of the steps between evaluations, and more of them, as
        its cost is smaller than what times of a second differ by."""
        if self.framework in ("measured", "bare"):
            return -(-5 * self.network.steps // EVAL_EVERY) * EVAL_EVERY
        return self.network.steps


# What is shown: (words, faster, slower, bar): the ratio of images a second, or of costs where the bar is a most.
SHOWN: list[tuple[str, Callable[[Network], tuple[Contestant, Contestant]], float, str]] = [
    ("against Keras fit", lambda n: (Contestant("ours", n), Contestant("keras", n)), 1.4, "at least"),
    (
        "two towers against MirroredStrategy",
        lambda n: (Contestant("ours", n, 2), Contestant("mirrored", n, 2)),
        2.3,
        "at least",
    ),
    (
        "cost of two towers against one",
        lambda n: (Contestant("ours", n), Contestant("ours", n, 2)),
        1.1,
        "at most",
    ),
    (
        "cost of BN against none",
        lambda n: (Contestant("ours", n, 1, "none"), Contestant("ours", n)),
        1.3,
        "at most",
    ),
    (
        "cost of BN against none, two towers",
        lambda n: (Contestant("ours", n, 2, "none"), Contestant("ours", n, 2)),
        1.3,
        "at most",
    ),
    ("cost of measuring", lambda n: (Contestant("bare", n), Contestant("measured", n)), 1.03, "at most"),
    (
        "cost of a step against its products alone",
        lambda n: (Contestant("floor", n), Contestant("ours", n)),
        0,
        "",
    ),
]


def images_and_labels(network: Network) -> tuple[Any, Any]:
    """Standard normal images; enough for a round."""
    rng = np.random.default_rng(0)
    count = BATCH * network.steps
    images = rng.standard_normal((count, *network.image_shape)).astype(np.float32)
    return images, rng.integers(0, 10, count).astype(np.int32)


def ours(contestant: Contestant) -> Callable[[], None]:
    """A run of the trial, on the same images."""
    from model import run as run_module
    from model.config import DataSettings, ModelSettings, TrainSettings, TrialSettings
    from model.data import Dataset, Part
    from model.trial import ToweredCNN
    from sweeps.trainable import Devices

    network = contestant.network
    part = Part(*images_and_labels(network))
    steps = contestant.steps
    run_module.load = lambda _: Dataset(part, part, part, 10)
    size, channels = network.image_shape[0], network.image_shape[2]
    settings = TrialSettings(
        data=DataSettings(dataset="synthetic", image_size=size, channels=channels, num_train=len(part.labels)),
        model=ModelSettings(network=network.name, towers=contestant.towers, bn_placement=contestant.bn),
        train=TrainSettings(steps=10**9, batch_size=BATCH, eval_every=10**9),
    )
    if contestant.framework == "bare":
        _measure_nothing()
    if contestant.framework == "measured":
        settings = replace(settings, train=replace(settings.train, eval_every=EVAL_EVERY))
    run = ToweredCNN(settings).start({}, [{"ema_decay": DECAY}], 0, Devices(contestant.towers, 0.0, THREADS))
    if contestant.framework == "measured":
        run._data = replace(run._data, eval=Part(part.images[:EVAL_IMAGES], part.labels[:EVAL_IMAGES]))
        return lambda: run.advance(run._step + steps)
    return lambda: run._train_to(run._step + steps)


def _measure_nothing() -> None:
    """Take out of this process' traced step what is only looked at."""
    import tensorflow as tf

    from model import diagnostics, run

    take_all = diagnostics.Diagnostics.__init__

    def take_none(self: Any, *arguments: Any) -> None:
        take_all(self, *arguments)
        self.names = []

    diagnostics.Diagnostics.__init__ = take_none
    diagnostics.Diagnostics.take = lambda *_: tf.zeros([0])
    run.TrainingRun._ends = lambda self, first, target: [target]
    run.memory_mib = lambda placement: 0.0


def keras_network(network: Network, bn: str) -> Any:
    """The same network of Keras layers."""
    import keras

    def block(layer: Any) -> list[Any]:
        return [layer, *([keras.layers.BatchNormalization()] if bn != "none" else []), keras.layers.ReLU()]

    layers: list[Any] = [keras.Input(network.image_shape)]
    for width in network.conv_widths:
        layers += block(keras.layers.Conv2D(width, 5, padding="same"))
        pool = (3, "same") if network.name == "tutorial" else (2, "valid")
        layers.append(keras.layers.MaxPooling2D(pool[0], 2, padding=pool[1]))
    layers.append(keras.layers.Flatten())
    for width in network.fc_widths:
        layers += block(keras.layers.Dense(width))
    return keras.Sequential([*layers, keras.layers.Dense(10)])


def keras_fit(contestant: Contestant) -> Callable[[], None]:
    """``fit`` over one epoch; with towers, under MirroredStrategy on as many logical CPU devices."""
    import keras
    import tensorflow as tf

    set_threads(contestant.towers)
    names = [f"/CPU:{index}" for index in range(contestant.towers)]
    strategy = tf.distribute.MirroredStrategy(names) if contestant.framework == "mirrored" else None
    images, labels = images_and_labels(contestant.network)

    def compiled() -> Any:
        made = keras_network(contestant.network, contestant.bn)
        optimizer = keras.optimizers.Adam(1e-3, use_ema=True, ema_momentum=DECAY)
        made.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return made

    if strategy is None:
        network = compiled()
    else:
        with strategy.scope():
            network = compiled()
    return lambda: network.fit(images, labels, batch_size=BATCH, epochs=1, verbose=0)


def floor(contestant: Contestant) -> Callable[[], None]:
    """The convolutions and matrix products of a step, forward and backward, and nothing else."""
    import tensorflow as tf

    set_threads(1)
    network = contestant.network
    rng = np.random.default_rng(0)

    def variable(*shape: int) -> Any:
        return tf.constant(rng.standard_normal(shape).astype(np.float32))

    products: list[tuple[Any, Any, bool]] = []
    height, _, channels = network.image_shape
    for width in network.conv_widths:
        products.append((variable(BATCH, height, height, channels), variable(5, 5, channels, width), True))
        height, channels = (height + 1) // 2 if network.name == "tutorial" else height // 2, width
    features = height * height * channels
    for units in (*network.fc_widths, 10):
        products.append((variable(BATCH, features), variable(features, units), False))
        features = units

    @tf.function
    def steps() -> Any:
        total = tf.constant(0.0)
        for _ in tf.range(network.steps):
            for index, (x, kernel, is_conv) in enumerate(products):
                # What is computed must differ from step to step, or it would be computed once.
                kernel = kernel + 1e-9 * total
                if is_conv:
                    y = tf.nn.conv2d(x, kernel, 1, "SAME")
                    back = tf.raw_ops.Conv2DBackpropFilter(
                        input=x, filter_sizes=kernel.shape, out_backprop=y, strides=[1] * 4, padding="SAME"
                    )
                    total += 1e-9 * back[0, 0, 0, 0]
                    if index:  # Nothing is differentiated with respect to the images.
                        down = tf.raw_ops.Conv2DBackpropInput(
                            input_sizes=x.shape, filter=kernel, out_backprop=y, strides=[1] * 4, padding="SAME"
                        )
                        total += 1e-9 * down[0, 0, 0, 0]
                else:
                    y = tf.matmul(x, kernel)
                    down = tf.matmul(y, kernel, transpose_b=True)
                    total += 1e-9 * (tf.matmul(x, y, transpose_a=True)[0, 0] + down[0, 0])
        return total

    return lambda: steps().numpy()


def set_threads(towers: int) -> None:
    """As our own trial sets them."""
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(min(towers, THREADS))
    tf.config.threading.set_intra_op_parallelism_threads(max(1, THREADS // towers))
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * towers)


def contest(contestant: Contestant, pipe: Connection) -> None:
    """A contestant's process: warm up, then run a round whenever asked, and answer with its seconds."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As our own trial has it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    makers = dict.fromkeys(("ours", "measured", "bare"), ours)
    makers |= {"keras": keras_fit, "mirrored": keras_fit, "floor": floor}
    once = makers[contestant.framework](contestant)
    once()
    once()
    pipe.send(0.0)
    while pipe.recv():
        began = time.perf_counter()
        once()
        pipe.send(time.perf_counter() - began)


def race(contestants: list[Contestant], rounds: int) -> dict[Contestant, list[float]]:
    """Seconds a step of each contestant in each round."""
    context = get_context("spawn")
    pipes = {}
    for contestant in contestants:
        here, there = context.Pipe()
        context.Process(target=contest, args=(contestant, there), daemon=True).start()
        here.recv()
        pipes[contestant] = here
    seconds: dict[Contestant, list[float]] = {contestant: [] for contestant in contestants}
    for number in range(rounds):
        print(f"\rround {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
        for contestant, pipe in pipes.items():
            pipe.send(True)
            seconds[contestant].append(pipe.recv() / contestant.steps)
    print(file=sys.stderr)
    for pipe in pipes.values():
        pipe.send(False)
    return seconds


def profile(network: Network) -> None:
    """Print the milliseconds of a step by kind of operation, as TensorFlow's own profiler times them."""
    once = ours(Contestant("ours", network))
    once()
    once()
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        once()
        tf.profiler.experimental.stop()
        (found,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(found.read_bytes())
    spent = dict.fromkeys(KINDS, 0.0)
    for plane in (each for each in space.planes if each.name.startswith("/host:CPU")):
        for event in (event for line in plane.lines for event in line.events):
            name = plane.event_metadata[event.metadata_id].name.rpartition(":")[2].strip()
            if not name.startswith(("__inference", *NOT_OPERATIONS)):
                kind = next(kind for kind, parts in KINDS.items() if any(part in name for part in parts))
                spent[kind] += event.duration_ps / 1e9 / network.steps
    total = sum(spent.values())
    print(f"\n{network.name}: a step of {BATCH} images, one tower, BN on conv+fc: {total:.2f} ms in operations")
    for kind, milliseconds in spent.items():
        print(f"  {kind:58} {milliseconds:8.2f} ms  {milliseconds / total:4.0%}")


def main() -> None:
    """Race, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--network", choices=["small", "tutorial", "both"], default="both")
    parser.add_argument("--only", default="", help="those comparisons whose words hold this")
    parser.add_argument("--profile", action="store_true")
    chosen = parser.parse_args()
    networks = [n for n in (SMALL, TUTORIAL) if chosen.network in (n.name, "both")]
    for network in networks if chosen.profile else []:
        # A process each, as devices and programs are a process's.
        worker = get_context("spawn").Process(target=profile, args=(network,))
        worker.start()
        worker.join()
    for network in networks if not chosen.profile else []:
        pairs = [(words, *make(network), bar, sense) for words, make, bar, sense in SHOWN if chosen.only in words]
        contestants = list(dict.fromkeys(each for pair in pairs for each in pair[1:3]))
        seconds = race(contestants, chosen.rounds)
        print(f"\n{network.name}, batch {BATCH}, {THREADS} CPU threads; milliseconds a step (median)")
        for each in contestants:
            print(
                f"  {each.framework:9} towers {each.towers}  BN {each.bn:8}"
                f" {1e3 * statistics.median(seconds[each]):8.2f}"
            )
        print("  ratio of a round's times: median (least to most)")
        for words, faster, slower, bar, sense in pairs:
            ratios = sorted(b / a for a, b in zip(seconds[faster], seconds[slower], strict=True))
            middle = statistics.median(ratios)
            met = (
                ""
                if not sense
                else f"  {sense} {bar}: {'met' if (middle >= bar) == (sense == 'at least') else 'NOT MET'}"
            )
            print(f"  {words:44} {middle:5.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}){met}")


if __name__ == "__main__":
    main()
