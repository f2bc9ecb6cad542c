"""Take the README's screenshots from a real run.

With `labline ui` serving the store of the run, hand over the two links that the run printed:

    labline run surface --fresh
    python docs/screenshots.py MLFLOW_RUN_LINK PREFECT_FLOW_RUN_LINK

With `labline serve` answering, without a key, hand over its address; for the review page after it has seen some images:

    python docs/screenshots.py openapi http://127.0.0.1:8080
    python docs/screenshots.py review http://127.0.0.1:8080
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
SIZE = {"width": 1440, "height": 900}
# What a visitor's first click does: put MLflow's assistant away, read Prefect in daylight.
FIRST_CLICKS = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("color-scheme", JSON.stringify("light"));
"""


def take_screenshots(mlflow_run: str, prefect_flow_run: str) -> None:
    """Write mlflow-run.png and prefect-flow-run.png."""
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        mlflow = _page(browser)
        address, _, query = mlflow_run.partition("?")
        mlflow.goto(f"{address}/model-metrics?{query}")
        mlflow.get_by_placeholder("Search metric charts").fill("^(step|train|validation)_|learning_rate")
        mlflow.locator(".scatterlayer .trace path").nth(3).wait_for(state="attached")
        _save(mlflow, "mlflow-run")
        prefect = _page(browser)
        prefect.goto(prefect_flow_run)
        prefect.get_by_text("Artifacts", exact=True).first.click()
        prefect.get_by_text("-register", exact=False).first.wait_for()
        _save(prefect, "prefect-flow-run")
        browser.close()


def take_openapi_screenshot(service: str) -> None:
    """Write openapi.png: the example of /predict, tried out."""
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        openapi = browser.new_page(viewport={"width": 1100, "height": 1680})
        openapi.goto(f"{service}/docs")
        predict = openapi.locator(".opblock", has=openapi.locator("[data-path='/predict']"))
        predict.locator(".opblock-summary-control").click()
        predict.get_by_role("button", name="Execute").click()
        answer = predict.locator(".live-responses-table .response").first
        answer.wait_for()
        predict.locator("textarea").evaluate("editor => { editor.style.minHeight = 0; editor.style.height = '150px'; }")
        openapi.evaluate("scrollTo(0, 0)")
        _save(openapi, "openapi")
        browser.close()


def take_review_screenshot(service: str) -> None:
    """Write review.png."""
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        review = browser.new_page(viewport={"width": 1100, "height": 800})
        review.goto(f"{service}/review")
        review.locator("#item").wait_for()
        review.keyboard.press("s")  # what was skipped can be gone back to
        review.locator("#back:enabled").wait_for()
        _save(review, "review")
        browser.close()


def _page(browser: Browser) -> Page:
    page = browser.new_page(viewport=SIZE)
    page.add_init_script(FIRST_CLICKS)
    page.set_default_timeout(90_000)
    return page


def _save(page: Page, name: str) -> None:
    page.wait_for_timeout(4_000)  # charts ease in
    page.screenshot(path=IMAGES / f"{name}.png")


if __name__ == "__main__":
    pages = {"openapi": take_openapi_screenshot, "review": take_review_screenshot}
    if sys.argv[1] in pages:
        pages[sys.argv[1]](sys.argv[2])
    else:
        take_screenshots(*sys.argv[1:3])
