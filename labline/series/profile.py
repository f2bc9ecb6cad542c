"""What a forecaster's features and forecasts looked like when it was judged, for monitoring to compare later ones with.

The reference profile holds counts over fixed bins and no samples, see `labline.baseline`; the reference sample holds
rows, see `labline.reference`.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from labline.baseline import deciles, histogram
from labline.packaged_model import DIRECTIONS
from labline.reference import Reference, feature_column
from labline.series.assessment import Assessment
from labline.series.dataset import SeriesDataset, Windows, windows
from labline.series.forecaster import forecast_mean
from labline.series.forecasting import ForecastSettings
from labline.strict_json import nan_to_null


def series_profile(
    dataset: SeriesDataset, later: Windows, outputs: npt.NDArray[np.float32], assessment: Assessment
) -> dict[str, Any]:
    """Profile the test split among the windows `later` than training, whose forecasts `outputs` are.

    Returns, ready for JSON: `samples`; `inputs`: per feature, by its expression, at the last row of each window, and
    `targets`: a histogram over deciles with `edges`, `counts`, `mean` and `std`; `predictions`: the same for each
    output of the forecast, by its position; `quality`: per metric `value`, `low`, `high`. Undefined figures are None.
    """
    test = windows(dataset, "test")
    inputs_NF = test.features[test.indices]
    tested = outputs[np.searchsorted(later.indices, test.indices)]
    profile = {
        "samples": len(test),
        "inputs": {text: _profiled(inputs_NF[:, position]) for position, text in enumerate(dataset.description.inputs)},
        "targets": _profiled(test.targets[test.indices]),
        "predictions": {str(position): _profiled(tested[:, position]) for position in range(tested.shape[1])},
        "quality": {
            name: {
                "value": value,
                **dict(zip(("low", "high"), assessment.intervals.get(name, (None, None)), strict=True)),
            }
            for name, value in assessment.metrics.items()
        },
    }
    return cast(dict[str, Any], nan_to_null(profile))


def series_reference(
    dataset: SeriesDataset, later: Windows, outputs: npt.NDArray[np.float32], forecast: ForecastSettings
) -> Reference:
    """The test split among the windows `later` than training, whose forecasts `outputs` are, row by row.

    Features, by their expressions, are those of the last row of each window. The outputs are the raw forecasts: logits
    where the direction is told apart.
    """
    test = windows(dataset, "test")
    tested = outputs[np.searchsorted(later.indices, test.indices)]
    features = [feature_column(text) for text in dataset.description.inputs]
    identity = dataset.manifest["sample_id"].iloc[test.indices].reset_index(drop=True).to_frame()
    answered = _answered(torch.from_numpy(tested), test.targets[test.indices], forecast)
    rows = identity.join(pd.DataFrame(answered)).join(pd.DataFrame(test.features[test.indices], columns=features))
    return Reference(rows, tested, None, tuple(features))


def _answered(
    outputs: torch.Tensor, targets_N: npt.NDArray[np.float32], forecast: ForecastSettings
) -> dict[str, npt.NDArray[Any]]:
    """What was true and what was answered, as columns of `Reference.rows`."""
    if forecast.head != "classes":
        answer_N = forecast_mean(outputs, forecast.head, forecast.levels).numpy()
        return {"target": targets_N, "answer": answer_N, "confidence": np.full_like(answer_N, np.nan)}
    names, probabilities_NK = np.array(DIRECTIONS, dtype=object), outputs.softmax(dim=1).numpy()
    label_N, answer_N = names[targets_N.astype(int)], names[probabilities_NK.argmax(axis=1)]
    return {"label": label_N, "answer": answer_N, "confidence": probabilities_NK.max(axis=1)}


def _profiled(values_N: npt.NDArray[np.float32]) -> dict[str, Any]:
    return histogram(values_N, deciles(pd.Series(values_N)))
