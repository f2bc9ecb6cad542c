"""Monitoring over simulated years, without servers: how soon it speaks, and how often for nothing.

Every day predictions are drawn from pools of real answers, healthy ones and, by the schedule of the kind of drift,
drifted ones; in the evening the evidence is looked at, by the very code that looks at production. After `retrain` the
new version is taken to answer the drifted pool as well as the old one answered the healthy one.

Shape legend: Y years, N predictions a day, S streams, L stakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from labline.monitoring.examination import Examiner
from labline.monitoring.samples import Samples
from labline.monitoring.sequential import advance, log_payoffs, mixed
from labline.monitoring.verdict import Kind, judge, threshold

Floats = npt.NDArray[np.float64]
Drift = Literal["none", "sudden", "gradual", "recurring", "label-shift", "new-class", "sensor-fault"]

DAYS = 365
RAMP = 60  # days that a gradual drift takes
PERIOD, ACTIVE = 45, 15  # days: a recurring drift comes every 45 for 15
PATIENCE = 7  # full looks in a row after which, and days between which, drift without a loss is looked at weekly


@dataclass
class Year:
    """What one year came to. `onset` is the first drifted prediction (None in a healthy year), `verdicts` are the days
    on which the verdict became another one; `delay` counts predictions from the onset to the first `retrain`, None
    where none came; `lost` sums wrong answers beyond the healthy pool's."""

    onset: int | None
    verdicts: list[tuple[int, Kind]] = field(default_factory=list)
    false_alarms: int = 0
    retrainings: int = 0
    delay: int | None = None
    lost: float = 0.0


@dataclass(frozen=True)
class _Pool:
    """A pool with the pay-offs of all its predictions, which are the same every time one is drawn."""

    samples: Samples
    drift_payoffs: npt.NDArray[np.float32]
    loss_payoffs: npt.NDArray[np.float32]
    error: float


def simulate(
    examiner: Examiner,
    healthy: Samples,
    drifted: Samples | None,
    drift: Drift,
    years: int = 20,
    per_day: int = 200,
    label_share: float = 0.0,
    label_delay: int = 7,
    seed: int = 0,
) -> list[Year]:
    """Simulate years of daily monitoring. Pools are labelled samples of the version's answers.

    `label_share` of the predictions get their label after `label_delay` days. The same seed gives the same years.
    """
    pools = [_pool(examiner, pool) for pool in (healthy, drifted) if pool is not None]
    generator = np.random.default_rng(seed)
    onsets = [int(day) if drift != "none" else None for day in generator.integers(60, 240, years)]
    found = [Year(None if onset is None else onset * per_day) for onset in onsets]
    walk = _Walk(examiner, pools, found, per_day, label_share, label_delay, generator)
    for day in range(DAYS):
        shares = [0.0 if onset is None else drifted_share(drift, day - onset) for onset in onsets]
        walk.day(day, np.array(shares))
    return found


def drifted_share(drift: Drift, day: int) -> float:
    """The share of predictions from the drifted pool, on a day counted from the onset."""
    if drift == "none" or day < 0:
        return 0.0
    if drift == "gradual":
        return min(1.0, (day + 1) / RAMP)
    if drift == "recurring":
        return float(day % PERIOD < ACTIVE)
    return 1.0


def summary(years: Sequence[Year]) -> dict[str, float]:
    """`false_alarm_rate`: the share of years with a retrain before any drift; `detected`: that of years with one after
    it; delays in predictions (median and 95 % quantile of those detected), retrainings and answers lost a year."""
    delays = [year.delay for year in years if year.delay is not None]
    return {
        "years": len(years),
        "false_alarm_rate": float(np.mean([year.false_alarms > 0 for year in years])),
        "watch_rate": float(np.mean([any(kind == "watch" for _, kind in year.verdicts) for year in years])),
        "detected": len(delays) / len(years),
        "detected_within_500": sum(delay <= 500 for delay in delays) / len(years),
        "delay_median": float(np.median(delays)) if delays else float("nan"),
        "delay_95": float(np.quantile(delays, 0.95)) if delays else float("nan"),
        "retrainings": float(np.mean([year.retrainings for year in years])),
        "lost": float(np.mean([year.lost for year in years])),
    }


class _Walk:
    """The days of all years side by side: the evidence so far, and which answers were drawn."""

    def __init__(
        self,
        examiner: Examiner,
        pools: list[_Pool],
        years: list[Year],
        per_day: int,
        label_share: float,
        label_delay: int,
        generator: np.random.Generator,
    ) -> None:
        self.examiner, self.pools, self.years, self.per_day = examiner, pools, years, per_day
        self.label_share, self.label_delay, self.generator = label_share, label_delay, generator
        self.drift = np.full((len(years), *pools[0].drift_payoffs.shape[1:]), -np.inf)
        self.loss = np.full((len(years), *pools[0].loss_payoffs.shape[1:]), -np.inf)
        self.drawn: list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.bool_]]] = []
        self.since = np.zeros(len(years), dtype=int)  # the day of the last retraining
        self.cured = np.zeros(len(years), dtype=bool)
        self.next_look = np.zeros(len(years), dtype=int)
        self.looks = np.zeros(len(years), dtype=int)  # full ones in a row

    def day(self, day: int, share_Y: Floats) -> None:
        share_Y = np.where(self.cured, 0.0, share_Y)
        shape = (len(self.years), self.per_day)
        other_YN = self.generator.random(shape) < share_Y[:, None]
        sizes_YN = np.where(other_YN, len(self.pools[-1].samples), len(self.pools[0].samples))
        chosen_YN = (self.generator.random(shape) * sizes_YN).astype(np.int64)
        labelled_YN = self.generator.random(shape) < self.label_share
        self.drawn.append((other_YN, chosen_YN, labelled_YN))
        horizon = self.examiner.rules.predictions_per_year
        self.drift = advance(self.drift, self._payoffs(day, "drift_payoffs"), horizon)
        if self.label_share and day >= self.label_delay:
            due = self._payoffs(day - self.label_delay, "loss_payoffs")
            self.loss = np.where(
                (self.since <= day - self.label_delay)[:, None, None], advance(self.loss, due, horizon), self.loss
            )
        for y, year in enumerate(self.years):
            year.lost += float(other_YN[y].sum()) * (self.pools[-1].error - self.pools[0].error)
            self._look(y, year, day)

    def _payoffs(self, day: int, which: Literal["drift_payoffs", "loss_payoffs"]) -> Floats:
        """N x Y x S x L of one day's predictions."""
        other_YN, chosen_YN, labelled_YN = self.drawn[day]
        healthy, drifted = getattr(self.pools[0], which), getattr(self.pools[-1], which)
        payoffs: Floats = healthy[np.where(other_YN, 0, chosen_YN).T]
        payoffs[other_YN.T] = drifted[chosen_YN.T[other_YN.T]]
        if which == "loss_payoffs":
            payoffs *= labelled_YN.T[:, :, None, None]
        return payoffs

    def _look(self, y: int, year: Year, day: int) -> None:
        limit = threshold(self.examiner.rules)
        suspicious = max(mixed(self.drift[y]), mixed(self.loss[y])) >= limit
        if suspicious and day < self.next_look[y]:
            return
        kind: Kind = "healthy"
        if suspicious:
            kind = judge(self.examiner.findings(self._window(y, day)), self.examiner.rules).kind
            self.looks[y] += 1
            self.next_look[y] = day + (1 if self.looks[y] < PATIENCE else PATIENCE)
        else:
            self.looks[y] = 0
        if not year.verdicts or year.verdicts[-1][1] != kind:
            year.verdicts.append((day, kind))
        if kind == "retrain":
            self._retrain(y, year, day)

    def _retrain(self, y: int, year: Year, day: int) -> None:
        seen = (day + 1) * self.per_day
        if year.onset is None or seen <= year.onset:
            year.false_alarms += 1
        else:
            year.delay = seen - year.onset if year.delay is None else year.delay
            self.cured[y] = True
        year.retrainings += 1
        self.drift[y] = self.loss[y] = -np.inf
        self.since[y] = day + 1

    def _window(self, y: int, day: int) -> Samples:
        """The predictions since the last retraining, at most a window full, with the labels that are back."""
        days = range(max(self.since[y], day + 1 - -(-self.examiner.rules.window // self.per_day)), day + 1)
        parts = []
        for one in days:
            other_N, chosen_N, labelled_N = (array[y] for array in self.drawn[one])
            back_N = labelled_N & (one + self.label_delay <= day)
            parts += [(bool(o), int(c), bool(b)) for o, c, b in zip(other_N, chosen_N, back_N, strict=True)]
        other = np.array([part[0] for part in parts])
        position = np.array([part[1] for part in parts])
        return _merged(self.pools, other, position, np.array([part[2] for part in parts]))


def _merged(
    pools: list[_Pool], other_N: npt.NDArray[np.bool_], position_N: npt.NDArray[np.int64], back_N: npt.NDArray[np.bool_]
) -> Samples:
    """One window out of two pools; labels that are not back are taken out."""
    first, last = pools[0].samples, pools[-1].samples
    joint = Samples(
        features={name: np.concatenate([first.features[name], last.features[name]]) for name in first.features},
        outputs=np.concatenate([first.outputs, last.outputs]),
        embedding=None
        if first.embedding is None or last.embedding is None
        else np.concatenate([first.embedding, last.embedding]),
        answer=np.concatenate([first.answer, last.answer]),
        label=np.concatenate([first.label, last.label]),
        reviewed=np.concatenate([first.reviewed, last.reviewed]),
        classifies=first.classifies,
    ).taken(position_N + other_N * len(first))
    label_N = joint.label.copy()
    label_N[~back_N] = None
    return Samples(**{**joint.__dict__, "label": label_N})


def _pool(examiner: Examiner, samples: Samples) -> _Pool:
    loss_N = examiner.loss_scores(samples)
    return _Pool(
        samples=samples,
        drift_payoffs=log_payoffs(examiner.streams.scores(samples), examiner.streams.bounds).astype(np.float32),
        loss_payoffs=log_payoffs(loss_N[:, None], np.array([examiner.loss_bound])).astype(np.float32),
        error=float(np.nanmean(loss_N)) * examiner.loss_cap,
    )
