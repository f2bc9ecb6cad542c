"""What a person sees in the MLflow and Prefect pages after a run, looked at with a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import browser
import pytest
from mlflow import MlflowClient
from playwright.sync_api import Locator, Page, expect

from flows.training import training

STAGES = ("ingest", "validate", "clean", "augment", "train", "compress", "export", "evaluate", "gate", "register")
# A seed of its own: a page shows the stages that really ran, not those another test has left in the cache.
SETTINGS = [
    "data.options.samples=600",
    "data.split.seed=4711",
    "training.epochs=2",
    "cleaning.label_issues=off",
    'compression.passes=["int8-static"]',
    "gates={}",
]

pytestmark = browser.needs_chromium


@pytest.fixture(scope="module")
def summary(servers: dict[str, str]) -> dict[str, Any]:
    return training("surface", assignments=SETTINGS)


@pytest.fixture(scope="module")
def mlflow_page(summary: dict[str, Any], servers: dict[str, str]) -> str:
    experiment = MlflowClient().get_run(summary["run_id"]).info.experiment_id
    return f"{servers['mlflow']}/#/experiments/{experiment}/runs/{summary['run_id']}"


@pytest.fixture(scope="module")
def prefect_page(summary: dict[str, Any]) -> str:
    (link,) = [link for link in summary["links"] if "flow-run" in link]
    return link.split()[-1]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.chromium() as started:
        yield started


@pytest.fixture
def page(summary: dict[str, Any], chromium: Any) -> Iterator[Page]:
    """A fresh page; it must do without any address but the two servers'."""
    page = chromium.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(90_000)
    expect.set_options(timeout=90_000)
    outside: list[str] = []
    page.on(
        "request", lambda request: urlsplit(request.url).hostname in (None, "127.0.0.1") or outside.append(request.url)
    )
    yield page
    page.close()
    assert not outside


def is_drawn(image: Locator) -> None:
    """The browser has decoded the image; a broken one has no width."""
    expect(image).to_be_visible()
    image.evaluate("image => image.decode()")
    assert image.evaluate("image => image.naturalWidth") > 100


def test_mlflow_shows_parameters_metrics_data_and_the_registered_version(
    page: Page, mlflow_page: str, summary: dict[str, Any]
) -> None:
    page.goto(mlflow_page)
    for text in ("training.epochs", "augmentation.policy", "test_accuracy", "parity_decision_agreement"):
        expect(page.get_by_text(text, exact=True)).to_be_visible()
    expect(page.get_by_text(f"v{summary['version']}", exact=True).first).to_be_visible()
    expect(page.get_by_text("surface (").first).to_be_visible()  # the dataset, with its digest


def test_mlflow_draws_the_learning_curves(page: Page, mlflow_page: str) -> None:
    page.goto(f"{mlflow_page}/model-metrics")
    page.get_by_placeholder("Search metric charts").fill("validation_loss")
    expect(page.locator(".scatterlayer .trace path").first).to_be_attached()


def test_mlflow_shows_data_docs(page: Page, mlflow_page: str) -> None:
    page.goto(f"{mlflow_page}/artifacts/validate/data_docs/index.html")
    docs = page.frame_locator("iframe")
    expect(docs.get_by_text("Expectation Validation Result").first).to_be_visible()
    expect(docs.get_by_text("Successful Expectations", exact=True).first).to_be_visible()


@pytest.mark.parametrize("plot", ["train/learning_curves.png", "compress/pareto.png", "evaluate/confusion_matrix.png"])
def test_mlflow_shows_plots(page: Page, mlflow_page: str, plot: str) -> None:
    page.goto(f"{mlflow_page}/artifacts/{plot}")
    is_drawn(page.locator("img[src^='blob:'], img[src*='get-artifact']").first)


def test_mlflow_shows_the_version_with_its_card(page: Page, servers: dict[str, str], summary: dict[str, Any]) -> None:
    page.goto(f"{servers['mlflow']}/#/models/surface/versions/{summary['version']}")
    expect(page.get_by_text("Intended use").first).to_be_visible()


def test_prefect_shows_a_task_run_for_every_stage(page: Page, prefect_page: str) -> None:
    page.goto(prefect_page)
    page.get_by_text("Task Runs", exact=True).first.click()
    for stage in STAGES:
        expect(page.get_by_role("link", name=stage, exact=True).first).to_be_visible()


def test_prefect_shows_the_artifacts_of_every_stage(page: Page, prefect_page: str) -> None:
    page.goto(prefect_page)
    page.get_by_text("Artifacts", exact=True).first.click()
    for stage in STAGES:
        expect(page.get_by_text(f"surface-{stage}", exact=True)).to_be_visible()


def test_prefect_draws_an_image_artifact(page: Page, prefect_page: str) -> None:
    page.goto(prefect_page)
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text("surface-evaluate-confusion-matrix", exact=True).click()
    is_drawn(page.locator("img[src^='data:image/png']").first)
