"""The OpenAPI page in a real browser: it asks for the key, loads nothing from elsewhere, and its example works."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import chromium, needs_chromium
from playwright.sync_api import Dialog, Page
from running_service import KEY, Running, prepare, running, write_classifier

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("service")
    with running(prepare(root, production=write_classifier(root / "one"))) as found:
        yield found


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as browser:
        found = browser.new_page(viewport={"width": 1280, "height": 1400})
        found.set_default_timeout(60_000)
        yield found


def test_a_person_tries_the_example_of_predict(service: Running, page: Page) -> None:
    asked_for: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked_for.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "Content Security Policy" in said.text else None)

    def present(dialog: Dialog) -> None:
        dialog.accept(KEY)

    page.on("dialog", present)
    page.goto(f"{service.client.base_url}/docs")
    predict = page.locator(".opblock", has=page.locator("[data-path='/predict']"))
    predict.locator(".opblock-summary-control").click()
    predict.get_by_role("button", name="Execute").click()
    answer = predict.locator(".live-responses-table .response").first
    answer.wait_for()

    assert answer.locator(".response-col_status").inner_text().startswith("200")
    assert '"label": "bright"' in answer.inner_text()
    assert not complaints
    assert all(url.startswith((str(service.client.base_url), "data:", "blob:")) for url in asked_for)
