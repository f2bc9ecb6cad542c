"""The forecasting flow on real servers: the shipped index, a user's own CSV, and what ends in a message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from small_runs import invoke, written_table

from flows.forecasting import forecasting
from labline.export.onnx_runtime import session
from tests.labline.series.market import make_prices

pytestmark = pytest.mark.usefixtures("servers")

STAGES = ["ingest", "validate", "clean", "train", "compress", "export", "evaluate", "register"]
SMALL = ["training.epochs=2", 'export.formats=["onnx"]', "gates={}"]
WITH_TFLITE = ["training.epochs=2", "gates.p_better_than_garch={max=1.0}", "gates.p_worse_than_har={min=0.0}"]


@pytest.fixture(scope="module")
def trained(servers: dict[str, str]) -> dict[str, Any]:
    return forecasting("volatility", assignments=WITH_TFLITE)


def test_the_summary_says_what_the_run_came_to(trained: dict[str, Any]) -> None:
    assert trained["usecase"] == "volatility"
    assert [stage["name"] for stage in trained["stages"]] == STAGES
    tried = [(candidate["format"], candidate["name"]) for candidate in trained["candidates"]]
    assert tried == [(kind, name) for kind in ("onnx", "tflite") for name in ("fp32", "int8-dynamic")]
    assert trained["parity"]["tflite_decision_agreement"] == 1
    assert trained["unit"] == "windows"
    assert trained["parity"]["decision_agreement"] == 1
    assert [row["model"] for row in trained["rivals"]] == ["network", "har", "garch", "ewma"]
    assert trained["verdict"].startswith("The network ")


def test_the_mlflow_run_carries_the_comparison(trained: dict[str, Any]) -> None:
    client = MlflowClient()
    run = client.get_run(trained["run_id"])
    compared = {f"{model}_{loss}" for model in ("har", "garch", "ewma") for loss in ("qlike", "mse_log_variance")}
    tests = {"p_worse_than_har", "p_better_than_garch", "p_better_than_ewma", "kupiec_p", "christoffersen_p"}
    assert {"test_qlike", "test_mse", "test_qlike_low", "test_qlike_high"} | compared | tests <= set(run.data.metrics)
    for name, value in trained["metrics"].items():
        assert run.data.metrics[name] == pytest.approx(value)
    assert run.data.params["features.inputs"]
    assert len(client.get_metric_history(trained["run_id"], "validation_qlike")) == 2
    attached = {file.path for stage in STAGES for file in client.list_artifacts(trained["run_id"], stage)}
    assert {
        "validate/data_docs",
        "clean/quarantine.csv",
        "train/learning_curves.png",
        "compress/pareto.png",
        "evaluate/forecast_against_realized.png",
        "evaluate/value_at_risk.png",
        "evaluate/risk.csv",
        "register/model_card.md",
    } <= attached
    assert run.inputs.dataset_inputs[0].dataset.name == "volatility"


def test_the_version_carries_everything_and_answers_its_input_example(trained: dict[str, Any], tmp_path: Path) -> None:
    uri = f"models:/volatility/{trained['version']}"
    folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path)))
    carried = {path.name for path in folder.rglob("*")}
    assert {
        "model.onnx",
        "fp32.onnx",
        "model.tflite",
        "fp32.tflite",
        "model.safetensors",
        "usecase.toml",
        "baseline.json",
        "evaluation.json",
        "reference.parquet",
        "environment.json",
        "manifest.parquet",
        "model_card.md",
        "requirements.lock",
    } <= carried
    model = mlflow.pyfunc.load_model(uri)
    stored = model.input_example
    example = np.asarray(stored["windows"] if isinstance(stored, dict) else stored, dtype=np.float32)
    answered = model.predict({"windows": example})
    (expected,) = session(folder / "model.onnx").run(["forecast"], {"windows": example})
    np.testing.assert_allclose(answered["forecast"], expected, atol=1e-6)
    tags = MlflowClient().get_model_version("volatility", trained["version"]).tags
    assert {"qlike", "p_worse_than_har", "dataset.digest", "weights.sha256", "code.commit"} <= set(tags)


def test_a_second_run_takes_everything_from_the_cache(trained: dict[str, Any]) -> None:
    again = forecasting("volatility", assignments=WITH_TFLITE)
    assert all(stage["cached"] for stage in again["stages"])
    assert (again["version"], again["run_id"]) == (trained["version"], trained["run_id"])


def test_a_gate_refuses_and_names_the_figure() -> None:
    ended = invoke("run", "volatility", *(f"--set={text}" for text in SMALL), "--set=gates.qlike={max=0.01}", "--json")
    assert ended.code == 3
    assert "qlike is" in ended.err and "expected at most 0.01" in ended.err


# --- a user's own series -----------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> Callable[..., str]:
    """Declares a table of prices as an application of its own; the path of its declaration."""

    def declare(prices: pd.DataFrame, name: str = "shop", **features: str) -> str:
        prices.to_csv(tmp_path / "shop.csv", index=False)
        declared = {"inputs": '["log-return(close)", "log(parkinson(1))"]', "window": "5", "horizon": "2", **features}
        (tmp_path / "shop.toml").write_text(
            f'name = "{name}"\ntitle = "A shop"\nmodality = "series"\n'
            f'[data]\nsource = "csv"\npath = "{tmp_path}/shop.csv"\n'
            'values = ["open", "high", "low", "close", "volume"]\n'
            "[features]\n" + "".join(f"{key} = {value}\n" for key, value in declared.items()) + "[compression]\n"
            'passes = []\n[export]\nformats = ["onnx"]\n[model]\narchitecture = "rnn"\nwidth = 0.25\n'
            "[training]\nepochs = 2\n"
        )
        return str(tmp_path / "shop.toml")

    return declare


def prices_of(days: int = 600) -> pd.DataFrame:
    return make_prices(days).drop(columns="entity")


def test_a_csv_ends_registered_beside_its_rivals(shop: Callable[..., str]) -> None:
    ended = invoke("run", shop(prices_of()), "--json")
    assert ended.code == 0, ended.err
    assert (ended.summary["usecase"], ended.summary["version"]) == ("shop", "1")
    assert {"test_qlike", "har_qlike", "garch_qlike", "ewma_qlike"} <= set(ended.summary["metrics"])


def test_a_csv_of_directions_is_classified_and_compared_with_nobody(shop: Callable[..., str]) -> None:
    declaration = shop(prices_of(), "directions", target='"direction"')
    ended = invoke("run", declaration, "--set=task=classification", "--set=model.head=classes", "--json")
    assert ended.code == 0, ended.err
    assert 0 <= ended.summary["metrics"]["test_accuracy"] <= 1
    assert ended.summary["rivals"] == [] and "Not compared" in ended.summary["verdict"]


def test_faulty_rows_go_to_quarantine_and_the_rest_goes_on(shop: Callable[..., str]) -> None:
    prices = prices_of()
    prices = prices.drop(index=range(100, 103)).astype({"close": object})  # missing days
    prices.loc[200, "close"] = "closed"  # text in a column of numbers
    prices = pd.concat([prices, prices.loc[[300]].assign(close=1.0, low=0.9), prices.loc[[310]]])  # two of one moment
    ended = invoke("check", shop(prices, "faulty"), "--json")
    assert ended.code == 0, ended.err
    refused = written_table("faulty", "clean", "quarantine")
    assert set(refused["expectation"]) >= {"number", "duplicate timestamp"}
    assert "expected a finite number, found 'closed'" in " ".join(refused["reason"])
    assert len(refused) == ended.summary["quarantined"] == 1 + 2 + 1


def test_mixed_time_zones_go_to_quarantine(shop: Callable[..., str]) -> None:
    prices = prices_of().astype({"date": str})
    prices.loc[:9, "date"] += "T00:00:00-05:00"
    ended = invoke("check", shop(prices, "zones"), "--json")
    assert ended.code == 0, ended.err
    assert ended.summary["quarantined"] == 10
    assert set(written_table("zones", "ingest", "quarantine")["expectation"]) == {"time-zone"}


@pytest.mark.parametrize(
    ("prices", "told"),
    [
        (prices_of(10), ["has 10 rows; expected at least"]),
        (prices_of().assign(open=9.0, high=9.0, low=9.0, close=9.0), ["max_rejected", "has not stood still"]),
        (prices_of().assign(volume=7.0), ["feature 'volume' is 7 at all", "expected values that vary"]),
        (prices_of().assign(close="closed"), ["line 2, column 'close'", "'closed' is no number"]),
        (prices_of().drop(columns="high"), ["no column 'high'"]),
        (prices_of().drop(columns="date"), ["no column 'date'"]),
    ],
    ids=["ten rows", "constant price", "constant feature", "text", "no column", "no time"],
)
def test_what_cannot_be_used_ends_in_one_message(
    shop: Callable[..., str], prices: pd.DataFrame, told: list[str]
) -> None:
    declaration = shop(prices, "unusable", inputs='["log-return(close)", "log(parkinson(1))", "volume"]')
    ended = invoke("run", declaration, "--json")
    assert ended.code == 2
    assert ended.summary["exit_code"] == 2
    for part in told:
        assert part in ended.err


def test_a_head_that_does_not_fit_the_target_is_refused_before_anything_slow() -> None:
    ended = invoke("check", "volatility", "--set=model.head=classes")
    assert ended.code == 2
    assert "expected gaussian, quantile or point" in ended.err
