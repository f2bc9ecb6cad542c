"""The evidence of a verdict: figures for charts, tables, pictures and pages for people.

Written to a folder of the storage root first and put on an MLflow run from there, so that nothing is lost while the
MLflow server is away.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labline.chronicle import Told
from labline.markdown import markdown_table
from labline.strict_json import nan_to_null
from tasks.environment import storage_root
from tasks.production_quality import Quality
from tasks.watched import Watched, reference_of

if TYPE_CHECKING:
    from labline.monitoring.examination import Examination
    from tasks.examine_window import Window

log = logging.getLogger(__name__)

MOST_POINTS = 200  # of the history that a picture shows
EVIDENTLY_ROWS = 5000
PSI = "psi_"  # begins the name of a feature's population stability index among the figures
POINTS = {
    "value": "measured",
    "low": "measured_low",
    "high": "measured_high",
    "estimate": "estimated",
    "estimate_low": "estimated_low",
    "estimate_high": "estimated_high",
}  # columns of a picture's history, and the figures that they show


def figures_of(examined: Examination, window: Window, quality: Quality) -> dict[str, Any]:
    """What a verdict rests on, as numbers ready for JSON; what could not be measured is None."""
    measured, found = examined.findings.performance, examined.findings
    inputs = examined.inputs.set_index("feature")
    figures: dict[str, Any] = {
        "predictions": found.predictions,
        "labelled": measured.labelled,
        "metric": measured.metric,
        "reference": measured.reference,
        "measured": measured.value if measured.labelled else None,
        "measured_low": measured.low,
        "measured_high": measured.high,
        "evidence_drift": found.drift.log_value,
        "evidence_loss": found.losses.log_value,
        "confidence": examined.answers.confidence,
        "reference_confidence": examined.answers.reference_confidence,
        "confidence_ks": examined.answers.confidence_ks,
        "answers_p": examined.answers.p,
        "quality_problems": len(quality.problems),
        "latency_ms_p50": float(window.rows["latency_ms"].median()),
        **{f"{PSI}{_plain(str(name))}": float(psi) for name, psi in inputs["psi"].items()},
    }
    if examined.embedding is not None:
        figures |= {"embedding_discrepancy": examined.embedding.discrepancy, "embedding_p": examined.embedding.p}
    if examined.estimate is not None:
        estimate = examined.estimate
        figures |= {"estimated": estimate.accuracy, "estimated_low": estimate.low, "estimated_high": estimate.high}
    change = found.change
    if change is not None:
        changed_at = float(window.rows["at"].iloc[change.start])
        figures |= {"changed_at": changed_at, "changed_predictions": change.predictions}
        if change.estimate is not None:
            figures |= {"estimated_since_change": change.estimate.accuracy}
    return dict(nan_to_null(figures))  # type: ignore[call-overload,no-any-return]


def evidence_folder(told: Told) -> Path:
    """Where a verdict's evidence is written first."""
    return storage_root() / "monitoring" / told.usecase / "verdicts" / told.id[:20]


def write_evidence(
    told: Told, watched: Watched, window: Window, examined: Examination, quality: Quality, page: bool
) -> None:
    """Write what was found into a verdict's folder; `page` adds Evidently's report where that is installed."""
    folder = evidence_folder(told)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verdict.json").write_text(json.dumps(told.content, indent=2))
    (folder / "verdict.md").write_text(as_markdown(told, examined, quality))
    examined.inputs.to_csv(folder / "input_drift.csv", index=False)
    examined.answers.classes.to_csv(folder / "answers.csv", index=False)
    examined.findings.performance.groups.to_csv(folder / "performance_groups.csv", index=False)
    quality.results.to_csv(folder / "quality.csv", index=False)
    if page:
        _evidently_page(folder / "evidently.html", watched, window)


def as_markdown(told: Told, examined: Examination, quality: Quality) -> str:
    """The verdict for the Prefect page."""
    reasons = "\n".join(f"- {reason}" for reason in told.content["reasons"])
    figures = told.content["figures"]
    shown = {name: value for name, value in figures.items() if value is not None and not name.startswith(PSI)}
    if (moment := shown.get("changed_at")) is not None:
        shown["changed_at"] = datetime.fromtimestamp(moment, UTC).isoformat(sep=" ", timespec="seconds")
    table = "\n".join(f"| {name.replace('_', ' ')} | {_cell(value)} |" for name, value in shown.items())
    parts = [
        f"# {told.usecase} version {told.version}: {told.kind}\n\n{reasons}",
        f"| figure | value |\n| --- | --- |\n{table}",
        f"## Inputs\n\n{markdown_table(examined.inputs)}",
    ]
    if len(examined.answers.classes):
        parts.append(f"## Answers\n\n{markdown_table(examined.answers.classes)}")
    if len(groups := examined.findings.performance.groups):
        parts.append(f"## Classes and slices, by their labels\n\n{markdown_table(groups)}")
    return "\n\n".join([*parts, f"## Data quality\n\n{quality.as_markdown()}"])


def loggable(figures: dict[str, Any]) -> dict[str, float]:
    """The figures that MLflow takes as metrics."""
    numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def write_pictures(told: Told, history: list[Told], events: Sequence[tuple[float, str]]) -> None:
    """Draw performance and drift over the latest verdicts, with what happened: `events` are moments and texts."""
    import pandas as pd

    from labline.monitoring.plots import drift_heat_map, performance_over_time

    folder, shown = evidence_folder(told), history[-MOST_POINTS:]
    points = pd.DataFrame([_point(each) for each in shown]).astype(dict.fromkeys(POINTS, float))
    figures, since = told.content["figures"], shown[0].content["until"]
    recent = [(at, text) for at, text in events if at >= since]
    drawn = {"performance_over_time": performance_over_time(points, figures["reference"], figures["metric"], recent)}
    drift = [(each.content["until"], name, psi) for each in shown for name, psi in each.content["figures"].items()]
    drift = [(at, name.removeprefix(PSI), psi) for at, name, psi in drift if name.startswith(PSI) and psi is not None]
    if drift:
        drawn["drift_over_time"] = drift_heat_map(pd.DataFrame(drift, columns=["at", "feature", "psi"]))
    for name, figure in drawn.items():
        figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")


def _point(told: Told) -> dict[str, Any]:
    """A verdict as `performance_over_time` takes it."""
    figures = told.content["figures"]
    values = {column: figures.get(name) for column, name in POINTS.items()}
    return {"at": told.content["until"], "verdict": told.kind, **values}


def _evidently_page(path: Path, watched: Watched, window: Window) -> None:
    try:
        from evidently import Report  # type: ignore[import-untyped]
        from evidently.presets import DataDriftPreset  # type: ignore[import-untyped]
    except ImportError:
        return
    reference = reference_of(watched.version)
    columns = [name for name in reference.features if name in window.rows and window.rows[name].notna().any()]
    known = reference.rows[[*columns, "answer", "confidence"]]
    seen = window.rows.tail(EVIDENTLY_ROWS)[[*columns, "answer", "confidence"]]
    if "target" in reference.rows:  # a forecaster has no confidence, and its answers are numbers
        known, seen = (frame.drop(columns="confidence").astype(float) for frame in (known, seen))
    try:
        Report([DataDriftPreset()]).run(seen.reset_index(drop=True), known.reset_index(drop=True)).save_html(str(path))
    except Exception as error:  # a page beside our own: what it cannot draw must not cost the verdict
        log.warning("Evidently could not draw its report: %s", error)


def _plain(name: str) -> str:
    """A name that MLflow takes for a metric: expressions of series have brackets and the like."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
