"""Sweep records made by hand, for tests of what is made from them."""

from __future__ import annotations

import math
import random
from typing import Any

from sweeps.records import (
    CurvePoint,
    Failure,
    FailureKind,
    LatticeCell,
    Params,
    Score,
    SweepRecord,
    TrialRecord,
    TrialState,
    Verdict,
)

ROLES = {
    "learning_rate": "trajectory",
    "bn_placement": "trajectory",
    "bn_order": "trajectory",
    "bn_momentum": "readout",
    "ema_decay": "readout",
}
RUNGS = (33, 100, 300)


def trial(number: int = 0, **changes: Any) -> TrialRecord:
    """A completed, converged trial of its own trajectory; ``changes`` replace fields."""
    fields: dict[str, Any] = {
        "number": number,
        "trajectory": number,
        "state": TrialState.COMPLETE,
        "params": {"learning_rate": 0.01},
        "value": 0.1,
        "verdict": Verdict.CONVERGED,
        "steps": 300,
        "seconds": 2.0,
        "attempts": 1,
        "reason": "all steps done",
        "failure": None,
        "curve": (CurvePoint(100, 1.0), CurvePoint(300, 0.05, Score(0.1, 0.97))),
        "started": 0.0,
        "ended": 2.0,
    }
    return TrialRecord(**{**fields, **changes})


def sweep(*trials: TrialRecord, **changes: Any) -> SweepRecord:
    """A finished sweep of ``trials``; ``changes`` replace fields."""
    fields: dict[str, Any] = {
        "name": "by-hand",
        "config_digest": "0123abcd",
        "seed": 7,
        "versions": {"towersweep": "0.1.0"},
        "roles": {"learning_rate": "trajectory"},
        "total_steps": 300,
        "wall_seconds": 120.0,
        "finished": True,
        "trials": trials,
    }
    return SweepRecord(**{**fields, **changes})


def mixed_sweep() -> SweepRecord:
    """One of everything: converged, pruned, failed, diverged (NaN, infinity), running; inactive parameters."""
    nan, inf = math.nan, math.inf
    conv = {"learning_rate": 0.003, "bn_placement": "conv", "bn_order": "before", "bn_momentum": 0.99}
    logits = {**conv, "bn_placement": "logits", "learning_rate": 0.01}
    point = CurvePoint(33, 2.0, Score(1.9, 0.3))
    return sweep(
        trial(0, params=conv, value=0.02, ended=10.0),
        trial(1, trajectory=0, params={**conv, "bn_momentum": 0.9}, value=0.5, ended=10.0,
              curve=(CurvePoint(100, 1.0), CurvePoint(300, 0.05, Score(0.5, 0.9)))),
        trial(2, params=logits, state=TrialState.PRUNED, verdict=Verdict.STALLED, value=1.9, steps=33,
              reason="step 33: loss 1.9 is outside the best third of 3", curve=(point,), ended=12.0),
        trial(3, params={"learning_rate": 0.03, "bn_placement": "none"}, state=TrialState.FAILED, value=None,
              verdict=Verdict.UNDETERMINED, steps=0, curve=(), attempts=3, ended=15.0,
              reason="failed 3 times",
              failure=Failure(FailureKind.WORKER_LOST, "the worker <b>died</b>", "Traceback ...")),
        trial(4, params={**logits, "learning_rate": 0.3}, verdict=Verdict.DIVERGED, value=nan,
              curve=(CurvePoint(33, 8.0), CurvePoint(100, nan, Score(nan, 0.1))), steps=100, ended=20.0),
        trial(5, params={**logits, "learning_rate": 0.4}, verdict=Verdict.DIVERGED, value=inf,
              curve=(CurvePoint(33, inf, Score(inf, nan)),), steps=33, ended=21.0),
        trial(6, params={"learning_rate": 0.001, "bn_placement": "none"}, state=TrialState.RUNNING, value=1.2,
              verdict=Verdict.IMPROVING, curve=(CurvePoint(33, 1.4, Score(1.2, 0.6)),), steps=33, ended=None,
              reason=""),
        trial(7, params=dict(logits, learning_rate=0.02), state=TrialState.PRUNED, verdict=Verdict.STALLED,
              value=1.8, steps=33, curve=(point,), reason="step 33: outside the best third", ended=25.0),
        roles=ROLES,
        finished=False,
    )  # fmt: skip


def large_sweep(trajectories: int = 60, siblings: int = 4, points: int = 30, seed: int = 1) -> SweepRecord:
    """A believable search: BN on the logits stalls, high rates diverge, low ones are still improving."""
    draw = random.Random(seed)
    trials: list[TrialRecord] = []
    for number in range(trajectories):
        trials += _trajectory(draw, number, siblings, points)
    wall = 2.0 * trajectories + 5
    return sweep(*trials, name="digits", roles=ROLES, wall_seconds=wall)


MOMENTA = (0.8, 0.9, 0.97, 0.99, 0.997, 0.999)
DECAYS = (0.0, 0.9, 0.98, 0.99, 0.995, 0.999, 0.9999)


def cell(loss: float, trial: int | None = None, accuracy: float = 0.9, **readout: Any) -> LatticeCell:
    """One cell of a lattice."""
    return LatticeCell(readout, Score(loss, accuracy), trial)


def shared_sweep(trajectories: int = 6, seed: int = 2) -> SweepRecord:
    """Trajectories of eight siblings with lattices; a cell beats all siblings of some. The last has BN nowhere.

    In trajectory 1 the slowest averages give no finite loss, and one cell was not scored.
    """
    draw = random.Random(seed)
    trials: list[TrialRecord] = []
    lattices: dict[int, tuple[LatticeCell, ...]] = {}
    for number in range(trajectories):
        placement = "none" if number == trajectories - 1 else "conv"
        momenta: tuple[float | None, ...] = (None,) if placement == "none" else MOMENTA
        pairs = [(momentum, decay) for momentum in momenta for decay in DECAYS]
        losses = {pair: _lattice_loss(draw, number, *pair) for pair in pairs}
        num_siblings = min(8, len(pairs) - 1)
        chosen = draw.sample(pairs, num_siblings)
        best = min((pair for pair in pairs if math.isfinite(losses[pair])), key=losses.__getitem__)
        if best not in chosen:
            chosen.append(best)
        if number == 1:
            pairs.remove(next(pair for pair in pairs if pair not in chosen))
        numbers = {pair: len(trials) + i for i, pair in enumerate(chosen)}
        lattices[number] = tuple(
            LatticeCell(_readout(*pair), Score(losses[pair], 1 / (1 + losses[pair])), numbers.get(pair))
            for pair in pairs
        )
        for i, pair in enumerate(chosen):
            score = Score(losses[pair], 1 / (1 + losses[pair]))
            trials.append(
                trial(
                    len(trials),
                    trajectory=number,
                    params={"learning_rate": 0.001 * (number + 1), "bn_placement": placement, **_readout(*pair)},
                    value=losses[pair],
                    seconds=4.0,
                    curve=(CurvePoint(100, 1.0), CurvePoint(300, 0.05, score)),
                    from_lattice=i >= num_siblings,
                )
            )
    return sweep(*trials, roles=ROLES, lattices=lattices, device_seconds=10.0 * trajectories)


def _readout(momentum: float | None, decay: float) -> Params:
    return {"ema_decay": decay} if momentum is None else {"bn_momentum": momentum, "ema_decay": decay}


def _lattice_loss(draw: random.Random, number: int, momentum: float | None, decay: float) -> float:
    """Slow averages still remember the start; a moderate one is a little better than none."""
    if number == 1 and decay == DECAYS[-1]:
        return math.nan
    slow = 2.3 * math.exp(-300 * (1 - decay)) + (
        0.0 if momentum is None else 1.5 * math.exp(-300 * (1 - momentum))
    )
    return (0.02 * (1 + number % 4) * (0.7 if 0.9 <= decay <= 0.98 else 1.0) + slow) * draw.uniform(0.95, 1.05)


def _trajectory(draw: random.Random, number: int, siblings: int, points: int) -> list[TrialRecord]:
    rate = 10 ** draw.uniform(-4, -1.3)
    placement = draw.choice(["none", "conv", "conv+fc", "input+conv+fc", "all+logits"])
    shared: dict[str, Any] = {"learning_rate": rate, "bn_placement": placement}
    if placement != "none":
        shared["bn_order"] = draw.choice(["before", "after"])
    verdict = _verdict(rate, placement)
    pruned = verdict is not Verdict.CONVERGED and draw.random() < 0.6
    steps = draw.choice(RUNGS[:2]) if pruned else RUNGS[-1]
    floor = 1.3 if verdict is Verdict.STALLED else 0.01
    at = [max(1, round(steps * (i + 1) / points)) for i in range(points)]
    losses = [_loss(draw, step, rate, floor, verdict) for step in dict.fromkeys(at)]
    found = []
    for sibling in range(siblings):
        params: Params = {
            **shared,
            "bn_momentum": draw.choice([0.8, 0.9, 0.97, 0.99]),
            "ema_decay": draw.choice(["off", 0.9, 0.99, 0.999]),
        }
        end = losses[-1] * draw.uniform(1.0, 1.6)
        curve = tuple(
            CurvePoint(step, loss, Score(end, max(0.1, 1 - end / 2.3)) if step == steps else None)
            for step, loss in zip(dict.fromkeys(at), losses, strict=True)
        )
        found.append(
            trial(
                number * siblings + sibling,
                trajectory=number,
                params=params,
                state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
                verdict=verdict,
                value=end,
                steps=steps,
                curve=curve,
                reason=f"step {steps}: outside the best third" if pruned else "all steps done",
                started=2.0 * number,
                ended=2.0 * number + 4,
            )
        )
    return found


def _verdict(rate: float, placement: str) -> Verdict:
    if rate > 0.03:
        return Verdict.DIVERGED
    if placement == "all+logits":
        return Verdict.STALLED
    return Verdict.IMPROVING if rate < 4e-4 else Verdict.CONVERGED


def _loss(draw: random.Random, step: int, rate: float, floor: float, verdict: Verdict) -> float:
    if verdict is Verdict.DIVERGED:
        return 2.3 * math.exp(step / 60) if step < 200 else math.nan
    fall = math.exp(-step * (rate**0.5) / 2.5)
    return (floor + (2.3 - floor) * fall) * draw.uniform(0.9, 1.1)
