"""The review queue of a running service, and its page as a person uses it in a real Chromium."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from browser import chromium, needs_chromium, page
from malformed import as_npy
from playwright.sync_api import Browser, Page, expect
from running_service import KEY, RAW, USECASE, VOLATILITY, Running, prepare, running, write_classifier, write_forecaster
from saved_feedback import prediction

from labline.feedback import FeedbackStore, feedback_key, new_id
from labline.review import BY_LOT, KEPT_APART, RANKED, lot
from serving.npy import read_npy

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
SIZE = 8


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A classifier whose first class is a hostile name."""
    root = tmp_path_factory.mktemp("service")
    version = write_classifier(root / "one")
    evaluation = version / "extra_files" / "evaluation.json"
    evaluation.write_text(json.dumps({"labels": [HOSTILE, "bright"]}))
    with running(prepare(root, production=version)) as found:
        yield found


@pytest.fixture(scope="module")
def forecasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("forecasting")
    point = VOLATILITY.replace('head = "gaussian"', 'head = "point"')
    with running(prepare(root, production=write_forecaster(root / "one", point))) as found:
        yield found


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service without a key whose declaration keeps no inputs."""
    root = tmp_path_factory.mktemp("forgetful")
    settings = prepare(root, production=write_classifier(root / "one", keep="features"))
    with running(settings, key="") as found:
        yield found


def answer(service: Running, brightness: float) -> str:
    """Let a grey image be classified; 127.5 is the most doubtful one. The client's reference is hostile too."""
    image = np.full((SIZE, SIZE, 1), brightness, np.uint8)
    image[0, 0] = np.random.default_rng().integers(0, 256)
    return str(service.post("/predict", image.tobytes(), RAW, **{"x-source": HOSTILE}).json()["id"])


def forecast(service: Running) -> str:
    window = np.random.default_rng(0).normal(0.2, 0.05, (1, 20, 2)).astype(np.float32)
    return str(service.post("/predict", as_npy(window), "application/x-npy").json()["predictions"][0]["id"])


def queue(service: Running, among: set[str]) -> list[dict[str, Any]]:
    """Those of some predictions that are in the queue, when they have arrived in the store."""
    store = FeedbackStore(service.settings.feedback)
    eventually(lambda: all(store.known(id) for id in among))
    return [pick for pick in service.client.get("/review/queue?count=100").json()["picks"] if pick["id"] in among]


def eventually(holds: Callable[[], object]) -> None:
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come true within a minute")


def labels(service: Running, id: str) -> list[tuple[str, str]]:
    return [(each.label, each.source) for each in FeedbackStore(service.settings.feedback).labels(id)]


def test_the_doubtful_is_asked_about_first_with_all_that_is_known_of_it(service: Running) -> None:
    sure, doubtful = (answer(service, brightness) for brightness in (250, 128))
    picks = queue(service, {sure, doubtful})

    by_id = {pick["id"]: pick for pick in picks}
    shown = by_id[doubtful]
    assert set(shown["probabilities"]) == {HOSTILE, "bright"}
    assert shown["confidence"] == max(shown["probabilities"].values()) < by_id[sure]["confidence"]
    assert (shown["version"], shown["reference"], shown["input"]) == ("1", HOSTILE, "image")
    assert set(shown["features"]) == {"mean", "std"}
    for pick in picks:
        assert pick["source"] == (BY_LOT if lot(pick["id"]) < KEPT_APART else RANKED)
    ranked = [pick["id"] for pick in picks if pick["source"] == RANKED]
    assert ranked == [id for id in (doubtful, sure) if id in ranked]


def test_inputs_are_what_the_model_saw(service: Running, forecasting: Running) -> None:
    image = service.client.get(f"/review/input/{answer_stored(service)}")
    assert (image.headers["content-type"], image.content[:4]) == ("image/png", b"\x89PNG")
    id = forecast(forecasting)
    (pick,) = queue(forecasting, {id})
    window = forecasting.client.get(f"/review/input/{id}").json()["window"]
    kept = FeedbackStore(forecasting.settings.feedback).inputs([id])[id]
    assert pick["input"] == "window" and pick["confidence"] is None
    np.testing.assert_array_equal(np.float32(window), read_npy(kept, "float32", "a window"))


def answer_stored(service: Running) -> str:
    id = answer(service, 128)
    eventually(lambda: FeedbackStore(service.settings.feedback).inputs([id]))
    return id


def test_an_input_that_was_not_kept_is_none(forgetful: Running) -> None:
    id = answer(forgetful, 128)
    (pick,) = queue(forgetful, {id})
    assert pick["input"] is None
    refused = forgetful.client.get(f"/review/input/{id}")
    assert (refused.status_code, refused.json()["error"]) == (404, "the input of this prediction was not kept")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/review/queue?count=0", 422),
        ("/review/queue?count=101", 422),
        ("/review/queue?count=²", 422),
        ("/review/input/" + "0" * 40, 404),
        ("/review/input/..%2f..%2fkey", 404),
        ("/review/other", 404),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(service: Running, path: str, status: int) -> None:
    refused = service.client.get(path)
    assert refused.status_code == status and refused.json()["error"]


def test_only_the_page_is_open(service: Running) -> None:
    with httpx.Client(base_url=service.client.base_url) as stranger:
        for path in ("/review/queue", f"/review/input/{answer(service, 128)}"):
            assert stranger.get(path).status_code == 401
        for path in ("/review", "/review/page.js", "/review/page.css"):
            told = stranger.get(path)
            assert told.status_code == 200
            assert told.headers["content-security-policy"].startswith("default-src 'self'; ")
            assert "unsafe" not in told.headers["content-security-policy"]


def test_predictions_of_a_version_that_is_gone_are_shown_too(service: Running) -> None:
    issued = new_id(feedback_key(service.settings.store / "serving", USECASE))
    other = prediction(USECASE, id=issued, version="17", outputs=(0.5, 0.3, 0.2))
    FeedbackStore(service.settings.feedback).write([other])
    (pick,) = queue(service, {other.id})
    assert (pick["version"], pick["probabilities"]) == ("17", None)


def test_a_store_that_is_down_is_told(tmp_path: Path) -> None:
    settings = prepare(tmp_path, production=write_classifier(tmp_path / "one"))
    with running(settings, feedback="postgresql://me:secret@/none?host=/nonexistent") as found:
        refused = found.client.get("/review/queue")
        found.process.kill()  # it would wait for the store
    assert refused.status_code == 503 and "retry-after" in refused.headers and "secret" not in refused.text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def person(browser: Browser) -> Iterator[Page]:
    with page(browser) as opened:
        yield opened


def opened(person: Page, service: Running) -> str:
    """Open the page, with the key, and return the id of the first item."""
    person.goto(f"http://127.0.0.1:{service.port}/review")
    person.get_by_label("The key of this service").fill(KEY)
    person.keyboard.press("Enter")
    return shown(person)


def shown(person: Page) -> str:
    """The id of the item that is shown, when it is."""
    expect(person.locator("dt", has_text="Id").last).to_be_visible()
    expect(person.locator("body")).not_to_have_attribute("aria-busy", "true")
    return person.locator("dl dd").last.inner_text()


@pytest.fixture
def several(service: Running) -> set[str]:
    """Some predictions that wait for a label."""
    ids = {answer(service, brightness) for brightness in range(110, 146, 3)}
    queue(service, ids)
    return ids


@needs_chromium
def test_a_person_labels_by_button_and_by_key(person: Page, service: Running, several: set[str]) -> None:
    first = opened(person, service)
    image = person.get_by_alt_text("The image that the model saw")
    assert image.evaluate("image => [image.naturalWidth, getComputedStyle(image).imageRendering]") == [8, "pixelated"]

    person.get_by_role("button", name="bright").click()
    expect(person.get_by_role("status")).to_have_text("Saved: bright")
    second = shown(person)
    person.keyboard.press("1")
    expect(person.get_by_text("2 labelled by you")).to_be_visible()

    assert len({first, second, shown(person)}) == 3
    eventually(lambda: labels(service, first) and labels(service, second))
    for id, label in ((first, "bright"), (second, HOSTILE)):
        assert labels(service, id) == [(label, BY_LOT if lot(id) < KEPT_APART else RANKED)]


@needs_chromium
def test_a_person_skips_and_goes_back_to_say_something_else(person: Page, service: Running, several: set[str]) -> None:
    first = opened(person, service)
    person.keyboard.press("2")
    expect(person.get_by_text("1 labelled by you")).to_be_visible()
    second = shown(person)
    person.get_by_role("button", name="Skip").click()
    expect(person.get_by_role("status")).to_have_text("Skipped")
    assert shown(person) not in (first, second)

    for _ in range(2):
        person.keyboard.press("b")
        shown(person)
    assert shown(person) == first
    expect(person.get_by_role("status")).to_contain_text("Your label is bright")
    person.keyboard.press("1")
    expect(person.get_by_role("status")).to_have_text(f"Saved: {HOSTILE}")

    assert shown(person) == second, "what was skipped comes again on the way"
    eventually(lambda: len(labels(service, first)) == 2)
    assert [label for label, _ in labels(service, first)] == ["bright", HOSTILE], "the latest counts, both are kept"
    assert labels(service, second) == []


@needs_chromium
def test_hostile_names_are_shown_as_text(person: Page, service: Running, several: set[str]) -> None:
    opened(person, service)
    expect(person.get_by_role("button", name=HOSTILE)).to_be_visible()
    expect(person.locator("dd", has_text=HOSTILE)).to_be_visible()
    assert person.title() == f"Review: {USECASE}"
    assert person.locator("img").count() == 1


@needs_chromium
def test_a_wrong_key_is_told_and_none_is_in_an_address(person: Page, service: Running, several: set[str]) -> None:
    asked: list[str] = []
    person.on("request", lambda request: asked.append(request.url))
    person.goto(f"http://127.0.0.1:{service.port}/review")
    person.get_by_label("The key of this service").fill("guessed")
    person.keyboard.press("Enter")
    expect(person.get_by_role("status")).to_have_text("This is not the key.")
    person.get_by_label("The key of this service").fill(KEY)
    person.keyboard.press("Enter")
    shown(person)
    person.reload()
    shown(person)
    assert asked and not any(KEY in address for address in asked)


@needs_chromium
def test_a_label_that_was_not_stored_can_be_sent_again(person: Page, service: Running, several: set[str]) -> None:
    person.route("**/feedback", lambda route: route.abort())  # before the page is: one that is loaded learns it late
    first = opened(person, service)
    person.keyboard.press("2")
    expect(person.get_by_role("alert")).to_contain_text("the service does not answer")
    assert shown(person) == first

    person.unroute("**/feedback")
    person.get_by_role("button", name="Try again").click()
    expect(person.get_by_text("1 labelled by you")).to_be_visible()
    expect(person.get_by_role("alert")).to_be_hidden()
    eventually(lambda: labels(service, first))


@needs_chromium
def test_a_forecast_is_shown_as_lines_and_labelled_with_a_number(person: Page, forecasting: Running) -> None:
    queue(forecasting, {forecast(forecasting)})
    id = opened(person, forecasting)
    charts = person.locator("#input svg")
    expect(charts).to_have_count(2)
    assert all(
        len(points.split()) == 20
        for points in charts.locator("polyline").evaluate_all("lines => lines.map(line => line.getAttribute('points'))")
    )
    person.get_by_label("What came true").fill("0.0175")
    person.get_by_role("button", name="Save").click()
    expect(person.get_by_text("1 labelled by you")).to_be_visible()
    eventually(lambda: labels(forecasting, id))
    assert labels(forecasting, id)[0][0] == "0.0175"


@needs_chromium
def test_without_a_key_and_without_inputs_the_page_says_what_is_missing(person: Page, forgetful: Running) -> None:
    queue(forgetful, {answer(forgetful, 120)})
    person.goto(f"http://127.0.0.1:{forgetful.port}/review")
    shown(person)
    expect(person.get_by_text('The input was not kept: the use case declares keep = "features"')).to_be_visible()
    while person.locator("#item").is_visible():
        id = shown(person)
        person.keyboard.press("s")
        expect(person.locator("#facts", has_text=id)).to_be_hidden()
    expect(person.get_by_text("Nothing is left to label")).to_be_visible()


@needs_chromium
def test_the_page_fits_a_phone_and_has_names_for_all_that_can_be_used(
    browser: Browser, service: Running, several: set[str]
) -> None:
    with page(browser, width=360, height=740) as phone:
        opened(phone, service)
        assert phone.evaluate("document.documentElement.scrollWidth") == 360
        for control in phone.locator("button:visible, input:visible, img:visible").all():
            named = "c => (c.textContent || c.alt || c.labels?.[0]?.textContent || '').trim()"
            assert control.evaluate(named)
        heights = phone.locator("button:visible").evaluate_all("all => all.map(b => b.offsetHeight)")
        assert min(heights) >= 44, "as large as a finger"
        assert phone.evaluate("document.activeElement.id") == "said"
