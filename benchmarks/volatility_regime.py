"""Whether monitoring sees the regime change of 2007 to 2009 with a volatility model of before: month by month.

The model is trained by `labline run` on S&P 500 rows of up to the end of 2006, the last two years of which are its
test split and reference: it has seen nothing of what follows. Every day from 2007 on it is asked for the volatility of
the next five, answers and, five days later, their realised targets go to the feedback store, and at the end of each
month the window of the last half year is examined by the tasks of `labline monitor`. `ratio` is the highest loss
measured in a window over the reference's. The pictures go to docs/images.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from labline.errors import LablineError

if TYPE_CHECKING:
    from labline.feedback import FeedbackStore, Label, Prediction
    from labline.monitoring.examination import Examination
    from tasks.version import Version
    from tasks.watched import Watched

NAME = "volatility"
SPLIT = ("2003-12-31", "2004-12-31")  # last days of training and of validation; tested on 2005 and 2006
BEGIN, END = pd.Timestamp("2007-01-01", tz="UTC"), pd.Timestamp("2010-01-01", tz="UTC")
WINDOW = 126  # days: half a year
DAYS_A_YEAR = 252
CLOSE = pd.Timedelta(hours=21)  # 16:00 in New York, in winter
PICTURES = Path("docs/images")
EVENTS = {
    "2007-08-09": "BNP Paribas freezes funds",
    "2008-03-14": "Bear Stearns is rescued",
    "2008-09-15": "Lehman Brothers fails",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """A day's forecast: when it was asked for, and from when on its truth was known (both seconds since 1970)."""

    at: float
    known_at: float
    features: dict[str, float]
    outputs: tuple[float, ...]
    truth: float


def measure() -> dict[str, Any]:
    """Train, ask, examine; raises LablineError where a command fails or monitoring sees nothing."""
    with tempfile.TemporaryDirectory(prefix="labline-benchmark-") as directory:
        scratch = Path(directory)
        os.environ["LABLINE_STORE"] = str(scratch / "store")
        _put_in_production(scratch)
        from labline.feedback import FeedbackStore
        from tasks.staged import staged_version
        from tasks.watched import watch

        staged_version(NAME)  # reads the settings of the storage root
        watched = watch(NAME)
        asked = forecasts(watched.version)
        store = FeedbackStore(os.environ["LABLINE_FEEDBACK"])
        months = _examined(watched, store, asked)
        store.close()
    result = summarised(months)
    _draw(months, float(months["reference"].iloc[-1]))
    if result["ours"]["first_retrain"] is None:
        raise LablineError(f"monitoring saw no regime change from {BEGIN.date()} to {END.date()}")
    return result


def table(result: dict[str, Any]) -> str:
    """The months for a person to read."""
    lines = ["month    QLIKE   95 % interval    most drifted feature                  verdict"]
    for month in result["ours"]["months"]:
        lines.append(
            f"{month['month']}  {month['value']:5.3f}   {month['low']:5.3f} to {month['high']:5.3f}   "
            f"{month['feature']:27} PSI {month['psi']:5.2f}  {month['verdict']}"
        )
    ours = result["ours"]
    lines.append(
        f"reference {ours['reference']:.3f}; first watch {ours['first_watch']}, first retrain {ours['first_retrain']}; "
        f"the highest loss is {result['ratio']:.1f} times the reference's; pictures in {PICTURES}"
    )
    return "\n".join(lines)


def summarised(months: pd.DataFrame) -> dict[str, Any]:
    """The result, ready for JSON."""
    first = {kind: months.loc[months["verdict"] == kind, "month"].min() for kind in ("watch", "retrain")}
    reference = float(months["reference"].iloc[-1])
    return {
        "name": "volatility_regime",
        "ratio": float(months["value"].max()) / reference,
        "ours": {
            "reference": reference,
            "first_watch": first["watch"] if pd.notna(first["watch"]) else None,
            "first_retrain": first["retrain"] if pd.notna(first["retrain"]) else None,
            "verdicts": months["verdict"].value_counts().to_dict(),
            "months": months.drop(columns=["inputs"]).to_dict("records"),
        },
        "theirs": {},
    }


def _put_in_production(scratch: Path) -> None:
    import arch.data.sp500

    prices = arch.data.sp500.load().rename_axis("date")
    prices[prices.index < BEGIN.tz_localize(None)].to_csv(scratch / "before.csv")
    settings = {
        "data.source": "csv",
        "data.split.train_until": SPLIT[0],
        "data.split.validation_until": SPLIT[1],
        "monitoring.predictions_per_year": str(DAYS_A_YEAR),
        "gates": "{}",
    }
    chosen = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    log.info("training on rows of before %s", BEGIN.date())
    _labline("run", NAME, "--data", str(scratch / "before.csv"), *chosen)
    for stage in ("Staging", "Production"):
        log.info("to %s", stage)
        _labline("promote", NAME, "--reason", "benchmark")


def _labline(*words: str) -> None:
    command = [sys.executable, "-P", "-c", "from flows.cli import main; main()", *words, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = json.loads(ended.stdout.splitlines()[-1]) if ended.stdout.strip() else {}
        raise LablineError(f"labline {words[0]} {words[1]} ended with {ended.returncode}: {said.get('error', said)}")


def forecasts(version: Version) -> list[Asked]:
    """What the version answers on every day from 2007 to 2009, from rows cleaned and computed as in training."""
    from labline.packaged_model import FORECAST, open_model
    from labline.series.cleaning import clean_series
    from labline.series.dataset import complete_windows
    from labline.series.features import compute_features, compute_target
    from labline.series.ingest import ingest_series
    from labline.series.usecase import SeriesUseCase

    declaration = version.declaration
    assert isinstance(declaration, SeriesUseCase)
    features = declaration.features
    whole = declaration.data.model_copy(update={"source": "sp500", "path": None})
    manifest = ingest_series(whole, features).manifest
    rows = clean_series(manifest, declaration.cleaning, list(features.columns), features.positive_columns).manifest
    features_NF, targets_N = compute_features(rows, features.inputs), compute_target(rows, features)
    known_N = rows["timestamp"].shift(-features.horizon)
    wanted_N = (rows["timestamp"] >= BEGIN) & (rows["timestamp"] < END) & ~np.isnan(targets_N)
    wanted_N &= complete_windows(features_NF, rows["stretch"].to_numpy(), features.window)
    days = np.flatnonzero(wanted_N)
    windows_NTF = np.stack([features_NF[day - features.window + 1 : day + 1] for day in days])
    outputs_NK = open_model(version.folder).answer(windows_NTF, (FORECAST,))[0]
    return [
        Asked(
            at=(rows["timestamp"].iloc[day] + CLOSE).timestamp(),
            known_at=(known_N.iloc[day] + CLOSE).timestamp(),
            features=dict(zip(features.inputs, features_NF[day].tolist(), strict=True)),
            outputs=tuple(outputs.tolist()),
            truth=float(targets_N[day]),
        )
        for day, outputs in zip(days, outputs_NK, strict=True)
    ]


def _examined(watched: Watched, store: FeedbackStore, asked: list[Asked]) -> pd.DataFrame:
    """One row a month: what the window of its last evening came to."""
    from tasks.examine_window import examine_window, read_window

    found, told = [], 0.0
    for until in pd.date_range(BEGIN, END, freq="MS")[1:]:
        evening = until.timestamp()
        store.write(records(asked, watched.version.number, told, evening))
        told = evening
        examined = examine_window(watched, read_window(watched, None, WINDOW))
        assert examined is not None
        found.append(_row(until, examined))
        log.info("%s: %s", found[-1]["month"], found[-1]["verdict"])
    return pd.DataFrame(found)


def records(asked: list[Asked], version: str, since: float, until: float) -> list[Prediction | Label]:
    """The forecasts asked for, and the truths that became known, from one moment to before another."""
    from labline.feedback import Label, Prediction

    found: list[Prediction | Label] = []
    for day in asked:
        identity = f"{int(day.at):040x}"
        if since <= day.at < until:
            answer = repr(day.outputs[0])
            found.append(
                Prediction(
                    identity, NAME, version, "production", day.at, answer, float("nan"), day.outputs, 0.0, day.features
                )
            )
        if since <= day.known_at < until:
            found.append(Label(f"{identity}-realised", identity, repr(day.truth), "replay", day.known_at, day.known_at))
    return found


def _row(until: pd.Timestamp, examined: Examination) -> dict[str, Any]:
    measured, inputs = examined.findings.performance, examined.inputs
    return {
        "month": f"{until - pd.Timedelta(days=1):%Y-%m}",
        "at": until.timestamp(),
        "value": measured.value,
        "low": measured.low,
        "high": measured.high,
        "reference": measured.reference,
        "feature": str(inputs["feature"].iloc[0]),
        "psi": float(inputs["psi"].iloc[0]),
        "evidence_loss": examined.findings.losses.log_value,
        "verdict": examined.verdict.kind,
        "reasons": list(examined.verdict.reasons),
        "inputs": inputs[["feature", "psi"]],
    }


def _draw(months: pd.DataFrame, reference: float) -> None:
    from labline.monitoring.plots import drift_heat_map, performance_over_time

    estimates = dict.fromkeys(("estimate", "estimate_low", "estimate_high"), np.nan)
    events = [(pd.Timestamp(day, tz="UTC").timestamp(), text) for day, text in EVENTS.items()]
    pictures: Mapping[str, Any] = {
        "volatility-2007-2009.png": performance_over_time(months.assign(**estimates), reference, "QLIKE", events),
        "volatility-2007-2009-drift.png": drift_heat_map(
            pd.concat(
                [inputs.assign(at=at) for inputs, at in zip(months["inputs"], months["at"], strict=True)],
                ignore_index=True,
            ),
            most=2.0,
        ),
    }
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        figure.savefig(PICTURES / name, dpi=120)
