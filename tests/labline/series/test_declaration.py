from __future__ import annotations

import tomllib
from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from labline.errors import BadInput
from labline.series.declaration import Features, Network, SeriesCleaning, SeriesData, SeriesSplit, embargo_rows

VOLATILITY = """
[data]
source = "sp500"
split = { train_until = 2009-12-31, validation_until = 2013-12-31 }

[cleaning]
gaps = "drop"

[features]
inputs = ["log-return(close)", "log(garman-klass(1))", "log(garman-klass(5))", "log(garman-klass(22))"]
window = 22
target = "realized-volatility"
horizon = 5

[model]
architecture = "lstm"
head = "gaussian"
"""


def test_volatility_is_declared_like_this() -> None:
    declared = tomllib.loads(VOLATILITY)
    data, features = SeriesData(**declared["data"]), Features(**declared["features"])
    assert data.split.train_until == date(2009, 12, 31)
    assert SeriesCleaning(**declared["cleaning"]).gaps == "drop" and Network(**declared["model"]).head == "gaussian"
    assert features.columns == features.positive_columns == ("close", "high", "low", "open")
    assert features.rows_needed == 22 + 21
    assert embargo_rows(data.split, features) == 27


@pytest.mark.parametrize(
    ("section", "keys", "message"),
    [
        (SeriesSplit, {"train_until": "2010-01-01"}, "go together"),
        (SeriesSplit, {"train_until": "2010-01-01", "validation_until": "2009-01-01"}, "must lie before"),
        (SeriesSplit, {"train": 0.8, "validation": 0.2}, "leave a share for test"),
        (SeriesData, {"source": "csv", "time_zone": "America/New_Yrok"}, "did you mean 'America/New_York'"),
        (SeriesData, {"source": "csv", "colour": 1}, "Extra inputs are not permitted"),
        (Features, {"inputs": []}, "at least 1 item"),
        (Features, {"inputs": ["lag(x,2)", "lag(x, 2)"]}, "declared twice"),
        (Features, {"inputs": ["garman-klas(2)"]}, "position 1.*did you mean 'garman-klass'"),
        (Network, {"quantiles": [0.5, 0.1]}, "must rise"),
    ],
)
def test_what_cannot_be_is_refused(section: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        section(**keys)


def test_an_embargo_shorter_than_the_horizon_would_leak() -> None:
    with pytest.raises(BadInput, match="embargo = 4 lets targets .* at least features.horizon = 5"):
        embargo_rows(SeriesSplit(embargo=4), Features(inputs=["close"], horizon=5))
