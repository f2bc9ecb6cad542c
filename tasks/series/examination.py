"""A forecaster before its test rows: figures measured anew, and how it compares with another version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from labline.errors import BadInput
from labline.gates import Judgement
from labline.series.gates import judge_forecasts
from labline.series.usecase import SeriesUseCase
from tasks.version import Version, open_test_series

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from labline.evaluation import Interval
    from labline.series.comparison import ForecastComparison
    from labline.series.dataset import SeriesDataset, Windows


@dataclass(frozen=True)
class ForecasterExamination:
    """A forecaster and the data set it was judged on; a `tasks.judging.Examination`."""

    version: Version
    declaration: SeriesUseCase
    data: SeriesDataset

    def figures(self) -> tuple[dict[str, float], dict[str, Interval]]:
        """The metrics with their intervals and, of volatility, the tests against HAR, GARCH(1,1) and EWMA."""
        from labline.series.assessment import assess, rows_after_training
        from labline.series.weights import forecast_settings

        later = rows_after_training(self.data)
        found, _ = assess(self.data, later, _forecasts(self.version, later), forecast_settings(self.declaration))
        return found.metrics, found.intervals

    def samples(self, most: int) -> npt.NDArray[Any]:
        """The first test windows."""
        import numpy as np

        from labline.series.dataset import windows

        test = windows(self.data, "test")
        return test.batch(np.arange(min(most, len(test))))[0]

    def comparable(self, champion: Version) -> bool:
        """Whether both forecast the same; from what, and in what shape, may differ."""
        ours, theirs = self.declaration, cast(SeriesUseCase, champion.declaration)
        return isinstance(champion.declaration, SeriesUseCase) and _forecast(ours) == _forecast(theirs)

    def compare(self, champion: Version) -> ForecastComparison:
        """Both on the test windows that end after whatever the champion was trained and selected on.

        Raises BadInput where there are none, or the champion's features cannot be computed on these rows.
        """
        from labline.series.comparison import compare_forecasts
        from labline.series.weights import forecast_settings, selected_metric

        theirs = cast(SeriesUseCase, champion.declaration)
        our_windows, their_windows = self._unseen(champion, theirs)
        rows = self.data.manifest.iloc[our_windows.indices].reset_index(drop=True)
        return compare_forecasts(
            _forecasts(champion, their_windows),
            _forecasts(self.version, our_windows),
            self.data.targets[our_windows.indices],
            rows,
            self.declaration.features.horizon,
            (forecast_settings(theirs), forecast_settings(self.declaration)),
            selected_metric(self.declaration)[0],
            confidence=self.declaration.promotion.confidence,
        )

    def judge(self, champion: Version) -> list[Judgement]:
        """Non-inferiority, and the entity that loses most where there are several."""
        return judge_forecasts(self.compare(champion), self.declaration.promotion, f"version {champion.number}")

    def _unseen(self, champion: Version, theirs: SeriesUseCase) -> tuple[Windows, Windows]:
        """The same test windows as each of the two sees them, without those the champion was trained on."""
        import pandas as pd

        from labline.series.comparison import champion_windows
        from labline.series.dataset import Windows, windows

        test = windows(self.data, "test")
        rows = pd.read_parquet(champion.extra / "manifest.parquet", columns=["timestamp", "split"])
        # Its embargo too: targets of its validation split reach into it.
        seen_until = rows.loc[rows["split"] != "test", "timestamp"].max()
        later = (self.data.manifest["timestamp"].iloc[test.indices] > seen_until).to_numpy()
        unseen = Windows(test.features, test.targets, test.indices[later], test.window)
        their_windows, complete = champion_windows(self.data, unseen, theirs.features)
        if not complete.any():
            raise BadInput(
                f"version {champion.number} was trained until {seen_until:%Y-%m-%d}, and version {self.version.number} "
                "has no test window after that which both can be asked about"
            )
        return Windows(unseen.features, unseen.targets, unseen.indices[complete], unseen.window), their_windows


def examine_forecaster(version: Version, declaration: SeriesUseCase) -> ForecasterExamination:
    """Open the version's data set; raises BadInput where it cannot be had."""
    return ForecasterExamination(version, declaration, open_test_series(version))


def _forecasts(version: Version, windows: Windows) -> npt.NDArray[np.float32]:
    """What a version's released file forecasts for windows."""
    from labline.export.onnx_runtime import session
    from labline.series.export import onnx_forecasts

    return onnx_forecasts(session(version.onnx, threads=0), windows)


def _forecast(declaration: SeriesUseCase) -> tuple[str, str, int]:
    """What is forecast."""
    return declaration.features.target, declaration.features.price, declaration.features.horizon
