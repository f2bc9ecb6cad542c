"""The reference profile of a forecaster: what its features and forecasts looked like when it was judged.

Monitoring compares later windows with it, so it holds counts over fixed bins and no samples. See `labline.baseline`.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.baseline import deciles, histogram
from labline.series.assessment import Assessment
from labline.series.dataset import SeriesDataset, Windows, windows
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


def _profiled(values_N: npt.NDArray[np.float32]) -> dict[str, Any]:
    return histogram(values_N, deciles(pd.Series(values_N)))
