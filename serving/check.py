"""Would this version serve? Load it as the service does, answer its input example, and see how fast it is.

    python -m serving.check models:/steel/3 --json

prints one JSON object on the last line, {ok, problems, answers, latency_ms_p50, latency_ms_p99, seconds_to_ready},
and ends with 0 where the version is fit to serve, 1 where it is not, 2 where there is none.
Imports neither torch nor, for a folder, MLflow: the process starts in a fraction of a second.

Shape legend: N samples, K outputs: of an image its classes, of a window what the head gives.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labline.errors import LablineError
from labline.packaged_model import PackagedModel, TensorSpec, open_model
from labline.strict_json import nan_to_null
from serving.fetching import fetch

Samples = npt.NDArray[Any]  # as the signature has them: images uint8, windows float32

# On one thread, ONNX Runtime answers alone and in a batch alike to the last bit here, fp32 and INT8; kernels of other
# machines may sum a batch in another order, which moves a probability by about 1e-6. Of a forecast, the tolerance is a
# share of the target's standard deviation, as in the parity at export.
TOLERANCE = 1e-4
SMALLEST_BATCH = 8  # an example of one sample would otherwise be compared with itself
REQUESTS = 200


@dataclass(frozen=True)
class Check:
    """What was seen: `ok` means no problem.

    `answers` are those to the input example, N x K: probabilities or forecasts. Latencies are of single requests on
    one thread, in milliseconds, reported and never judged; `seconds_to_ready` is from opening the version to its first
    answer. What was not reached is empty or NaN.
    """

    problems: tuple[str, ...] = ()
    answers: tuple[tuple[float, ...], ...] = ()
    latency_ms_p50: float = math.nan
    latency_ms_p99: float = math.nan
    seconds_to_ready: float = math.nan

    @property
    def ok(self) -> bool:
        """Whether the version is fit to serve."""
        return not self.problems


def check(folder: Path, requests: int = REQUESTS) -> Check:
    """Load the version in a folder, hold its answers against its signature, and time single requests.

    Raises BadInput where the folder holds no version, and LablineError where the version cannot be loaded or
    cannot answer its input example.
    """
    started = time.perf_counter()
    model = open_model(folder)
    opened = time.perf_counter() - started
    example = open_example(folder, model.input)
    started = time.perf_counter()
    model.predict(example[:1])
    ready = opened + time.perf_counter() - started
    names = tuple(spec.name for spec in model.outputs)
    answers = dict(zip(names, model.answer(example, names), strict=True))
    seen = Check(tuple(_problems(model, example, answers)), seconds_to_ready=ready)
    answered = answers[model.answer_name]
    if answered.ndim == 2:
        finite_NK = np.where(np.isfinite(answered), answered, math.nan)
        seen = replace(seen, answers=tuple(map(tuple, finite_NK.tolist())))
    p50, p99 = np.quantile(_latencies(model, example, requests), [0.5, 0.99])
    return replace(seen, latency_ms_p50=float(p50), latency_ms_p99=float(p99))


def open_example(folder: Path, expected: TensorSpec) -> Samples:
    """The version's input example, as the signature has it, at least one sample; raises LablineError otherwise."""
    path = folder / "input_example.json"
    mend = f"{expected} was expected, at least one sample. Fetch the version again, or register it anew."
    try:
        written = np.asarray(json.loads(path.read_bytes()))
        with np.errstate(over="ignore"):  # what does not fit is not kept, and refused below
            example = written.astype(expected.dtype)
    except (OSError, ValueError, TypeError) as error:
        raise LablineError(f"{path}: no input example ({error}): {mend}") from error
    if problem := expected.mismatch(example):
        raise LablineError(f"{path}: {problem}. Fetch the version again, or register it anew.")
    # Floats are written with more digits than float32 has; pixels are kept as they are or not at all.
    kept = np.allclose(example, written, rtol=1e-6, atol=0) if example.dtype.kind == "f" else (example == written).all()
    if len(example) == 0 or not kept:
        raise LablineError(f"{path}: no sample, or values that are not {expected.dtype}: {mend}")
    return example


def _problems(model: PackagedModel, example: Samples, answers: dict[str, npt.NDArray[Any]]) -> list[str]:
    """What is wrong with the answers to the input example."""
    found = []
    for spec in model.outputs:
        answer = answers[spec.name]
        expected = replace(spec, shape=(len(example), *spec.shape[1:]))
        if problem := expected.mismatch(answer):
            found.append(f"wrong answer to the input example: {problem}")
        elif not np.isfinite(answer).all():
            found.append(f"the {spec.name} of the input example are not finite: broken weights, or an overflow")
    if found:
        return found
    name = model.answer_name
    judged = _no_probabilities(answers[name]) if model.kind == "image" else _no_forecast(answers[name], model.head)
    if judged:
        found.append(judged)
    apart = _apart(model, example)
    if apart > TOLERANCE * _unit(model):
        what = f"{name} of the input example" if model.kind == "image" else "forecasts of the input example"
        found.append(f"{what} differ by {apart:.2g} between asked alone and asked in a batch: the graph mixes samples")
    return found


def _no_probabilities(probabilities_NK: npt.NDArray[Any]) -> str | None:
    off = float(np.abs(probabilities_NK.sum(axis=1) - 1).max())
    if off <= TOLERANCE and probabilities_NK.min() >= 0:
        return None
    return f"the answers to the input example are no probabilities: they sum to 1 within {off:.2g}, or are negative"


def _no_forecast(forecast_NK: npt.NDArray[Any], head: str) -> str | None:
    """What contradicts the declared head: a deviation that is not above zero, or quantiles that cross."""
    if head == "gaussian" and forecast_NK[:, 1].min() <= 0:
        return f"a forecast of the input example has a standard deviation of {forecast_NK[:, 1].min():.2g}, not above 0"
    if head == "quantile" and (np.diff(forecast_NK, axis=1) < 0).any():
        return "the quantiles forecast for the input example cross: they are expected to rise"
    return None


def _unit(model: PackagedModel) -> float:
    """What differences are measured in: the target's standard deviation on the test split, 1 for classes.

    Raises LablineError where a forecaster's profile does not say.
    """
    if model.head == "classes":
        return 1.0
    path = model.folder / "extra_files" / "baseline.json"
    try:
        return float(json.loads(path.read_bytes())["targets"]["std"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LablineError(
            f"{path}: the standard deviation of the target cannot be read ({type(error).__name__}: {error}). A profile "
            "with targets.std, as labline run writes it, was expected: fetch the version again, or register it anew."
        ) from error


def _apart(model: PackagedModel, example: Samples) -> float:
    """The largest difference between the answer to a sample alone and to the same sample in a batch."""
    batch = np.resize(example, (max(len(example), SMALLEST_BATCH), *example.shape[1:]))
    alone_NK = np.concatenate([model.predict(batch[i : i + 1]) for i in range(len(example))])
    return float(np.abs(alone_NK - model.predict(batch)[: len(example)]).max())


def _latencies(model: PackagedModel, example: Samples, requests: int) -> list[float]:
    """Milliseconds of each of so many single requests, one after the other."""
    milliseconds = []
    for i in range(requests):
        sample = example[i % len(example)][np.newaxis]
        started = time.perf_counter()
        model.predict(sample)
        milliseconds.append(1e3 * (time.perf_counter() - started))
    return milliseconds


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving.check", description="Would this version serve?")
    parser.add_argument("version", help="the folder of a version, models:/NAME/VERSION or models:/NAME@ALIAS")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args(arguments)
    try:
        found = _checked(asked.version)
        code = 0 if found.ok else 1
    except LablineError as error:
        found, code = Check((str(error),)), error.exit_code
    if asked.json:
        print(json.dumps(nan_to_null({"ok": found.ok, **asdict(found)})))
    elif found.ok:
        print(f"fit to serve: p50 {found.latency_ms_p50:.2f} ms, p99 {found.latency_ms_p99:.2f} ms")
    else:
        print(*found.problems, sep="\n")
    return code


def _checked(version: str) -> Check:
    if not version.startswith("models:"):
        return check(Path(version))
    with tempfile.TemporaryDirectory(prefix="labline-check-") as scratch:
        return check(fetch(version, Path(scratch)))


if __name__ == "__main__":
    raise SystemExit(main())
