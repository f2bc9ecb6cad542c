"""What a search came to: the winner as a declaration, pictures and tables on its MLflow run and the Prefect page."""

from __future__ import annotations

import math
import os
import time
from base64 import b64encode
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labline.errors import LablineError
from labline.tuning.gain import Gain, gain_of
from labline.tuning.predictions import load_predictions
from labline.tuning.space import value_of
from labline.tuning.study import Attempt, attempts, best, completed
from tasks.environment import storage_root
from tasks.recording import Recording
from tasks.searching import Search

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST_FOR_IMPORTANCE = 5  # completed trials


@dataclass(frozen=True)
class Found:
    """The winner among the trials, what it gains, and what mattered.

    `changed` are the winner's settings that are not the declaration's; `latencies` are those of declaration and winner
    in milliseconds, side by side, where latency was asked for.
    """

    attempts: list[Attempt]
    winner: Attempt
    changed: dict[str, Any]
    gain: Gain
    importances: dict[str, float]
    latencies: dict[str, float]


def judge(search: Search) -> Found:
    """Choose the winner and say how sure its gain is. Raises LablineError where no trial came to its end."""
    ended = [attempt for attempt in completed(search.study) if search.predictions(attempt.index).is_file()]
    winner = best(ended, search.higher, search.both)
    if winner is None or ended[0].index != 0:  # predictions of another storage root on the same study lie there
        raise LablineError(
            f"no trial of {search.declaration.name} came to its end yet: run labline tune again, which goes on where "
            "this one was; with --timeout, allow more minutes"
        )
    predictions = [load_predictions(search.predictions(attempt.index)) for attempt in ended]
    position = [attempt.index for attempt in ended].index(winner.index)
    return Found(
        attempts=attempts(search.study),
        winner=winner,
        changed={key: value for key, value in winner.settings.items() if value != value_of(search.declaration, key)},
        gain=gain_of(search.declaration, search.metric, search.higher, predictions, position),
        importances=_importances(search),
        latencies=_latencies(search, winner) if search.both else {},
    )


def write_winner(search: Search, found: Found, declared: dict[str, Any], source: Path, out: Path) -> None:
    """Write the declaration with the winner's settings, and where they came from; raises LablineError where it cannot.

    `declared` is what the user wrote with what was overridden; it keeps its name, so that `labline run` of this file
    trains the same use case.
    """
    import tomli_w

    for key, value in found.changed.items():
        *sections, name = key.split(".")
        section = declared
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    lines = [f"# {line}".rstrip() for line in _origin(search, found, source)]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(out.name + ".partial")
        partial.write_text("\n".join(lines) + "\n\n" + tomli_w.dumps(declared), encoding="utf-8")
        os.replace(partial, out)
    except OSError as error:
        raise LablineError(f"{out} cannot be written ({error.strerror}): name another file with --out") from error


def show(search: Search, found: Found, recording: Recording, out: Path) -> None:
    """Put pictures, tables, figures and the winner on the MLflow run and the Prefect page."""
    from prefect.artifacts import create_image_artifact, create_markdown_artifact

    folder = storage_root() / search.folder / "evidence"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    for name, figure in _figures(search, found).items():
        figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
    table = trials_markdown(search, found)
    (folder / "trials.md").write_text(table, encoding="utf-8")
    recording.client.log_artifacts(recording.run_id, str(folder), "tuning")
    recording.client.log_artifact(recording.run_id, str(out), "tuning")
    _figures_of_the_run(search, found, recording)
    key = f"{search.declaration.name}-tuning"
    create_markdown_artifact(key=key, markdown=f"{found.gain.verdict}\n\n{table}", description=found.gain.verdict)
    for picture in sorted(folder.glob("*.png")):
        encoded = f"data:image/png;base64,{b64encode(picture.read_bytes()).decode()}"
        create_image_artifact(key=f"{key}-{picture.stem}", image_url=encoded, description=picture.stem)


def trials_markdown(search: Search, found: Found) -> str:
    """Every trial with its settings and figures, as a Markdown table."""
    import pandas as pd

    from labline.markdown import markdown_table

    rows = [
        {
            "trial": f"{attempt.index}{' (winner)' if attempt.index == found.winner.index else ''}",
            "state": attempt.state,
            search.metric: attempt.metric,
            **({"latency ms": attempt.latency} if search.both else {}),
            "epochs": attempt.epochs,
            **{key: str(value) for key, value in attempt.settings.items()},
            "note": attempt.note,
        }
        for attempt in found.attempts
    ]
    return markdown_table(pd.DataFrame(rows))


def _origin(search: Search, found: Found, source: Path) -> list[str]:
    gain, name = found.gain, search.metric
    low, high = gain.winner_interval
    from_low, from_high = gain.declared_interval
    changes = [f"{key}: {value_of(search.declaration, key)} -> {value}" for key, value in found.changed.items()]
    return [
        f"Written by labline tune on {time.strftime('%Y-%m-%d')}: trial {found.winner.index} of "
        f"{len(found.attempts)} of study {search.study.study_name}, from {source.name}.",
        f"Validation {name} {gain.winner:.4f} ({low:.4f} to {high:.4f}), of {source.name} "
        f"{gain.declared:.4f} ({from_low:.4f} to {from_high:.4f}).",
        f"{gain.verdict[0].upper()}{gain.verdict[1:]}.",
        *changes,
    ]


def _importances(search: Search) -> dict[str, float]:
    """How much of the metric's variance each setting explains; nothing where too little was seen to say."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    if len(completed(search.study)) < FEWEST_FOR_IMPORTANCE or len(search.space) < 2:
        return {}
    target = (lambda trial: float(trial.values[0])) if search.both else None
    try:
        shares = get_param_importances(search.study, evaluator=FanovaImportanceEvaluator(seed=0), target=target)
    except (RuntimeError, ValueError):  # all trials came to the same: there is no variance to explain
        return {}
    return {name: float(share) for name, share in shares.items() if math.isfinite(share)}


def _latencies(search: Search, winner: Attempt) -> dict[str, float]:
    """The declaration's and the winner's files against each other, whatever else ran beside their trials."""
    import numpy as np

    from labline.tuning.learning import latencies

    folder = storage_root() / search.folder
    files = {"declared": folder / "0.onnx", "winner": folder / f"{winner.index}.onnx"}
    samples = {name: np.load(file.with_suffix(".samples.npy")) for name, file in files.items()}
    if samples["declared"].shape == samples["winner"].shape:
        return latencies(files, samples["declared"])
    return {name: latencies({name: file}, samples[name])[name] for name, file in files.items()}


def _figures(search: Search, found: Found) -> dict[str, Figure]:
    from labline.tuning import plots

    winner, higher = found.winner.index, search.higher
    declared = {key: value_of(search.declaration, key) for key in search.space}
    drawn = {
        "history": plots.history(found.attempts, search.metric, higher, winner),
        "slices": plots.slices(found.attempts, search.space, search.metric, declared, winner),
    }
    if found.importances:
        drawn["importance"] = plots.importances(found.importances)
    if search.both:
        drawn["pareto"] = plots.pareto(completed(search.study), search.metric, higher, winner)
    return drawn


def _figures_of_the_run(search: Search, found: Found, recording: Recording) -> None:
    gain, client, run_id = found.gain, recording.client, recording.run_id
    figures = {
        f"declared_validation_{search.metric}": gain.declared,
        f"best_validation_{search.metric}": gain.winner,
        "gain": gain.difference,
        "expected_gain": gain.expected,
        "expected_gain_low": gain.expected_interval[0],
        "expected_gain_high": gain.expected_interval[1],
        "trials": len(found.attempts),
        **{f"latency_ms_p50_{name}": value for name, value in found.latencies.items()},
        **{f"importance.{name}": share for name, share in found.importances.items()},
    }
    for name, value in figures.items():
        client.log_metric(run_id, name, value)
    client.set_tag(run_id, "mlflow.note.content", found.gain.verdict)
    client.log_dict(run_id, asdict(gain), "tuning/gain.json")
    for key, value in found.winner.settings.items():
        client.set_tag(run_id, f"labline.winner.{key}", str(value))
    client.set_tag(run_id, "labline.winner", str(found.winner.index))
