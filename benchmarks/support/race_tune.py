"""Ray Tune with OptunaSearch (its default sampler, TPE) and ASHA; the Keras trial by Tune's function interface.

Two trials of one CPU at a time. Images go to the trials through Ray's object store, as Tune advises. The variant
``reuse`` sets ``reuse_actors``, which is off by default: processes then live on, and import TensorFlow once.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

from benchmarks.support.keras_trial import REDUCTION_FACTOR, RUNGS, Images, load_images, measurements, suggest
from benchmarks.support.race import Race

WORKERS = 2


def search(race: Race, temporary: str) -> None:
    """Run Tune until the time is over."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    kernel_size = race.kernel_size

    def train(config: Mapping[str, Any], images: Images) -> None:
        for step, loss in measurements(config, images, kernel_size):
            tune.report({"step": step, "eval_loss": loss})

    class Noting(tune.Callback):
        """Writes down what Tune hears of."""

        def on_trial_result(self, iteration, trials, trial, result, **info):
            race.measured(result["eval_loss"])

        def on_trial_complete(self, iteration, trials, trial, **info):
            race.ended()

    trainable = tune.with_resources(tune.with_parameters(train, images=load_images(race.split_seed)), {"cpu": 1})
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric="eval_loss",
            mode="min",
            search_alg=OptunaSearch(suggest, metric="eval_loss", mode="min", seed=race.seed),
            scheduler=ASHAScheduler(
                time_attr="step", max_t=RUNGS[-1], grace_period=RUNGS[0], reduction_factor=REDUCTION_FACTOR
            ),
            num_samples=-1,
            max_concurrent_trials=WORKERS,
            time_budget_s=race.left,
            reuse_actors=race.variant == "reuse",
        ),
        run_config=tune.RunConfig(storage_path=f"{temporary}/results", verbose=0, callbacks=[Noting()]),
    ).fit()


def main() -> None:
    """With a Ray of its own."""
    race = Race.from_command_line()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    # A short path: sockets live below it.
    temporary = tempfile.mkdtemp(prefix="ts-ray-")
    ray.init(
        address="local", num_cpus=WORKERS, include_dashboard=False, _temp_dir=temporary, log_to_driver=False,
        logging_level=logging.ERROR,
    )  # fmt: skip
    try:
        search(race, temporary)
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    main()
